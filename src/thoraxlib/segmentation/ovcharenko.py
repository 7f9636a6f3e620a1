"""The lung segmenters of IlliaOvcharenko/lung-segmentation: UNets that enlarge maps by interpolation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from thoraxlib import weights
from thoraxlib.checkpoints import read
from thoraxlib.segmentation import Segmenter, register
from thoraxlib.utils.arguments import one_of

# channels of each block: input, middle, output
_PLAIN = {
    **{"enc1": (1, 64, 64), "enc2": (64, 128, 128), "enc3": (128, 256, 256), "enc4": (256, 512, 512)},
    "center": (512, 1024, 512),
    **{"dec4": (1024, 512, 256), "dec3": (512, 256, 128), "dec2": (256, 128, 64), "dec1": (128, 64, 64)},
}
_VGG11 = {
    "center": (512, 512, 256),
    **{"dec5": (768, 512, 256), "dec4": (768, 512, 128), "dec3": (384, 256, 64), "dec2": (192, 128, 32)},
    "dec1": (96, 64, 32),
}
# convolutions of each level of VGG-11: input and output channels
_LEVELS = {
    "conv1": (3, 64),
    "conv2": (64, 128),
    **{"conv3": (128, 256), "conv3s": (256, 256)},
    **{"conv4": (256, 512), "conv4s": (512, 512)},
    **{"conv5": (512, 512), "conv5s": (512, 512)},
}
_PUBLISHED = {"plain": "lungs-unet-ovcharenko-2v", "vgg11": "lungs-unet-ovcharenko-6v"}


class _Block(nn.Module):
    """Two 3x3 convolutions with ReLU, and with batch norms between them if asked for."""

    def __init__(self, before: int, middle: int, after: int, norm: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, middle, 3, padding=1)
        self.conv2 = nn.Conv2d(middle, after, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(middle) if norm else nn.Identity()
        self.bn2 = nn.BatchNorm2d(after) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))


@register("lungs_unet")
class LungsUNet(Segmenter):
    """UNet of IlliaOvcharenko/lung-segmentation, for both lungs: (N, C, H, W) -> (N, M, H, W), H and W of 32 or more.

    Its repository (MIT) has the weights of two networks, trained at 512 x 512 pixels on public images, of which 704 had
    masks; it does not name them. Names in the state dict are the published ones.

    Parameters
    ----------
    encoder : {"plain", "vgg11"}
        "plain": four levels, nearest enlargement, no norms (``unet-2v``; Dice 0.952 on its own test images). "vgg11":
        VGG-11's convolutions, bilinear enlargement, batch norms (``unet-6v``; Dice 0.961).
    classes : sequence of str
        M names, the background first.
    in_chans : int
        1, or 3 for repeated grey values: their mean is used.
    pretrained : bool
        Load the published weights, which need two classes (:func:`thoraxlib.weights.fetch`).

    Raises
    ------
    ValueError
        An unknown encoder; `in_chans` other than 1 and 3; `pretrained` with other classes than two.
    OSError, thoraxlib.weights.DigestError
        The weights cannot be had, or are not the published ones.
    """

    def __init__(
        self,
        *,
        encoder: Literal["plain", "vgg11"] = "plain",
        classes: Sequence[str] = ("background", "lungs"),
        in_chans: int = 3,
        pretrained: bool = False,
    ) -> None:
        super().__init__(classes, in_chans)
        one_of("encoder", encoder, tuple(_PUBLISHED))
        one_of("in_chans", in_chans, (1, 3))
        if pretrained and len(self.classes) != 2:
            raise ValueError(f"pretrained: the weights have the background and the lungs, got classes={self.classes}")
        self.input_spec = self.input_spec.updated({"size": 512})
        vgg = encoder == "vgg11"
        self.enlarge = "bilinear" if vgg else "nearest"
        if vgg:
            self.init_conv = nn.Conv2d(1, 3, 1)
            for name, channels in _LEVELS.items():
                self.add_module(name, nn.Conv2d(*channels, 3, padding=1))
        for name, (before, middle, after) in (_VGG11 if vgg else _PLAIN).items():
            self.add_module(name, _Block(before, middle, after, norm=vgg))
        self.out = nn.Conv2d(32 if vgg else 64, len(self.classes), 1)
        if pretrained:
            self.load_state_dict(read(weights.fetch(_PUBLISHED[encoder])))

    def forward(self, x: Tensor) -> Tensor:
        """Compute logits (N, M, H, W) of pixels in [0, 1].

        Raises
        ------
        ValueError
            A side below 32 pixels.
        """
        if min(x.shape[-2:]) < 32:
            raise ValueError(f"images of {x.shape[-2]} x {x.shape[-1]} pixels: at least 32 x 32 are needed")
        kept = self._encoded(x.mean(dim=1, keepdim=True) - 0.5)
        x = self.get_submodule("center")(F.max_pool2d(kept[-1], 2))
        for level in range(len(kept), 0, -1):
            skip = kept[level - 1]
            x = F.interpolate(x, skip.shape[-2:], mode=self.enlarge)
            x = self.get_submodule(f"dec{level}")(torch.cat([x, skip], dim=1))
        logits: Tensor = self.out(x)
        return logits

    def _encoded(self, x: Tensor) -> list[Tensor]:
        """Return the map of each level, the finest first."""
        maps: list[Tensor] = []
        if self.enlarge == "nearest":
            for level in range(1, 5):
                maps.append(self.get_submodule(f"enc{level}")(F.max_pool2d(maps[-1], 2) if maps else x))
            return maps
        x = F.relu(self.init_conv(x))
        for level in range(1, 6):
            x = F.max_pool2d(maps[-1], 2) if maps else x
            for name in (f"conv{level}", f"conv{level}s"):
                if name in _LEVELS:
                    x = F.relu(self.get_submodule(name)(x))
            maps.append(x)
        return maps
