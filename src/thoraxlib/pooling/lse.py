"""Log-sum-exp pooling."""

from __future__ import annotations

import math

from torch import Tensor

from thoraxlib.pooling import register
from thoraxlib.pooling.base import Pool

__all__ = ["LSEPool", "lse_pool"]


def lse_pool(x: Tensor, r: float = 10.0) -> Tensor:
    r"""Log-sum-exp over all locations: ``log(mean(exp(r x))) / r``, (N, C, h, w) -> (N, C).

    Between the mean (r -> 0) and the maximum (r -> infinity); Wang et al. 2017 (arXiv 1705.02315), equation 2, after
    Pinheiro & Collobert 2015. Shifted by the maximum, not by the largest absolute value of their equation 3, which
    underflows on negative maps. Computed in float32 at least, also under autocast. The gradient is softmax(r x).

    Parameters
    ----------
    x : Tensor
        (N, C, h, w).
    r : float
        Sharpness, > 0 and finite.
    """
    wide = x if x.dtype.itemsize >= 4 else x.float()
    # the maximum cancels out, so it is a constant for the gradient
    peak = wide.amax(dim=(2, 3), keepdim=True).detach()
    pooled = ((wide - peak) * r).exp().mean(dim=(2, 3)).log() / r + peak.flatten(1)
    return pooled.to(x.dtype)


@register("lse")
class LSEPool(Pool):
    """Log-sum-exp pooling with sharpness `r`, (N, C, h, w) -> (N, C); see :func:`lse_pool`.

    Raises
    ------
    ValueError
        `r` is not positive and finite.
    """

    def __init__(self, r: float = 10.0) -> None:
        super().__init__()
        if not (r > 0 and math.isfinite(r)):
            raise ValueError(
                f"r must be positive and finite (use pooling 'avg' for r -> 0, 'max' for infinity), got {r!r}"
            )
        self.r = float(r)

    def forward(self, x: Tensor) -> Tensor:
        """Pool `x`, (N, C, h, w), to (N, C)."""
        return lse_pool(x, self.r)

    def extra_repr(self) -> str:
        """What ``repr`` shows."""
        return f"r={self.r:g}"
