"""Average and maximum over all locations."""

from __future__ import annotations

from torch import Tensor

from thoraxlib.pooling import register
from thoraxlib.pooling.base import Pool

__all__ = ["AvgPool", "MaxPool"]


@register("avg")
class AvgPool(Pool):
    """Mean over all locations, (N, C, h, w) -> (N, C)."""

    def forward(self, x: Tensor) -> Tensor:
        """Pool `x`, (N, C, h, w), to (N, C)."""
        return x.mean(dim=(2, 3))


@register("max")
class MaxPool(Pool):
    """Maximum over all locations, (N, C, h, w) -> (N, C)."""

    def forward(self, x: Tensor) -> Tensor:
        """Pool `x`, (N, C, h, w), to (N, C)."""
        return x.amax(dim=(2, 3))
