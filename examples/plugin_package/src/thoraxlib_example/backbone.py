"""A backbone."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from thoraxlib.backbones import Backbone


class _Stage(nn.Module):
    """Stride-2 convolution to other channels, then a residual 3 x 3 convolution."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.down = nn.Sequential(
            nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()
        )
        self.residual = nn.Sequential(nn.Conv2d(after, after, 3, padding=1, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(x)
        return (x + self.residual(x)).relu()


class ShallowConvNet(Backbone):
    """Residual network with one block in each stage; each stage halves the size. By default a stem and three stages.

    Parameters
    ----------
    in_chans : int
        Channels of the image. (A model passes it, and `pretrained` and `img_size` where a backbone takes them.)
    widths : sequence of int
        Channels of the stem and of every stage.
    """

    def __init__(self, *, in_chans: int = 3, widths: Sequence[int] = (16, 32, 64, 128)) -> None:
        super().__init__()
        if len(widths) < 2 or min(widths) < 1:
            raise ValueError(f"widths={list(widths)}: the stem's and one or more stages', each at least 1")
        self.in_chans = in_chans
        self.stem = nn.Conv2d(in_chans, widths[0], 5, stride=2, padding=2)
        self.stages = nn.ModuleList(_Stage(before, after) for before, after in pairwise(widths))
        self.channels = tuple(widths[1:])
        self.strides = tuple(4 * 2**stage for stage in range(len(self.stages)))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the feature map of every stage, finest first."""
        x, maps = self.stem(x).relu(), []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps
