"""Several poolings side by side."""

from __future__ import annotations

import torch
from torch import Tensor

from thoraxlib.pooling import register
from thoraxlib.pooling.base import Pool
from thoraxlib.pooling.lse import LSEPool

__all__ = ["AvgMaxLSEPool", "AvgMaxPool"]


@register("avg_max")
class AvgMaxPool(Pool):
    """Mean, then maximum, (N, C, h, w) -> (N, 2 C): AVG_MAX of jfhealthcare/Chexpert."""

    expansion = 2

    def forward(self, x: Tensor) -> Tensor:
        """Pool `x`, (N, C, h, w), to (N, 2 C)."""
        return torch.cat([x.mean(dim=(2, 3)), x.amax(dim=(2, 3))], dim=1)


@register("avg_max_lse")
class AvgMaxLSEPool(Pool):
    """Mean, maximum, then log-sum-exp, (N, C, h, w) -> (N, 3 C): AVG_MAX_LSE of jfhealthcare/Chexpert.

    Parameters
    ----------
    r : float
        Of :class:`thoraxlib.pooling.lse.LSEPool`; that repository's is 0.5.
    """

    expansion = 3

    def __init__(self, r: float = 10.0) -> None:
        super().__init__()
        self.lse = LSEPool(r)

    def forward(self, x: Tensor) -> Tensor:
        """Pool `x`, (N, C, h, w), to (N, 3 C)."""
        return torch.cat([x.mean(dim=(2, 3)), x.amax(dim=(2, 3)), self.lse(x)], dim=1)
