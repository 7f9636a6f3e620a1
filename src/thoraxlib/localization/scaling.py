"""Enlarge maps, and bring them to [0, 1]."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def upsample(maps: Tensor, size: tuple[int, int] | int) -> Tensor:
    """Maps (N, K, h, w) at another size (H, W): bilinear, half-pixel centres. Enlarge first, normalise then."""
    size = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
    low = maps.flatten(-2).amin(dim=-1)[..., None, None]
    # counted from the lowest value, so that a constant map stays exactly constant
    return F.interpolate(maps - low, size=size, mode="bilinear", align_corners=False).add_(low)


def normalize(maps: Tensor) -> Tensor:
    """Each map of (..., h, w) stretched to [0, 1]; a constant map becomes 0."""
    flat = maps.flatten(-2)
    low, high = flat.amin(dim=-1)[..., None, None], flat.amax(dim=-1)[..., None, None]  # aminmax is five times slower
    # where all values are the smallest one, whatever they are divided by gives 0
    return (maps - low) / torch.where(high > low, high - low, 1)
