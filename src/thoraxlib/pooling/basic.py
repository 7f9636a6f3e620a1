"""Average and maximum over all locations."""

from __future__ import annotations

import torch
from torch import Tensor

from thoraxlib.pooling import register
from thoraxlib.pooling.base import Pool

__all__ = ["AvgPool", "MaxPool"]


@register("avg")
class AvgPool(Pool):
    """Mean over all locations, (N, C, h, w) -> (N, C)."""

    def forward(self, x: Tensor) -> Tensor:
        """Pool `x`, (N, C, h, w), to (N, C)."""
        if not torch.is_grad_enabled():
            return x.mean(dim=(2, 3))
        # the same, but its gradient is a view of one value per channel: cheap for heat maps of many labels
        total = x.sum(dim=(2, 3), dtype=torch.promote_types(x.dtype, torch.float32))
        return (total / (x.shape[2] * x.shape[3])).to(x.dtype)


@register("max")
class MaxPool(Pool):
    """Maximum over all locations, (N, C, h, w) -> (N, C)."""

    def forward(self, x: Tensor) -> Tensor:
        """Pool `x`, (N, C, h, w), to (N, C)."""
        return x.amax(dim=(2, 3))
