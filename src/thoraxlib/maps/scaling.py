"""What is done to maps afterwards: enlarge, bring to [0, 1], to 8 bits."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["normalize", "to_uint8", "upsample"]


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


def to_uint8(maps: Tensor, size: tuple[int, int] | int | None = None) -> Tensor:
    """Each map of (N, K, h, w) as uint8, as jaydurant/ChestX-ray_classification_and_localization makes its pictures.

    Min-max, times 255, cut off to whole numbers, and only then enlarged: coarser than enlarging first
    (:func:`upsample`, :func:`normalize`), and here for parity; equal to the original within one grey level.

    Parameters
    ----------
    maps : Tensor
        (N, K, h, w).
    size : int or (int, int), optional
        Of the result.
    """
    levels = (normalize(maps) * 255).to(torch.uint8)
    return levels if size is None else upsample(levels.float(), size).round().to(torch.uint8)
