"""UNet."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from thoraxlib.segmentation import register
from thoraxlib.segmentation.base import ORGANS, Segmenter
from thoraxlib.utils.arguments import one_of


class _DoubleConv(nn.Module):
    """Two 3x3 convolutions, each with a ReLU, and with a batch norm in between on request."""

    def __init__(self, before: int, after: int, norm: bool) -> None:
        super().__init__()
        self.first = nn.Conv2d(before, after, 3, padding=1)
        self.second = nn.Conv2d(after, after, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(after) if norm else nn.Identity()
        self.norm2 = nn.BatchNorm2d(after) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm1(self.first(x)))
        return F.relu(self.norm2(self.second(x)))


class _Up(nn.Module):
    """Twice the size, half the channels."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(before, after, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.up(x)
        return out


@register("unet")
class UNet(Segmenter):
    """UNet (Ronneberger et al. 2015, arXiv 1505.04597): (N, C, H, W) -> (N, M, H, W), any H and W.

    With the default width and no norm, the network of SegFusionVANGCN (31.0 million parameters): convolutions keep the
    size, skips are put behind the enlarged map. It costs forty times as much as a VAN-B0. On the synthetic data set at
    64 pixels, ``width=12`` with norms reaches a mean Dice of 0.965.

    Parameters
    ----------
    classes : sequence of str
        M names, the background first.
    in_chans : int
        C.
    width : int
        Channels of the first level; each of the `depth` further ones has twice as many.
    depth : int
        Times that the map is halved.
    norm : bool
        Batch norms, which make training much faster; the original has none.
    fit : {"pad", "crop"}
        What to do with sides that are no multiples of ``2 ** depth``. "pad": with the border's pixels, and cut them
        off again. "crop": as the original, whose result is smaller (50 x 70 -> 48 x 64).

    Raises
    ------
    ValueError
        Bad classes, `width` or `depth` below 1, another `fit`; when called: an image that is too small for "crop".
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
            _DoubleConv(before, after, norm) for before, after in zip([in_chans, *rising], rising, strict=False)
        )
        self.middle_conv = _DoubleConv(widths[-2], widths[-1], norm)
        self.up_sample = nn.ModuleList(_Up(2 * after, after) for after in falling)
        self.up_conv = nn.ModuleList(_DoubleConv(2 * after, after, norm) for after in falling)
        self.final_conv = nn.Conv2d(width, len(self.classes), 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, M, H, W); with ``fit="crop"`` of the next smaller multiples of ``2 ** depth``.

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
        for enlarge, convolve, skip in zip(self.up_sample, self.up_conv, reversed(kept), strict=True):
            x = enlarge(x)
            x = convolve(torch.cat([x, _centre(skip, x.shape[-2], x.shape[-1])], dim=1))
        logits: Tensor = self.final_conv(x)
        return logits[..., :height, :width]


def _centre(x: Tensor, height: int, width: int) -> Tensor:
    """The middle of `x`; an odd rest goes as Python rounds its half: to the even side."""
    top, left = round((x.shape[-2] - height) / 2), round((x.shape[-1] - width) / 2)
    return x[..., top : top + height, left : left + width]
