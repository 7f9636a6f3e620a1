"""Means weighted by the map itself: EXP and LINEAR."""

from __future__ import annotations

from torch import Tensor

from thoraxlib.pooling import register
from thoraxlib.pooling.base import Pool

__all__ = ["ExpPool", "LinearPool"]


@register("exp")
class ExpPool(Pool):
    """``sum(x exp(x)) / sum(exp(x))``, (N, C, h, w) -> (N, C): a mean that high places dominate.

    EXP of jfhealthcare/Chexpert, as a softmax, which cannot overflow (without its 1e-7 in the denominator, which is at
    least 1). Computed in float32 at least, also under autocast.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Pool `x`, (N, C, h, w), to (N, C)."""
        flat = x.flatten(2) if x.dtype.itemsize >= 4 else x.flatten(2).float()
        return (flat.softmax(dim=2) * flat).sum(dim=2).to(x.dtype)


@register("linear")
class LinearPool(Pool):
    """``sum(x^2) / (sum(x) + eps)``, (N, C, h, w) -> (N, C): a mean weighted by the values themselves.

    LINEAR of jfhealthcare/Chexpert. For maps that are not negative; the sum of a signed one may come close to 0, and
    the result then grows without bound. Computed in float32 at least, also under autocast.

    Parameters
    ----------
    eps : float
        > 0; an empty map has 0.

    Raises
    ------
    ValueError
        `eps` is not positive.
    """

    def __init__(self, eps: float = 1e-7) -> None:
        super().__init__()
        if not eps > 0:
            raise ValueError(f"eps must be positive, got {eps!r}")
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Pool `x`, (N, C, h, w), to (N, C)."""
        wide = x if x.dtype.itemsize >= 4 else x.float()
        return (wide.square().sum(dim=(2, 3)) / (wide.sum(dim=(2, 3)) + self.eps)).to(x.dtype)
