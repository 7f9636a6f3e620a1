"""The small network of alinstein/X_RAY."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from thoraxlib.backbones import register
from thoraxlib.backbones.base import Backbone

_WIDTHS = (15, 30, 60, 120)
_KERNELS = (3, 1, 3, 1, 1, 1, 1)


@register("x_ray_custom")
class XRayBackbone(Backbone):
    """The network called "custom" in alinstein/X_RAY: a stem and four stages, strides 4 to 64.

    Each stage has two parallel branches: seven convolutions (norm and ReLU before each), and one 1x1 convolution. Both
    outputs are average-pooled by two and concatenated. 1,626,255 parameters.

    Parameters
    ----------
    in_chans : int
        Channels of the image.
    dropout : float
        Rate at the end of each stage's longer branch, in training.
    """

    channels = (15, 45, 90, 180, 360)
    strides = (4, 8, 16, 32, 64)

    def __init__(self, *, in_chans: int = 3, dropout: float = 0.5) -> None:
        super().__init__()
        self.in_chans = in_chans
        self.first_layer = nn.Sequential(
            nn.Conv2d(in_chans, 15, 7, 2, 3, bias=False), nn.BatchNorm2d(15), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        )
        pairs = list(zip(self.channels, _WIDTHS, strict=False))
        self.layers = nn.ModuleList(_long(channels, 2 * width, dropout) for channels, width in pairs)
        self.skips = nn.ModuleList(
            nn.Sequential(*_norm_conv(channels, width, 1), nn.AvgPool2d(2)) for channels, width in pairs
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """Compute the feature maps of `x`, finest first, (N, C_i, H_i, W_i)."""
        maps = [self.first_layer(x)]
        for layer, skip in zip(self.layers, self.skips, strict=True):
            maps.append(torch.cat([layer(maps[-1]), skip(maps[-1])], dim=1))
        return maps

    def checkpoint_keys(self, keys: Iterable[str]) -> dict[str, str]:
        """Map ``layers.0`` to ``layer_0`` and ``skips.0`` to ``skiplayer_0``."""
        available = set(keys)
        theirs = {own: own.replace("layers.", "layer_").replace("skips.", "skiplayer_") for own in self.state_dict()}
        return {own: key for own, key in theirs.items() if key in available}


def _norm_conv(channels: int, out: int, kernel: int) -> list[nn.Module]:
    return [nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, out, kernel, padding=kernel // 2)]


def _long(channels: int, out: int, dropout: float) -> nn.Sequential:
    parts: list[nn.Module] = []
    for index, kernel in enumerate(_KERNELS):
        parts += _norm_conv(out if index else channels, out, kernel)
    return nn.Sequential(*parts, nn.Dropout(dropout), nn.AvgPool2d(2))
