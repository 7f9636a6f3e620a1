"""Boxes cut out of images and enlarged, and what was seen in them put back."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["crop_and_resize", "paste"]


def crop_and_resize(images: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """What images (N, C, H, W) show in a box each, at `size`: (N, C, *size).

    Bilinear with half-pixel centres, and nothing from beyond the box: what cutting and
    :func:`torch.nn.functional.interpolate` one by one would give. Differentiable with respect to the images.

    Parameters
    ----------
    images : Tensor
        Floating point; half a precision is computed in float32.
    boxes : Tensor
        int64 (N, 4): x1, y1, x2, y2 in pixels, x2 and y2 exclusive; inside the image, not empty.
    size : (int, int)
        (H', W') of the result.
    """
    wide = images if images.dtype.itemsize >= 4 else images.float()
    x1, y1, x2, y2 = boxes.unbind(dim=1)
    columns = _places(x1, x2, images.shape[3], size[1], wide.dtype)
    grid = _grid(columns, _places(y1, y2, images.shape[2], size[0], wide.dtype))
    with torch.autocast(images.device.type, enabled=False):
        return F.grid_sample(wide, grid, padding_mode="border", align_corners=False).to(images.dtype)


def _places(low: Tensor, high: Tensor, length: int, out: int, dtype: torch.dtype) -> Tensor:
    """Where along an axis of `length` pixels to sample [low, high) in `out` steps, (N, out), from -1 to 1.

    Sampled is at low + (d + 1/2)(high - low) / out - 1/2, not beyond the centres of the outermost pixels; counted in
    whole numbers until the last division.
    """
    low, high = low[:, None], high[:, None]
    step = torch.arange(out, device=low.device)
    place = 2 * low * out + (2 * step + 1) * (high - low)
    place = torch.minimum(torch.maximum(place, (2 * low + 1) * out), (2 * high - 1) * out)
    return (place - length * out).to(dtype) / (length * out)


def _grid(columns: Tensor, rows: Tensor) -> Tensor:
    """Places (N, W) and (N, H) along the axes as those of :func:`torch.nn.functional.grid_sample`, (N, H, W, 2)."""
    shape = (-1, rows.shape[1], columns.shape[1])
    return torch.stack([columns[:, None, :].expand(shape), rows[:, :, None].expand(shape)], dim=-1)


def paste(maps: Tensor, windows: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps of crops, (N, K, h, w), in the frame of the whole images: (N, K, *size), bilinear, 0 beyond the window.

    Parameters
    ----------
    maps : Tensor
        E.g. class activation maps of the crops.
    windows : Tensor
        (N, 4): x1, y1, x2, y2, the edges of what each crop shows, in the image's pixels; ``crop.window`` has them.
    size : (int, int)
        (H, W) of the images.
    """
    wide = maps if maps.dtype.itemsize >= 4 else maps.float()
    x1, y1, x2, y2 = windows.to(wide.dtype).unbind(dim=1)
    grid = _grid(_shares(x1, x2, size[1]), _shares(y1, y2, size[0]))
    with torch.autocast(maps.device.type, enabled=False):
        full = F.grid_sample(wide, grid, padding_mode="border", align_corners=False)
    return torch.where((grid.abs() <= 1).all(dim=-1)[:, None], full, 0.0).to(maps.dtype)


def _shares(low: Tensor, high: Tensor, length: int) -> Tensor:
    """How far each of `length` pixels' centres is on the way from `low` (-1) to `high` (1): (N, length)."""
    centre = torch.arange(length, device=low.device, dtype=low.dtype) + 0.5
    return (2 * centre - (low + high)[:, None]) / (high - low)[:, None]
