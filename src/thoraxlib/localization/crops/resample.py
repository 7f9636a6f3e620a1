"""Cut boxes out of images and resize them; paste maps of crops back into the image."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


def crop_and_resize(images: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Cut a box out of each image (N, C, H, W) and resize it to `size`: (N, C, H', W').

    Bilinear with half-pixel centres, using pixels of the box only: the same as slicing each image and calling
    :func:`torch.nn.functional.interpolate`. The first derivative with respect to the images is defined.

    Parameters
    ----------
    images : Tensor
        Floating point; half precision is computed in float32.
    boxes : Tensor
        int64 (N, 4): x1, y1, x2, y2 in pixels, x2 and y2 exclusive; inside the image, not empty.
    size : (int, int)
        (H', W') of the result.
    """
    wide = images if images.dtype.itemsize >= 4 else images.float()
    x1, y1, x2, y2 = boxes.unbind(dim=1)
    rows, columns = taps(y1, y2, size[0], wide.dtype), taps(x1, x2, size[1], wide.dtype)
    if at_once(images):
        return resample(wide, rows, columns).to(images.dtype)
    crops = images.new_empty(len(images), images.shape[1], *size)
    for n, (left, top, right, bottom) in enumerate(boxes.tolist()):
        part = wide[n : n + 1, :, top:bottom, left:right]
        crops[n : n + 1] = resample(part, rows.of(n, top), columns.of(n, left))
    return crops


def at_once(images: Tensor) -> bool:
    """Return True if images should be cropped as one batch, False for one by one.

    On a CPU, one by one is faster, as each image then fits into the cache. It is slower if gradients are needed.
    """
    differentiated = images.requires_grad and torch.is_grad_enabled()
    return bool(torch.compiler.is_compiling() or images.device.type != "cpu" or differentiated)


class Taps(NamedTuple):
    """Two source pixels, int64, and their weights for each output position along an axis: (N, L, 2)."""

    pixels: Tensor
    shares: Tensor

    def of(self, n: int, start: int) -> Taps:
        """Taps of image `n` alone, sliced so that its first pixel is `start`."""
        return Taps(self.pixels[n : n + 1] - start, self.shares[n : n + 1])

    def between(self, start: int, stop: int) -> Taps:
        """Taps of the output positions from `start` to `stop`."""
        return Taps(self.pixels[:, start:stop], self.shares[:, start:stop])


def taps(low: Tensor, high: Tensor, length: int, dtype: torch.dtype, margin: int = 0) -> Taps:
    """Compute the taps that resize [low, high), int64 (N,), to ``length + 2 * margin`` pixels, without the margins.

    Output pixel d is at ``low + (d + 1/2) (high - low) / (length + 2 margin) - 1/2``, clamped to the centres of the
    outermost source pixels. All steps but the last division use integers.
    """
    low, span = low[:, None], (high - low)[:, None]
    whole = 2 * (length + 2 * margin)  # units of 1 / whole pixels
    step = margin + torch.arange(length, device=low.device)
    position = torch.minimum(((2 * step + 1) * span - whole // 2).clamp(min=0), (span - 1) * whole)
    first, share = position // whole, (position % whole).to(dtype) / whole
    pixels = torch.stack([first, torch.minimum(first + 1, span - 1)], dim=2)
    return Taps(low[..., None] + pixels, torch.stack([1 - share, share], dim=2))


def resample(x: Tensor, rows: Taps, columns: Taps) -> Tensor:
    """Resample the columns, then the rows of images (N, C, H, W)."""
    return down(down(x.mT, columns).mT, rows)


def down(x: Tensor, taps: Taps) -> Tensor:
    """Resample the rows of images (N, C, H, W): each output row is a weighted sum of two input rows."""
    n, channels, h, w = x.shape
    above = h * torch.arange(n * channels, device=x.device).view(n, channels, 1, 1)
    pixels = above + taps.pixels[:, None]
    shares = taps.shares[:, None].expand(pixels.shape)
    mix = _bagged if x.device.type == "cpu" else _gathered
    lines = mix(x.reshape(-1, w), pixels.reshape(-1, 2), shares.reshape(-1, 2))
    return lines.view(n, channels, taps.pixels.shape[1], w)


def _bagged(lines: Tensor, pairs: Tensor, shares: Tensor) -> Tensor:
    """Weighted sums of pairs of rows in one pass: several times faster on a CPU than :func:`_gathered`."""
    return F.embedding_bag(pairs, lines, mode="sum", per_sample_weights=shares)


def _gathered(lines: Tensor, pairs: Tensor, shares: Tensor) -> Tensor:
    """Weighted sums of pairs of rows on any device, as some do not support embedding bags."""
    return (lines[pairs] * shares[..., None]).sum(dim=1)


def paste(maps: Tensor, windows: Tensor, size: tuple[int, int]) -> Tensor:
    """Paste maps of crops (N, K, h, w) into the frame of the whole images: (N, K, H, W), bilinear, 0 outside.

    Parameters
    ----------
    maps : Tensor
        Maps of the crops, e.g. class activation maps.
    windows : Tensor
        (N, 4): x1, y1, x2, y2, the edges of the region that each crop shows, in the image's pixels (``Crop.window``).
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
    """Positions of `length` pixel centres between `low` (-1) and `high` (1): (N, length)."""
    centre = torch.arange(length, device=low.device, dtype=low.dtype) + 0.5
    return (2 * centre - (low + high)[:, None]) / (high - low)[:, None]
