"""Crops for test-time averaging."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["ten_crop"]


def ten_crop(x: Tensor, size: int | tuple[int, int]) -> Tensor:
    """The four corners and the centre of each image, then the same five of the mirrored image.

    Parameters
    ----------
    x : Tensor
        (N, C, H, W).
    size : int or (int, int)
        Height and width (h, w) of a crop, in pixels.

    Returns
    -------
    Tensor
        (N, 10, C, h, w): top left, top right, bottom left, bottom right, centre; then those of ``x.flip(-1)``.

    Raises
    ------
    ValueError
        `x` is not (N, C, H, W), or a crop is empty or larger than the image.

    Examples
    --------
    >>> ten_crop(torch.zeros(2, 3, 256, 320), 224).shape
    torch.Size([2, 10, 3, 224, 224])
    """
    h, w = (size, size) if isinstance(size, int) else size
    if x.ndim != 4:
        raise ValueError(f"x must be (N, C, H, W), got shape {tuple(x.shape)}")
    height, width = x.shape[-2:]
    if not (0 < h <= height and 0 < w <= width):
        raise ValueError(f"size must be positive and at most the image's ({height}, {width}), got ({h}, {w})")
    bottom, right = height - h, width - w
    corners = [(0, 0), (0, right), (bottom, 0), (bottom, right), (round(bottom / 2), round(right / 2))]
    sides = (x, x.flip(-1))
    return torch.stack([side[..., top : top + h, left : left + w] for side in sides for top, left in corners], dim=1)
