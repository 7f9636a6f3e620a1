"""Resize heat maps, stretch them to [0, 1], and select pixels by a threshold."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def check_maps(maps: Tensor) -> None:
    """Raise ValueError unless maps are (N, K, h, w) with finite values, and at least one pixel each."""
    if maps.ndim != 4 or not maps.shape[2] or not maps.shape[3]:
        raise ValueError(f"maps must be (N, K, h, w), with at least one pixel, got {tuple(maps.shape)}")
    flat = maps.detach().float().flatten(2)
    bad = (~(flat.amax(dim=2) - flat.amin(dim=2)).isfinite()).nonzero().tolist()
    if bad:
        raise ValueError(
            f"maps hold NaN or infinite values, or too large a range, e.g. the map of (image, label) {tuple(bad[0])}"
        )


def upsample(maps: Tensor, size: tuple[int, int] | int) -> Tensor:
    """Resize maps (N, K, h, w) to `size` (H, W): bilinear, half-pixel centres. Call it before :func:`normalize`."""
    size = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
    low = maps.flatten(-2).amin(dim=-1)[..., None, None]
    # the lowest value is subtracted first, so that a constant map stays exactly constant
    return F.interpolate(maps - low, size=size, mode="bilinear", align_corners=False).add_(low)


def normalize(maps: Tensor) -> Tensor:
    """Stretch each map of (..., h, w) to [0, 1]; a constant map becomes 0."""
    flat = maps.flatten(-2)
    low, high = flat.amin(dim=-1)[..., None, None], flat.amax(dim=-1)[..., None, None]  # aminmax is five times slower
    return (maps - low) / torch.where(high > low, high - low, 1)


def above_otsu(levels: Tensor) -> Tensor:
    """Select the pixels above each map's Otsu threshold, bool (P, h, w).

    `levels` (P, h, w) are grey levels from 0 to 255; their fractions are dropped.
    """
    whole = levels.to(torch.uint8)
    return whole > otsu(whole.flatten(1)).to(torch.uint8)[:, None, None]


def above_percentile(values: Tensor, percentile: float) -> Tensor:
    """Select the pixels above a percentile of each map's values (P, h, w), interpolated as in NumPy: bool (P, h, w)."""
    flat = values.flatten(1)
    # the percentile lies between two neighbours of the sorted values, so comparing with the lower one is the same
    lower = flat.kthvalue(int(percentile / 100 * (flat.shape[1] - 1)) + 1, dim=1).values
    return values > lower[:, None, None]


def otsu(levels: Tensor) -> Tensor:
    """Otsu threshold of each row of 8-bit values (P, n): the largest value of the lower class, int64 (P,).

    If several thresholds maximise the variance between the classes, the first is returned; for a row of equal values, 0
    (Otsu 1979, IEEE Trans. SMC 9). Sums are integers, so equal variances compare as equal: the results are OpenCV's.

    Parameters
    ----------
    levels : Tensor
        Values from 0 to 255, of any integer type.
    """
    if levels.device.type == "cpu" and not torch.compiler.is_compiling() and len(levels):
        counts = torch.stack([torch.bincount(row, minlength=256) for row in levels])  # faster than scatter_add
    else:
        index = levels.long()
        counts = index.new_zeros(len(levels), 256).scatter_add_(1, index, index.new_ones(1).expand_as(index))
    below, moment = counts.cumsum(dim=1), (counts * torch.arange(256, device=levels.device)).cumsum(dim=1)
    number, total = below[:, -1:], moment[:, -1:]
    weight = (below * (number - below)).double()
    between = (moment * number - total * below).double().square() / weight.clamp(min=1)
    return between.argmax(dim=1)
