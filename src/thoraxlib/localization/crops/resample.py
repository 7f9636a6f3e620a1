"""Boxes cut out of images and enlarged, and what was seen in them put back."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


def crop_and_resize(images: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """What images (N, C, H, W) show in a box each, at `size`: (N, C, H', W').

    Bilinear with half-pixel centres, and nothing from beyond the box: what cutting and
    :func:`torch.nn.functional.interpolate` one by one would give. Differentiable, once, with respect to the images.

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
    rows, columns = taps(y1, y2, size[0], wide.dtype), taps(x1, x2, size[1], wide.dtype)
    if at_once(images):
        return resample(wide, rows, columns).to(images.dtype)
    crops = images.new_empty(len(images), images.shape[1], *size)
    for n, (left, top, right, bottom) in enumerate(boxes.tolist()):
        seen = wide[n : n + 1, :, top:bottom, left:right]
        crops[n : n + 1] = resample(seen, rows.of(n, top), columns.of(n, left))
    return crops


def at_once(images: Tensor) -> bool:
    """Whether images are cut in one step, and not one by one.

    On a CPU one by one is faster: each step then has only what is in the box, and finds it in the cache. With gradients
    it is not: cutting their way back into parts costs more.
    """
    differentiated = images.requires_grad and torch.is_grad_enabled()
    return bool(torch.compiler.is_compiling() or images.device.type != "cpu" or differentiated)


class Taps(NamedTuple):
    """For each place along an axis the two pixels that it lies between, int64, and their shares: (N, L, 2)."""

    pixels: Tensor
    shares: Tensor

    def of(self, n: int, start: int) -> Taps:
        """Those of picture `n` alone, of which nothing before the pixel `start` is there."""
        return Taps(self.pixels[n : n + 1] - start, self.shares[n : n + 1])

    def between(self, start: int, stop: int) -> Taps:
        """Those of some of the places."""
        return Taps(self.pixels[:, start:stop], self.shares[:, start:stop])


def taps(low: Tensor, high: Tensor, length: int, dtype: torch.dtype, margin: int = 0) -> Taps:
    """[low, high), int64 (N,), stretched over `length` places and a `margin` at either end, which is left out.

    Place d is at ``low + (d + 1/2) (high - low) / (length + 2 margin) - 1/2``, not beyond the centres of the outermost
    pixels; counted in whole numbers until the last division.
    """
    low, span = low[:, None], (high - low)[:, None]
    whole = 2 * (length + 2 * margin)  # parts of a pixel
    step = margin + torch.arange(length, device=low.device)
    place = torch.minimum(((2 * step + 1) * span - whole // 2).clamp(min=0), (span - 1) * whole)
    first, share = place // whole, (place % whole).to(dtype) / whole
    pixels = torch.stack([first, torch.minimum(first + 1, span - 1)], dim=2)
    return Taps(low[..., None] + pixels, torch.stack([1 - share, share], dim=2))


def resample(x: Tensor, rows: Taps, columns: Taps) -> Tensor:
    """Pictures (N, C, H, W) at other columns, then at other rows."""
    return down(down(x.mT, columns).mT, rows)


def down(x: Tensor, taps: Taps) -> Tensor:
    """Pictures (N, C, H, W) at other rows, each a weighted sum of two others."""
    n, channels, h, w = x.shape
    above = h * torch.arange(n * channels, device=x.device).view(n, channels, 1, 1)
    pixels = above + taps.pixels[:, None]
    shares = taps.shares[:, None].expand(pixels.shape)
    mix = _bagged if x.device.type == "cpu" else _gathered
    lines = mix(x.reshape(-1, w), pixels.reshape(-1, 2), shares.reshape(-1, 2))
    return lines.view(n, channels, taps.pixels.shape[1], w)


def _bagged(lines: Tensor, pairs: Tensor, shares: Tensor) -> Tensor:
    """Weighted sums of pairs of rows, in one pass over them: on a CPU several times faster than :func:`_gathered`."""
    return F.embedding_bag(pairs, lines, mode="sum", per_sample_weights=shares)


def _gathered(lines: Tensor, pairs: Tensor, shares: Tensor) -> Tensor:
    """The same on any device: not all have embedding bags."""
    return (lines[pairs] * shares[..., None]).sum(dim=1)


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
