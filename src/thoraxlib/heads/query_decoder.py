"""A head with a transformer that has a query for each label, in parallel to a linear layer."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from thoraxlib.heads import register
from thoraxlib.heads.base import Head, one_map
from thoraxlib.heads.linear import LinearHead
from thoraxlib.registry import Spec


def sine_positions(height: int, width: int, channels: int, *, like: Tensor | None = None) -> Tensor:
    """Compute position embeddings of a map from sines and cosines, (1, channels, height, width).

    Carion et al. 2020 (DETR, arXiv 2005.12872): the first half of the channels encodes the row, the second half the
    column. Rows and columns are counted from 1 and scaled so that the last one is 2 pi. Channels 2 i and 2 i + 1 are
    sine and cosine of this number, divided by ``10000 ** (2 i / (channels / 2))``.

    Parameters
    ----------
    height, width : int
        Size of the map.
    channels : int
        A multiple of 4.
    like : Tensor, optional
        Tensor whose device and dtype the result gets; default float32 on the CPU.

    Raises
    ------
    ValueError
        `channels` is no multiple of 4.
    """
    if channels % 4:
        raise ValueError(f"channels must be a multiple of 4, got {channels}")
    device = None if like is None else like.device
    rates = 10000 ** (torch.arange(0, channels // 2, 2, device=device) / (channels // 2))

    def encoded(size: int) -> Tensor:
        angles = torch.arange(1, size + 1, device=device) / (size + 1e-6) * 2 * math.pi / rates[:, None]
        return torch.stack([angles.sin(), angles.cos()], dim=1).flatten(0, 1)

    rows = encoded(height)[:, :, None].expand(-1, -1, width)
    columns = encoded(width)[:, None, :].expand(-1, height, -1)
    return torch.cat([rows, columns])[None].to(torch.float32 if like is None else like.dtype)


class AttentionLayer(nn.TransformerEncoderLayer):
    """Attention and a feed-forward network, each with a shortcut and then a layer norm: (N, L, D) -> (N, L, D).

    Vaswani et al. 2017 (arXiv 1706.03762), section 3.1. It has the parameters of torch's encoder layer, but may attend
    to another sequence, and adds the positions only to queries and keys, as DETR does.
    """

    def forward(self, x: Tensor, positions: Tensor, memory: Tensor, memory_positions: Tensor) -> Tensor:  # type: ignore[override]
        """Attend from `x` (N, L, D) to `memory` (N, M, D), each with its positions, (N, ..., D) or (1, ..., D)."""
        attended, _ = self.self_attn(x + positions, memory + memory_positions, memory, need_weights=False)
        x = self.norm1(x + self.dropout1(attended))
        hidden = self.dropout(self.linear1(x).relu())
        out: Tensor = self.norm2(x + self.dropout2(self.linear2(hidden)))
        return out


class LabelwiseLinear(nn.Linear):
    """Row of weights for each label's own vector, (N, K, D) -> (N, K)."""

    def forward(self, vectors: Tensor) -> Tensor:
        """Compute the logits (N, K)."""
        return (vectors * self.weight).sum(dim=2) + self.bias


@register("query_decoder")
class QueryDecoderHead(Head):
    """``u linear(features) + v decoder(features) + c``, with u, v and c for each label: (N, C, h, w) -> (N, K).

    VTNet of QUST-SmartData/CXRClassification: a linear layer on the pooled map, and the transformer of Query2Label (Liu
    et al. 2021, arXiv 2107.10834) on the map itself. The transformer's encoder attends between the locations of the
    map, projected to D channels. In its decoder, a learned query for each label attends to the locations; there is no
    attention between queries. A row of weights for each label turns the result into a logit.

    Parameters
    ----------
    in_channels : int
        C.
    num_labels : int
        K.
    pool : str, mapping or nn.Module
        Pooling before the linear layer; from :mod:`thoraxlib.layers.pooling`.
    channels : int
        D, a multiple of 4 and of `attention_heads`.
    encoder_layers, decoder_layers : int
        Number of layers.
    attention_heads : int
        Attention heads of each layer.
    hidden : int
        Units of the feed-forward layers.
    dropout : float
        Rate in the transformer, in training.

    Raises
    ------
    ValueError
        `channels` that are no multiple of 4 and of `attention_heads`, or several maps of a fusion.
    """

    def __init__(
        self,
        in_channels: int,
        num_labels: int,
        *,
        pool: Spec | nn.Module = "avg",
        channels: int = 512,
        encoder_layers: int = 3,
        decoder_layers: int = 6,
        attention_heads: int = 8,
        hidden: int = 2048,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        one_map("query_decoder", in_channels)
        if channels % 4 or channels % attention_heads:
            raise ValueError(
                f"channels must be a multiple of 4 and of attention_heads={attention_heads}, got {channels}"
            )
        self.linear = LinearHead(in_channels, num_labels, pool=pool)
        self.input_proj = nn.Conv2d(in_channels, channels, 1)
        self.encoder, self.decoder = (
            nn.ModuleList(
                AttentionLayer(channels, attention_heads, hidden, dropout, batch_first=True) for _ in range(count)
            )
            for count in (encoder_layers, decoder_layers)
        )
        self.norm = nn.LayerNorm(channels)
        self.queries = nn.Parameter(torch.randn(num_labels, channels))
        self.labelwise = LabelwiseLinear(channels, num_labels)
        self.linear_share = nn.Parameter(torch.full((num_labels,), 0.5))
        self.decoder_share = nn.Parameter(torch.full((num_labels,), 0.5))
        self.constant = nn.Parameter(torch.zeros(num_labels))
        for parameter in [*self.encoder.parameters(), *self.decoder.parameters()]:
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(self, features: Tensor) -> Tensor:
        """Compute the logits (N, K)."""
        decoded = self.labelwise(self.decode(features))
        logits: Tensor = self.linear_share * self.linear(features) + self.decoder_share * decoded + self.constant
        return logits

    def decode(self, features: Tensor) -> Tensor:
        """Compute a vector for each label, (N, K, D), from the map (N, C, h, w)."""
        memory = self.input_proj(features)
        _, channels, height, width = memory.shape
        positions = sine_positions(height, width, channels, like=memory).flatten(2).mT
        memory = memory.flatten(2).mT
        for layer in self.encoder:
            memory = layer(memory, positions, memory, positions)
        queries = self.queries[None]
        x = queries.new_zeros(features.shape[0], *self.queries.shape)  # len(features) would fix it for torch.export
        for layer in self.decoder:
            x = layer(x, queries, memory, positions)
        decoded: Tensor = self.norm(x)
        return decoded
