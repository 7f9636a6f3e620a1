"""Pick the pixels of heat maps that count; rules of crops and rules of boxes share this."""

from __future__ import annotations

import torch
from torch import Tensor


def above_otsu(levels: Tensor) -> Tensor:
    """Pick the pixels above each map's Otsu level: grey levels 0 to 255, cut off to whole ones, (P, h, w) to bool."""
    whole = levels.to(torch.uint8)
    return whole > otsu(whole.flatten(1)).to(torch.uint8)[:, None, None]


def above_percentile(values: Tensor, percentile: float) -> Tensor:
    """Pick the pixels above a percentile of each map, as NumPy interpolates it: (P, h, w) to bool.

    The percentile lies between two neighbours of the sorted values; nothing is between them, so the lower one will do.
    """
    flat = values.flatten(1)
    lower = flat.kthvalue(int(percentile / 100 * (flat.shape[1] - 1)) + 1, dim=1).values
    return values > lower[:, None, None]


def otsu(levels: Tensor) -> Tensor:
    """For each row of grey levels 0 to 255, (P, n) of any integer type, the last level of the lower class, int64 (P,).

    Of the levels that maximise the variance between the two classes it is the first, and 0 for a row of one level
    (Otsu 1979, IEEE Trans. SMC 9). Sums are whole numbers, so that equal variances are equal: OpenCV's level exactly.
    """
    counts = _histograms(levels)
    level = torch.arange(256, device=levels.device)
    below, moment = counts.cumsum(dim=1), (counts * level).cumsum(dim=1)
    number, total = below[:, -1:], moment[:, -1:]
    weight = (below * (number - below)).double()
    between = (moment * number - total * below).double().square() / weight.clamp(min=1)
    best = between.amax(dim=1, keepdim=True)
    return torch.where(between == best, level, 255).amin(dim=1)  # argmax may give any of equal ones


def _histograms(levels: Tensor) -> Tensor:
    """How often each level is in each row: int64 (P, 256)."""
    counts = torch.zeros(len(levels), 256, dtype=torch.int64, device=levels.device)
    if levels.device.type == "cpu" and not torch.compiler.is_compiling():  # which does not know how long a count is
        for count, row in zip(counts, levels, strict=True):
            count += torch.bincount(row, minlength=256)  # several times faster than scattering ones
        return counts
    places = levels.long()
    return counts.scatter_add_(1, places, places.new_ones(1).expand_as(places))
