"""Layers that work on each location of a map by itself, fast on a CPU if the channels of a location lie together."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_BATCH = 16  # from this number of images on, PyTorch uses oneDNN for 1x1 convolutions on one thread too


def channels_last(x: Tensor) -> Tensor:
    """Return `x` (N, C, h, w) in the memory format ``torch.channels_last`` on a CPU; elsewhere unchanged."""
    if x.device.type != "cpu":
        return x
    return x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)  # vmap has no memory_format


class PointwiseConv2d(nn.Conv2d):
    """1x1 convolution, (N, C, h, w) -> (N, D, h, w).

    On one CPU thread, PyTorch computes 1x1 convolutions of fewer than 16 float32 images two to four times slower than
    oneDNN does. A map in ``torch.channels_last`` is therefore computed as a batch of more and smaller images.

    Parameters
    ----------
    in_channels, out_channels : int
        C and D.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 1)

    def forward(self, input: Tensor) -> Tensor:
        """Compute (N, C, h, w) -> (N, D, h, w)."""
        count = _images(input)
        if count is None:
            return super().forward(input)
        n, c, height, width = input.shape
        batch = input.permute(0, 2, 3, 1).reshape(count, 1, -1, c).permute(0, 3, 1, 2)
        out = super().forward(batch)
        return out.permute(0, 2, 3, 1).reshape(n, height, width, -1).permute(0, 3, 1, 2)


def _images(x: Tensor) -> int | None:
    """Return the number of images, of at least two locations, into which `x` is cut; None to leave it."""
    if torch.compiler.is_compiling() or x.device.type != "cpu" or x.dtype != torch.float32 or x.ndim != 4:
        return None
    n, _, height, width = x.shape
    few = n < _BATCH and torch.get_num_threads() == 1 and not torch.is_autocast_enabled("cpu")
    if not few or not x.permute(0, 2, 3, 1).is_contiguous():
        return None
    locations = n * height * width
    return next((k for k in range(_BATCH, locations // 2 + 1) if locations % k == 0), None)


class MapGELU(nn.GELU):
    """GELU of a map, (N, C, h, w) -> (N, C, h, w); the fast routine for a CPU needs contiguous memory."""

    def forward(self, input: Tensor) -> Tensor:
        """Compute (N, C, h, w) -> (N, C, h, w)."""
        if torch.compiler.is_compiling() or input.is_contiguous():
            return super().forward(input)
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
