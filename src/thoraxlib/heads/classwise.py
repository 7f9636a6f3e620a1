"""A linear head with separate attention, vector and norm for each label."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from thoraxlib import layers
from thoraxlib.heads import register
from thoraxlib.heads.base import one_map
from thoraxlib.heads.linear import LinearHead
from thoraxlib.layers.attention import Attention
from thoraxlib.layers.pooling import expansion, per_label
from thoraxlib.registry import Spec


@register("classwise")
class ClasswiseHead(LinearHead):
    """For each label: attention, pooling, norm, one row of a linear layer; (N, C, h, w) -> (N, K).

    The head of jfhealthcare/Chexpert and of the PCAM model of alinstein/X_RAY. Its attention is *cumulative*: the loop
    over labels overwrites the map with the attended one. So for label k (from 0) the attention layer, with one set of
    weights, is applied k + 1 times, and the order of labels matters. Published weights need this. In new models, put
    the layer before the head instead (``attention_mode="once"``).

    As in the originals, the weights start at N(0, 0.01) and the bias at 0.

    Parameters
    ----------
    in_channels : int
        C.
    num_labels : int
        K.
    pool : str, mapping or nn.Module
        From :mod:`thoraxlib.layers.pooling`, or any module (N, C, h, w) -> (N, C).
    attention : str, mapping or nn.Module, optional
        From :mod:`thoraxlib.layers`, applied once more for each label.
    norm : bool
        Batch norm of each label's vector ("fc_bn"); per-location logits do not include it.
    dropout : float
        Rate on the vectors, in training.

    Raises
    ------
    ValueError
        Several maps of a fusion.
    """

    def __init__(
        self,
        in_channels: int,
        num_labels: int,
        *,
        pool: Spec | nn.Module = "pcam",
        attention: Spec | nn.Module | None = None,
        norm: bool = False,
        dropout: float = 0.0,
    ) -> None:
        one_map("classwise", in_channels)
        super().__init__(in_channels, num_labels, pool=pool, dropout=dropout)
        self.attention = None if attention is None else layers.registry.resolve(attention, in_channels=in_channels)
        # one batch norm for all labels: each number is normalised on its own
        self.norm = nn.BatchNorm1d(num_labels * in_channels * expansion(self.pool)) if norm else None
        nn.init.normal_(self.fc.weight, std=0.01)
        nn.init.zeros_(self.fc.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Compute the logits (N, K)."""
        if self.attention is None and self.norm is None:
            return super().forward(features)
        vectors = torch.cat([self._vectors(attended, rows) for attended, rows in self._attended(features)], dim=1)
        if self.norm is not None:
            vectors = self.norm(vectors.flatten(1)).view_as(vectors)
        return self.classify(vectors)

    def logit_maps(self, features: Tensor, *, bias: bool = True) -> Tensor:
        """Compute per-location logits (N, K, h, w), each label's from its own attended map."""
        logits = super().logit_maps
        return torch.cat([logits(x, bias=bias)[:, rows] for x, rows in self._attended(features)], dim=1)

    def checkpoint_keys(self, keys: Iterable[str]) -> dict[str, str]:
        """Map each own state-dict key to its counterpart among a published checkpoint's `keys`, if it has one."""
        if not isinstance(self.attention, Attention):
            return {}
        return {f"attention.{own}": theirs for own, theirs in self.attention.checkpoint_keys(keys).items()}

    def _attended(self, features: Tensor) -> list[tuple[Tensor, slice]]:
        """Return attended maps, each with the labels that it is for."""
        if self.attention is None:
            return [(features, slice(None))]
        pairs = []
        for k in range(self.fc.out_features):
            features = self.attention(features)
            pairs.append((features, slice(k, k + 1)))
        return pairs

    def _vectors(self, features: Tensor, rows: slice) -> Tensor:
        """Pool to vectors (N, labels, C) of the labels `rows`."""
        if per_label(self.pool):
            vectors: Tensor = self.pool(features, super().logit_maps(features)[:, rows])
            return vectors
        return self.pool(features)[:, None].expand(-1, len(range(self.fc.out_features)[rows]), -1)  # type: ignore[no-any-return]
