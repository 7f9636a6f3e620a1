"""Feature map -> heat: one number for each place."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

#: What is taken over the K channels of (N, K, h, w). A mean in place of a sum changes nothing: heat is stretched.
STATISTICS: dict[str, Callable[[Tensor], Tensor]] = {
    "max_abs": lambda features: features.abs().amax(dim=1),
    "l1": lambda features: features.abs().sum(dim=1),
    "l2": lambda features: features.square().sum(dim=1).sqrt(),
    "sum": lambda features: features.sum(dim=1),
}


def heat(features: Tensor, statistic: str | Callable[[Tensor], Tensor] = "max_abs") -> Tensor:
    """Heat (N, h, w) of a feature map (N, K, h, w), each map stretched to [0, 1]; a constant map becomes 0.

    Guan et al. 2018 (arXiv 1801.09927), section III-B, for the first three of the statistics:

    ========= ==========================================================
    max_abs   the largest absolute value
    l1, l2    the norm, of which a constant factor does not matter
    sum       the sum with its sign: Ien001/AG-CNN
    ========= ==========================================================

    A map of one channel, such as a label's heat map, is heat already: its highest value is the hottest, whatever its
    sign and the statistic's name.

    Computed in float32 at least, also under autocast: half a precision moves the boxes. A map with values that are not
    finite becomes 0 too.

    Parameters
    ----------
    features : Tensor
        (N, K, h, w), floating point.
    statistic : str or callable
        One of these, or a function (N, K, h, w) -> (N, h, w).
    """
    wide = features if features.dtype.itemsize >= 4 else features.float()
    if isinstance(statistic, str):
        statistic = STATISTICS["sum" if features.shape[1] == 1 else statistic]
    raw = statistic(wide)
    low, high = (extreme[:, None, None] for extreme in raw.flatten(1).aminmax(dim=1))
    span = high - low
    # comparisons with NaN are false
    return torch.where((span > 0) & (span < float("inf")), (raw - low) / span, 0.0)
