"""Heat maps as jaydurant/ChestX-ray_classification_and_localization draws them."""

from __future__ import annotations

import torch
from torch import Tensor

from thoraxlib.localization.maps import normalize, upsample


def to_uint8(maps: Tensor, size: tuple[int, int] | int | None = None) -> Tensor:
    """Convert each map of (N, K, h, w) to uint8: min-max, times 255, truncated, and only then enlarged.

    The result is coarser than enlarging first (:func:`thoraxlib.localization.maps.upsample`,
    :func:`thoraxlib.localization.maps.normalize`); it is equal to the original's within one grey level.

    Parameters
    ----------
    maps : Tensor
        (N, K, h, w).
    size : int or (int, int), optional
        Size of the result.
    """
    levels = (normalize(maps) * 255).to(torch.uint8)
    return levels if size is None else upsample(levels.float(), size).round().to(torch.uint8)
