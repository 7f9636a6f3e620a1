"""Pooling, then a linear layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from thoraxlib.heads import register
from thoraxlib.heads.base import Features, Head
from thoraxlib.layers import pooling
from thoraxlib.layers.pooling import expansion, per_label
from thoraxlib.registry import Spec


class LinearClassifier(Head):
    """``W pool(features) + b`` for heads that say in :meth:`classifier` what W and b are.

    Of several maps, each is pooled, and their vectors are put side by side.

    Parameters
    ----------
    in_channels : int or sequence of int
        C, or those of several maps.
    pool : str, mapping or nn.Module
        From :mod:`thoraxlib.layers.pooling`, or any module (N, C, h, w) -> (N, C).
    dropout : float
        Before the linear layer, in training.

    Attributes
    ----------
    in_features : int
        Columns of W.

    Raises
    ------
    ValueError
        A pooling that weighs locations for each label ("pcam"), and several maps.
    """

    def __init__(
        self, in_channels: int | Sequence[int], *, pool: Spec | nn.Module = "avg", dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.pool = pooling.registry.resolve(pool)
        self.dropout = nn.Dropout(dropout)
        self.channels = (in_channels,) if isinstance(in_channels, int) else tuple(in_channels)
        self.in_features = sum(self.channels) * expansion(self.pool)
        if per_label(self.pool) and len(self.channels) > 1:
            raise ValueError(
                f"pool {type(self.pool).__name__} weighs the places of one map for each label; these are "
                f"{len(self.channels)} maps: use 'avg', 'max' or 'lse'"
            )

    def classifier(self) -> tuple[Tensor, Tensor | None]:
        """W (K, in_features) and b (K,), or None for no b."""
        raise NotImplementedError

    def forward(self, features: Any) -> Tensor:
        """Logits (N, K)."""
        if per_label(self.pool):
            maps = self.logit_maps(features)
            if self.training and self.dropout.p > 0:
                return self.classify(self.pool(features, maps))
            logits: Tensor = self.pool(maps)  # the same, without vectors
            return logits
        vector = self.vector(features)
        if self.training:
            vector = self.dropout(vector)
        return F.linear(vector, *self.classifier())

    def vector(self, features: Features) -> Tensor:
        """The pooled maps side by side, (N, in_features)."""
        if isinstance(features, Tensor):
            pooled: Tensor = self.pool(features)
            return pooled
        return torch.cat([self.pool(part) for part in features], dim=1)

    def classify(self, vectors: Tensor) -> Tensor:
        """Logits (N, K) of a vector for each label, (N, K, C)."""
        weight, bias = self.classifier()
        logits: Tensor = (self.dropout(vectors) * weight).sum(dim=2)
        return logits if bias is None else logits + bias

    def logit_maps(self, features: Any, *, bias: bool = True) -> Tensor:
        """``W features + b`` at every location, (N, K, h, w); with average pooling its mean is the logit.

        Of several maps, the sum of what each adds, on the grid of the first, the finest: a cell of a coarser map adds
        the same to all cells in it.

        Raises
        ------
        NotImplementedError
            The pooling widens its vector ("avg_max"): no location has one that W fits.
        """
        if expansion(self.pool) != 1:
            raise NotImplementedError(
                f"{type(self).__name__} with {type(self.pool).__name__} has no per-location logits: its vector is "
                f"{expansion(self.pool)} times as wide as the map; use a gradient-based CAM"
            )
        weight, constant = self.classifier()
        parts = (features,) if isinstance(features, Tensor) else tuple(features)
        columns = torch.split(weight[:, :, None, None], list(self.channels), dim=1)
        total, *coarser = (F.conv2d(part, of_map) for part, of_map in zip(parts, columns, strict=True))
        for maps in coarser:
            total = total + F.interpolate(maps, (total.shape[-2], total.shape[-1]), mode="nearest-exact")
        return total if constant is None or not bias else total + constant[:, None, None]


@register("linear")
class LinearHead(LinearClassifier):
    """``W pool(features) + b``: (N, C, h, w) -> (N, K).

    With a pooling that weighs locations for each label ("pcam"), row k of W sees the vector of label k.

    Parameters
    ----------
    in_channels : int or sequence of int
        C, or those of several maps.
    num_labels : int
        K.
    pool : str, mapping or nn.Module
        From :mod:`thoraxlib.layers.pooling`, or any module (N, C, h, w) -> (N, C).
    dropout : float
        Before the linear layer, in training.
    """

    def __init__(
        self,
        in_channels: int | Sequence[int],
        num_labels: int,
        *,
        pool: Spec | nn.Module = "avg",
        dropout: float = 0.0,
    ) -> None:
        super().__init__(in_channels, pool=pool, dropout=dropout)
        self.fc = nn.Linear(self.in_features, num_labels)

    def classifier(self) -> tuple[Tensor, Tensor | None]:
        """Weight and bias of the layer."""
        return self.fc.weight, self.fc.bias
