"""torchxrayvision's segmenter of thoracic anatomy, and the import of its package.

Needs the extra: ``pip install "thoraxlib[xrv]"``.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from thoraxlib.input_spec import IMAGENET_MEAN, IMAGENET_STD
from thoraxlib.registry import Card
from thoraxlib.segmentation import ORGANS, Segmenter, register
from thoraxlib.segmentation.masks import ORGAN_PARTS
from thoraxlib.utils.arguments import one_of

#: Names of the 14 maps of torchxrayvision's PSPNet, in lower case.
STRUCTURES = (
    *("left clavicle", "right clavicle", "left scapula", "right scapula", "left lung", "right lung"),
    *("left hilus pulmonis", "right hilus pulmonis", "heart", "aorta", "facies diaphragmatica", "mediastinum"),
    *("weasand", "spine"),
)


@register("xrv_pspnet", card=Card(extra="xrv"))
class PSPNet(Segmenter):
    """torchxrayvision's PSPNet, trained on ChestX-Det's 14 anatomical structures: (N, C, H, W) -> (N, M, H, W).

    Lian et al. 2021, arXiv 2104.10326; 68 million parameters. The network has a separate logit for each structure, and
    structures overlap. The logit of a class is the largest logit of its structures; that of the background is 0. So
    the mask of all organs has the pixels where a structure has a probability above 1/2, and where classes overlap, the
    most probable one counts.

    Parameters
    ----------
    classes : sequence of str
        M names, the background first. The others are from :data:`STRUCTURES`, or "lungs" for both lungs;
        ``("background", *STRUCTURES)`` for all.
    in_chans : int
        1, or 3 for repeated grey values.
    size : int
        Side of the square to which images are resized for the network; it was trained with 512.
    pretrained : bool
        Load torchxrayvision's weights, which it downloads.

    Raises
    ------
    ImportError
        torchxrayvision is not installed.
    ValueError
        Classes that are too few, repeated or unknown; `in_chans` other than 1 and 3; a `size` below 48.
    RuntimeError
        The weights could not be loaded.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, *, classes: Sequence[str] = ORGANS, in_chans: int = 3, size: int = 512, pretrained: bool = False
    ) -> None:
        super().__init__(classes, in_chans)
        one_of("in_chans", in_chans, (1, 3))
        if size < 48:
            raise ValueError(f"size={size}: at least 48, for the network's pyramid of 6 x 6 cells")
        self.size = size
        self.input_spec = self.input_spec.updated({"size": size})
        self.maps = [_maps_of(organ) for organ in self.classes[1:]]
        self.net = _pspnet(pretrained)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(-1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Compute logits (N, M, H, W) of pixels in [0, 1]."""
        height, width = x.shape[-2:]
        side = (self.size, self.size)
        if (height, width) != side:
            x = F.interpolate(x, side, mode="bilinear", antialias=True)
        x = (x.expand(-1, 3, -1, -1) - self.mean) / self.std
        logits = self.net(x)[1] if self.training else self.net(x)  # in training, after an auxiliary output
        organs = torch.stack([logits[:, maps].amax(dim=1) for maps in self.maps], dim=1)
        if (height, width) != side:
            organs = F.interpolate(organs, (height, width), mode="bilinear", align_corners=False)
        return torch.cat([torch.zeros_like(organs[:, :1]), organs], dim=1)


def _maps_of(organ: str) -> list[int]:
    """Return the positions of a class's structures in :data:`STRUCTURES`."""
    maps = [position for position, name in enumerate(STRUCTURES) if name in ORGAN_PARTS.get(organ, (organ,))]
    if not maps:
        raise ValueError(f"classes: {organ!r} is unknown to PSPNet; it has 'lungs', {', '.join(map(repr, STRUCTURES))}")
    return maps


def _pspnet(pretrained: bool) -> nn.Module:
    """Build the network without its auxiliary classifier."""
    package = torchxrayvision().baseline_models.chestx_det
    if pretrained:
        try:
            net: nn.Module = package.PSPNet().model
        except Exception as error:
            raise not_had("PSPNet", error) from error
    else:
        net = package.ptsemseg.pspnet.pspnet(len(STRUCTURES))
    net.convbnrelu4_aux = net.aux_cls = nn.Identity()
    return net


def not_had(name: str, error: Exception) -> RuntimeError:
    """Return the error for weights `name` that torchxrayvision could not load."""
    return RuntimeError(
        f"torchxrayvision could not load its weights {name} ({type(error).__name__}: {error}). They are downloaded on "
        "first use: is this machine online? Build with pretrained=False to do without."
    )


def torchxrayvision() -> Any:
    """Import the package. Its import silences all warnings of the process; here, only its own stay silent.

    Raises
    ------
    ImportError
        The package is not installed.
    """
    try:
        with warnings.catch_warnings():
            import torchxrayvision as package
    except ImportError as error:
        raise ImportError(f'this needs torchxrayvision: pip install "thoraxlib[xrv]" ({error})') from error
    warnings.filterwarnings("ignore", module="torchxrayvision")
    return package
