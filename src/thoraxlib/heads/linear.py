"""Linear heads: pooling, then a linear layer; or a 1x1 convolution, then pooling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from thoraxlib.heads import register
from thoraxlib.heads.base import Features, Head, one_map
from thoraxlib.layers import pooling
from thoraxlib.layers.pooling import expansion, per_label
from thoraxlib.registry import Spec


class LinearClassifier(Head):
    """Base class of linear heads, ``W pool(features) + b``; subclasses return W and b from :meth:`classifier`.

    If there are several maps, each is pooled, and the vectors are concatenated.

    Parameters
    ----------
    in_channels : int or sequence of int
        C; several numbers for several maps.
    pool : str, mapping or nn.Module
        From :mod:`thoraxlib.layers.pooling`, or any module (N, C, h, w) -> (N, C).
    dropout : float
        Rate before the linear layer, in training.

    Attributes
    ----------
    in_features : int
        Columns of W.

    Raises
    ------
    ValueError
        Several maps, and a pooling with separate weights for each label ("pcam").
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
                f"pool {type(self.pool).__name__} weighs the locations of one map for each label, and there are "
                f"{len(self.channels)} maps: use 'avg', 'max' or 'lse'"
            )

    def classifier(self) -> tuple[Tensor, Tensor | None]:
        """Return W (K, in_features) and b (K,), or None for no b."""
        raise NotImplementedError

    def forward(self, features: Any) -> Tensor:
        """Compute the logits (N, K)."""
        if per_label(self.pool):
            maps = self.logit_maps(features)
            if self.training and self.dropout.p > 0:
                return self.classify(self.pool(features, maps))
            logits: Tensor = self.pool(maps)  # equal, without computing the vectors
            return logits
        vector = self.vector(features)
        if self.training:
            vector = self.dropout(vector)
        return F.linear(vector, *self.classifier())

    def vector(self, features: Features) -> Tensor:
        """Pool the maps and concatenate the vectors, (N, in_features)."""
        if isinstance(features, Tensor):
            pooled: Tensor = self.pool(features)
            return pooled
        return torch.cat([self.pool(part) for part in features], dim=1)

    def classify(self, vectors: Tensor) -> Tensor:
        """Compute the logits (N, K) of vectors (N, K, C), one for each label."""
        weight, bias = self.classifier()
        logits: Tensor = (self.dropout(vectors) * weight).sum(dim=2)
        return logits if bias is None else logits + bias

    def logit_maps(self, features: Any, *, bias: bool = True) -> Tensor:
        """Compute ``W features + b`` at every location, (N, K, h, w); with average pooling, its mean is the logit.

        The logits of several maps are added up on the grid of the first, finest map; coarser ones are resized to it
        (nearest neighbour).

        Raises
        ------
        NotImplementedError
            The pooled vector is wider than the map ("avg_max"), so that W does not fit the vector of a location.
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

    If the pooling has separate weights for each label ("pcam"), row k of W is applied to the vector of label k.

    Parameters
    ----------
    in_channels : int or sequence of int
        C; several numbers for several maps.
    num_labels : int
        K.
    pool : str, mapping or nn.Module
        From :mod:`thoraxlib.layers.pooling`, or any module (N, C, h, w) -> (N, C).
    dropout : float
        Rate before the linear layer, in training.
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
        """Return weight and bias of the layer."""
        return self.fc.weight, self.fc.bias


@register("map")
class MapHead(Head):
    """``pool(W features + b)``: a logit map for each label, pooled to one logit, (N, C, h, w) -> (N, K).

    Parameters
    ----------
    in_channels : int
        C.
    num_labels : int
        K.
    pool : str, mapping or nn.Module
        From :mod:`thoraxlib.layers.pooling`, or any module (N, K, h, w) -> (N, K). With "pcam", this is the head of
        PCAM.
    dropout : float
        Rate on whole channels of the features, in training.

    Raises
    ------
    ValueError
        Several maps of a fusion, or a pooling with more than one number for each map ("avg_max").
    """

    def __init__(
        self, in_channels: int, num_labels: int, *, pool: Spec | nn.Module = "lse", dropout: float = 0.0
    ) -> None:
        super().__init__()
        one_map("map", in_channels)
        self.dropout = nn.Dropout2d(dropout)
        self.conv = nn.Conv2d(in_channels, num_labels, 1)
        self.pool = pooling.registry.resolve(pool)
        if expansion(self.pool) != 1:
            raise ValueError(
                f"pool {type(self.pool).__name__} gives {expansion(self.pool)} numbers for each map, and the head "
                "'map' needs one logit; use the head 'linear'"
            )

    def forward(self, features: Tensor) -> Tensor:
        """Compute the logits (N, K)."""
        logits: Tensor = self.pool(self.logit_maps(self.dropout(features)))
        return logits

    def logit_maps(self, features: Tensor, *, bias: bool = True) -> Tensor:
        """Compute per-location logits (N, K, h, w)."""
        return F.conv2d(features, self.conv.weight, self.conv.bias if bias else None)
