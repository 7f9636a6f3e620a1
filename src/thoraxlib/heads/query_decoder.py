"""A transformer with a query for each label, beside a linear layer."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from thoraxlib.heads import register
from thoraxlib.heads.base import Head, one_map
from thoraxlib.heads.linear import LinearHead
from thoraxlib.registry import Spec


def sine_positions(height: int, width: int, channels: int, *, like: Tensor | None = None) -> Tensor:
    """Code of the places of a map by sines and cosines, (1, channels, height, width).

    Carion et al. 2020 (DETR, arXiv 2005.12872): the first half of the channels stands for the row, the
    second for the column, each counted from 1, over the last one's, times 2 pi; channels 2 i and 2 i + 1 are sine and
    cosine of that over ``10000 ** (2 i / (channels / 2))``.

    Parameters
    ----------
    height, width : int
        Of the map.
    channels : int
        A multiple of 4.
    like : Tensor, optional
        Device and dtype; default float32 on the CPU.

    Raises
    ------
    ValueError
        `channels` is no multiple of 4.
    """
    if channels % 4:
        raise ValueError(f"channels must be a multiple of 4, got {channels}")
    device = None if like is None else like.device
    rates = 10000 ** (torch.arange(0, channels // 2, 2, device=device) / (channels // 2))

    def code(size: int) -> Tensor:
        places = torch.arange(1, size + 1, device=device) / (size + 1e-6) * 2 * math.pi
        angles = places / rates[:, None]
        return torch.stack([angles.sin(), angles.cos()], dim=1).flatten(0, 1)

    rows = code(height)[:, :, None].expand(-1, -1, width)
    columns = code(width)[:, None, :].expand(-1, height, -1)
    return torch.cat([rows, columns])[None].to(torch.float32 if like is None else like.dtype)


class AttentionLayer(nn.Module):
    """Attention and a feed-forward layer, a layer norm behind each sum: (N, L, D) -> (N, L, D).

    Vaswani et al. 2017 (arXiv 1706.03762), section 3.1. Places are added to queries and keys alone, as in DETR.

    Parameters
    ----------
    channels : int
        D.
    heads : int
        Of the attention.
    hidden : int
        Units of the feed-forward layer.
    dropout : float
        On the attention's weights and behind each layer, in training.
    """

    def __init__(self, channels: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(channels, heads, dropout, batch_first=True)
        self.linear1 = nn.Linear(channels, hidden)
        self.linear2 = nn.Linear(hidden, channels)
        self.norm1 = nn.LayerNorm(channels)
        self.norm2 = nn.LayerNorm(channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, places: Tensor, memory: Tensor, memory_places: Tensor) -> Tensor:
        """Let `x` (N, L, D) look at `memory` (N, M, D); each has its places, (N, ..., D) or (1, ..., D)."""
        seen, _ = self.attention(x + places, memory + memory_places, memory, need_weights=False)
        x = self.norm1(x + self.dropout(seen))
        out: Tensor = self.norm2(x + self.dropout(self.linear2(self.dropout(self.linear1(x).relu()))))
        return out


class LabelwiseLinear(nn.Module):
    """A row of weights for each label's own vector: (N, K, D) -> (N, K).

    Parameters
    ----------
    num_labels, channels : int
        K and D.
    """

    def __init__(self, num_labels: int, channels: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(channels)
        self.weight = nn.Parameter(torch.empty(num_labels, channels).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(num_labels).uniform_(-bound, bound))

    def forward(self, vectors: Tensor) -> Tensor:
        """Logits (N, K)."""
        return (vectors * self.weight).sum(dim=2) + self.bias


@register("query_decoder")
class QueryDecoderHead(Head):
    """``u linear(features) + v decoder(features) + c``, label by label: (N, C, h, w) -> (N, K).

    QUST-SmartData/CXRClassification, VTNet: a linear layer on the pooled map, and the transformer of Query2Label (Liu
    et al. 2021, arXiv 2107.10834) on the map itself. There, the places of the map, D channels wide, look
    at one another (encoder); then a learned query for each label looks at them (decoder, without attention among the
    queries); a row of weights for each label makes its result a logit.

    Parameters
    ----------
    in_channels : int
        C.
    num_labels : int
        K.
    pool : str, mapping or nn.Module
        Of the linear layer; from :mod:`thoraxlib.layers.pooling`.
    channels : int
        D, a multiple of 4 and of `attention_heads`.
    encoder_layers, decoder_layers : int
        Number of layers.
    attention_heads : int
        Of each layer.
    hidden : int
        Units of the feed-forward layers.
    dropout : float
        In the transformer, in training.

    Raises
    ------
    ValueError
        `channels` that fit neither the position code nor the attention heads; several maps, of a fusion.
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
            nn.ModuleList(AttentionLayer(channels, attention_heads, hidden, dropout) for _ in range(count))
            for count in (encoder_layers, decoder_layers)
        )
        self.norm = nn.LayerNorm(channels)
        self.queries = nn.Parameter(torch.randn(num_labels, channels))
        self.labelwise = LabelwiseLinear(num_labels, channels)
        self.linear_share = nn.Parameter(torch.full((num_labels,), 0.5))
        self.decoder_share = nn.Parameter(torch.full((num_labels,), 0.5))
        self.constant = nn.Parameter(torch.zeros(num_labels))
        for parameter in [*self.encoder.parameters(), *self.decoder.parameters()]:
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(self, features: Tensor) -> Tensor:
        """Logits (N, K)."""
        decoded = self.labelwise(self.decode(features))
        logits: Tensor = self.linear_share * self.linear(features) + self.decoder_share * decoded + self.constant
        return logits

    def decode(self, features: Tensor) -> Tensor:
        """A vector for each label, (N, K, D), from the map (N, C, h, w)."""
        memory = self.input_proj(features)
        _, channels, height, width = memory.shape
        places = sine_positions(height, width, channels, like=memory).flatten(2).mT
        memory = memory.flatten(2).mT
        for layer in self.encoder:
            memory = layer(memory, places, memory, places)
        queries = self.queries[None]
        x = queries.new_zeros(features.shape[0], *self.queries.shape)  # len(features) would fix it for torch.export
        for layer in self.decoder:
            x = layer(x, queries, memory, places)
        decoded: Tensor = self.norm(x)
        return decoded
