"""A small segmenter of both lungs whose weights are part of the package."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from thoraxlib import weights
from thoraxlib.checkpoints import read
from thoraxlib.segmentation import Segmenter, register
from thoraxlib.segmentation.unet import UNet
from thoraxlib.utils.arguments import one_of

#: Longer side, in pixels, to which images are resized for the network.
SIDE = 128
#: Classes of the weights.
CLASSES = ("background", "lungs")

_BLACK = 0.02  # borders that were cut off or added; values of [0, 1]
_EMPTY = 1000.0  # logit of the background of an image of one grey level, in which the network would see something


@register("lungs-small")
class SmallLungs(Segmenter):
    """Small UNet, "lungs-small": both lungs on frontal radiographs of adults, (N, C, H, W) -> (N, M, H, W), any size.

    The lungs include their part behind the heart. Its weights (0.49 million parameters, 1 MB) are in the package;
    ``examples/weights/lungs.py`` made them. Their card, with data, results and known failures, is
    ``weights/shipped/lungs-small/README.md``. The image is resized so that its longer side has 128 pixels, and each
    image's grey levels are standardised without the black borders, so neither the size nor the contrast matters much.
    An image of one grey level has no lungs. It was not trained on images that are inverted or lie on their side.

    Parameters
    ----------
    classes : sequence of str
        M names, the background first; with `pretrained`, ("background", "lungs").
    in_chans : int
        1, or 3 for repeated grey values, of which the mean is used.
    pretrained : bool
        Load the weights of the package.

    Raises
    ------
    ValueError
        `in_chans` other than 1 and 3; other classes than those of the weights; classes too few or repeated.

    Examples
    --------
    >>> import torch
    >>> from thoraxlib.segmentation import build
    >>> segmenter = build("lungs-small").eval()
    >>> segmenter.classes, segmenter(torch.rand(1, 3, 90, 120)).shape
    (('background', 'lungs'), torch.Size([1, 2, 90, 120]))
    """

    def __init__(self, *, classes: Sequence[str] = CLASSES, in_chans: int = 3, pretrained: bool = True) -> None:
        super().__init__(classes, in_chans)
        one_of("in_chans", in_chans, (1, 3))
        if pretrained and self.classes != CLASSES:
            raise ValueError(f"classes={list(self.classes)}: the weights have {list(CLASSES)}; use pretrained=False")
        self.input_spec = self.input_spec.updated({"size": SIDE, "resize": "pad"})
        self.standardize = Standardize()
        self.net = UNet(classes=self.classes, in_chans=1, width=8, norm=True)
        if pretrained:
            self.load_state_dict(read(weights.fetch("lungs-small")))

    def forward(self, x: Tensor) -> Tensor:
        """Compute logits (N, M, H, W) of pixels in [0, 1]."""
        height, width = x.shape[-2:]
        scale = SIDE / max(height, width)
        size = (max(1, round(height * scale)), max(1, round(width * scale)))
        x = x.mean(dim=1, keepdim=True)
        if size != (height, width):
            x = F.interpolate(x, size, mode="bilinear", antialias=True)
        logits: Tensor = self.net(self.standardize(x))
        span = x.amax(dim=(1, 2, 3), keepdim=True) - x.amin(dim=(1, 2, 3), keepdim=True)
        logits = F.pad(_EMPTY * (span < _BLACK).to(logits.dtype), (0, 0, 0, 0, 0, len(self.classes) - 1)) + logits
        if size != (height, width):
            logits = F.interpolate(logits, (height, width), mode="bilinear", align_corners=False)
        return logits


class Standardize(nn.Module):
    """Give the pixels of each image (N, 1, H, W) mean 0 and standard deviation 1; black ones do not count."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the standardised images, float32: sums over an image overflow half precision."""
        x = x.float()
        seen = (x > _BLACK).to(x.dtype)
        count = seen.sum(dim=(1, 2, 3), keepdim=True).clamp(min=1)
        mean = (x * seen).sum(dim=(1, 2, 3), keepdim=True) / count
        variance = ((x - mean).square() * seen).sum(dim=(1, 2, 3), keepdim=True) / count
        return (x - mean) / (variance.sqrt() + 1e-2)
