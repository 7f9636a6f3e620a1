"""Boxes cut out of images and enlarged, and what was seen in them put back."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["Taps", "across", "by_parts", "crop_and_resize", "down", "paste", "taps"]

_VALUES = 2**19  # of the images that are cut at once on a CPU


def crop_and_resize(images: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """What images (N, C, H, W) show in a box each, at `size`: (N, C, H', W').

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
    return by_parts(_crop_and_resize, images, boxes, size)


def _crop_and_resize(images: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    wide = images if images.dtype.itemsize >= 4 else images.float()
    x1, y1, x2, y2 = boxes.unbind(dim=1)
    rows, columns = taps(y1, y2, size[0], wide.dtype), taps(x1, x2, size[1], wide.dtype)
    return across(down(wide, rows), columns).to(images.dtype)


def by_parts(
    cut: Callable[[Tensor, Tensor, tuple[int, int]], Tensor], images: Tensor, boxes: Tensor, size: tuple[int, int]
) -> Tensor:
    """``cut(images, boxes, size)``, on a CPU a few images at a time.

    What fits the cache is several times faster than fresh memory for each step. With gradients it is one step: cutting
    their way back into parts costs more.
    """
    whole = torch.compiler.is_compiling() or images.device.type != "cpu"
    if whole or (images.requires_grad and torch.is_grad_enabled()):
        return cut(images, boxes, size)
    n, step = len(images), max(1, _VALUES // images[0:1].numel()) if len(images) else 1
    if n <= step:
        return cut(images, boxes, size)
    crops = images.new_empty(n, images.shape[1], *size)
    for part in (slice(start, start + step) for start in range(0, n, step)):
        crops[part] = cut(images[part], boxes[part], size)
    return crops


class Taps(NamedTuple):
    """For each place along an axis the two pixels that it lies between, int64, and the second one's share: (N, L)."""

    first: Tensor
    second: Tensor
    share: Tensor


def taps(low: Tensor, high: Tensor, length: int, dtype: torch.dtype, margin: int = 0) -> Taps:
    """[low, high), int64 (N,), stretched over `length` places and a `margin` at either end, which is left out.

    Place d is at ``low + (d + 1/2) (high - low) / (length + 2 margin) - 1/2``, not beyond the centres of the outermost
    pixels; counted in whole numbers until the last division.
    """
    low, span = low[:, None], (high - low)[:, None]
    whole = 2 * (length + 2 * margin)  # parts of a pixel
    step = margin + torch.arange(length, device=low.device)
    place = torch.minimum(((2 * step + 1) * span - whole // 2).clamp(min=0), (span - 1) * whole)
    first = place // whole
    return Taps(low + first, low + torch.minimum(first + 1, span - 1), (place % whole).to(dtype) / whole)


def across(x: Tensor, taps: Taps) -> Tensor:
    """Pictures (N, C, H, W) at other columns."""
    shape = (*x.shape[:3], taps.share.shape[1])
    first, second = (x.gather(3, index[:, None, None].expand(shape)) for index in (taps.first, taps.second))
    return first.lerp_(second, taps.share[:, None, None])


def down(x: Tensor, taps: Taps) -> Tensor:
    """Pictures (N, C, H, W) at other rows: whole ones, which is faster than :func:`across`."""
    n, channels, h, w = x.shape
    shape, lines = (n, channels, taps.share.shape[1], w), x.reshape(-1, w)
    above = h * torch.arange(n * channels, device=x.device).view(n, channels, 1)
    first, second = (
        lines.index_select(0, (above + index[:, None]).flatten()).view(shape) for index in (taps.first, taps.second)
    )
    return first.lerp_(second, taps.share[:, None, :, None])


def paste(maps: Tensor, windows: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps of crops, (N, K, h, w), in the frame of the whole images: (N, K, H, W), bilinear, 0 beyond the window.

    Parameters
    ----------
    maps : Tensor
        E.g. class activation maps of the crops.
    windows : Tensor
        (N, 4): x1, y1, x2, y2, the edges of what each crop shows, in the image's pixels; ``Crop.window`` has them.
    size : (int, int)
        (H, W) of the images.
    """
    wide = maps if maps.dtype.itemsize >= 4 else maps.float()
    x1, y1, x2, y2 = windows.to(wide.dtype).unbind(dim=1)
    columns, rows = _shares(x1, x2, size[1])[:, None, :], _shares(y1, y2, size[0])[:, :, None]
    shape = (-1, size[0], size[1])
    grid = torch.stack([columns.expand(shape), rows.expand(shape)], dim=-1)
    with torch.autocast(maps.device.type, enabled=False):
        full = F.grid_sample(wide, grid, padding_mode="border", align_corners=False)
    return torch.where((grid.abs() <= 1).all(dim=-1)[:, None], full, 0.0).to(maps.dtype)


def _shares(low: Tensor, high: Tensor, length: int) -> Tensor:
    """How far each of `length` pixels' centres is on the way from `low` (-1) to `high` (1): (N, length)."""
    centre = torch.arange(length, device=low.device, dtype=low.dtype) + 0.5
    return (2 * centre - (low + high)[:, None]) / (high - low)[:, None]
