"""What works on every place of a map by itself, fast on a CPU where a place's channels lie together in memory."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_BATCH = 16  # from this many images on, PyTorch gives 1x1 convolutions to oneDNN on one thread too


def channels_together(x: Tensor) -> Tensor:
    """`x` (N, C, h, w) in the layout ``torch.channels_last`` on a CPU; elsewhere as it is."""
    if x.device.type != "cpu":
        return x
    return x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)  # vmap knows no memory_format


class PointwiseConv2d(nn.Conv2d):
    """A 1x1 convolution, (N, C, h, w) -> (N, D, h, w).

    On one CPU thread, PyTorch gives 1x1 convolutions of fewer than 16 float32 images to a routine two to four times
    slower than oneDNN's. A map with the channels together is as well a batch of more and smaller ones.

    Parameters
    ----------
    in_channels, out_channels : int
        C and D.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 1)

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, D, h, w)."""
        pieces = _pieces(input)
        if pieces is None:
            return super().forward(input)
        n, c, height, width = input.shape
        batch = input.permute(0, 2, 3, 1).reshape(pieces, 1, -1, c).permute(0, 3, 1, 2)
        out = super().forward(batch)
        return out.permute(0, 2, 3, 1).reshape(n, height, width, -1).permute(0, 3, 1, 2)


def _pieces(x: Tensor) -> int | None:
    """Into how many images of at least two places to cut the places of `x`; None: leave it."""
    if torch.compiler.is_compiling() or x.device.type != "cpu" or x.dtype != torch.float32 or x.ndim != 4:
        return None
    n, _, height, width = x.shape
    few = n < _BATCH and torch.get_num_threads() == 1 and not torch.is_autocast_enabled("cpu")
    if not few or not x.permute(0, 2, 3, 1).is_contiguous():
        return None
    places = n * height * width
    return next((k for k in range(_BATCH, places // 2 + 1) if places % k == 0), None)


class MapGELU(nn.GELU):
    """GELU of a map, (N, C, h, w) -> (N, C, h, w); the fast routine for a CPU takes memory in order only."""

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, C, h, w)."""
        if torch.compiler.is_compiling() or input.is_contiguous():
            return super().forward(input)
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
