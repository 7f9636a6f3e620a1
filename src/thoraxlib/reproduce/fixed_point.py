"""Enlarge 8-bit maps in whole numbers, as OpenCV does."""

from __future__ import annotations

import torch
from torch import Tensor

_BITS = 11  # of a weight


def upsample_uint8(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize grey levels (N, h, w) to (H, W): OpenCV's bilinear resize of 8-bit images, bit for bit.

    Weights have 11 bits; 4 bits are dropped between columns and rows, and each of the two rows is truncated, so that
    the result is often one level below the rounded one. Ordinary interpolation changes every sixth box of AG-CNN.

    Parameters
    ----------
    maps : Tensor
        Whole numbers 0 to 255, of any integer type.
    size : (int, int)
        Size of the result.

    Returns
    -------
    Tensor
        int32 (N, H, W).
    """
    low, high, near, far = (t.to(maps.device) for t in _taps(maps.shape[2], size[1], clamp=True))
    maps = maps.int()
    wide = (maps[:, :, low] * near + maps[:, :, high] * far) >> 4
    low, high, near, far = (t.to(maps.device) for t in _taps(maps.shape[1], size[0], clamp=False))
    above = wide.index_select(1, low).mul_(near[:, None]).bitwise_right_shift_(16)
    below = wide.index_select(1, high).mul_(far[:, None]).bitwise_right_shift_(16)
    return above.add_(below).add_(2).bitwise_right_shift_(2)


def _taps(size: int, out: int, clamp: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Two input positions of each output position, and their weights; columns clamp the position, rows the indices."""
    position = ((torch.arange(out, dtype=torch.float64) + 0.5) * size / out - 0.5).float()
    if clamp:
        position = position.clamp(0, size - 1)
    low = position.floor()
    far = position - low
    low = low.long()
    near, far = ((2**_BITS * weight).round().int() for weight in (1 - far, far))
    return low.clamp(0, size - 1), (low + 1).clamp(0, size - 1), near, far
