"""Histogram equalisation and blur of 8-bit images."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def equalize(image: Tensor) -> Tensor:
    """Equalise the histogram of each image, uint8 (..., H, W), as OpenCV's ``equalizeHist`` with its float32 factor.

    The lowest level that occurs becomes 0, and a level v becomes ``round(255 (n(v) - n0) / (n - n0))``: n(v) is the
    number of pixels up to v, n0 that of the lowest level, and n that of all. An image of one level is unchanged.
    """
    flat = image.flatten(0, -3).flatten(1).long() if image.ndim > 2 else image.flatten().long()[None]
    counts = torch.zeros(len(flat), 256, dtype=torch.float64, device=image.device)
    counts.scatter_add_(1, flat, torch.ones_like(flat, dtype=torch.float64))
    cumulated = counts.cumsum(dim=1)
    first = counts.gather(1, (counts > 0).int().argmax(dim=1, keepdim=True))
    rest = cumulated[:, -1:] - first
    factor = 255 / rest.clamp(min=1).float()
    levels = torch.arange(256, device=image.device, dtype=torch.float32)
    table = torch.where(rest > 0, ((cumulated - first).float() * factor).round(), levels)
    return table.clamp(min=0).gather(1, flat).to(torch.uint8).view_as(image)


def blur3(image: Tensor) -> Tensor:
    """Blur images, uint8 (..., H, W), as OpenCV's ``GaussianBlur`` with 3 x 3 pixels and sigma 0.

    The kernel is (1, 2, 1) / 4 in both directions; the border is reflected, and the result is rounded half up.
    """
    kernel = torch.tensor([1.0, 2.0, 1.0], device=image.device)
    kernel = (kernel[:, None] * kernel)[None, None]
    flat = image.reshape(-1, 1, *image.shape[-2:]).float()
    mode = "reflect" if min(image.shape[-2:]) > 1 else "replicate"
    total = F.conv2d(F.pad(flat, (1, 1, 1, 1), mode=mode), kernel)
    return ((total + 8) / 16).floor().to(torch.uint8).view_as(image)
