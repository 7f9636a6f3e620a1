"""The Unified DCNN of ChestX-ray8: trunk, transition layer, global pooling, prediction layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from thoraxlib import backbones, blocks
from thoraxlib.input_spec import InputSpec
from thoraxlib.labels import build as label_set
from thoraxlib.models import register
from thoraxlib.models.base import Classifier
from thoraxlib.models.classifier import classifier
from thoraxlib.models.registry import ModelCard, Preset
from thoraxlib.registry import Spec

__all__ = ["unified_dcnn"]


def _nih8(*values: float) -> dict[str, float]:
    return dict(zip(label_set("nih8"), values, strict=True))


_CARD = ModelCard(
    paper="Wang, Peng, Lu, Lu, Bagheri, Summers, ChestX-ray8: Hospital-scale Chest X-ray Database and Benchmarks on "
    "Weakly-Supervised Classification and Localization of Common Thorax Diseases, CVPR 2017, arXiv 1705.02315",
    label_sets=("nih14", "nih8", "padchest_openi22"),
    input_spec=InputSpec(size=(512, 512)),
    presets={
        "paper": Preset(
            "ResNet-50, 8 findings, 1024 x 1024 (maps of 32 x 32).",
            {"labels": "nih8", "input_spec": {"size": [1024, 1024]}},
        ),
        "seed": Preset(
            "jaydurant/ChestX-ray_classification_and_localization: 22 findings, average pooling, no transition layer, "
            "250 x 250 by stretching, pixels in [0, 1] without mean and deviation (for its weights only).",
            {
                "labels": "padchest_openi22",
                "transition": "none",
                "pool": "avg",
                "input_spec": {"size": [250, 250], "mean": [0.0], "std": [1.0]},
            },
        ),
    },
    published={
        "ChestX-ray8, AlexNet (table 3)": _nih8(0.6458, 0.6925, 0.6642, 0.6041, 0.5644, 0.6487, 0.5493, 0.7425),
        "ChestX-ray8, GoogLeNet (table 3)": _nih8(0.6307, 0.7056, 0.6876, 0.6088, 0.5363, 0.5579, 0.5990, 0.7824),
        "ChestX-ray8, VGG-16 (table 3)": _nih8(0.6281, 0.7084, 0.6502, 0.5896, 0.5103, 0.6556, 0.5100, 0.7516),
        "ChestX-ray8, ResNet-50 (table 3)": _nih8(0.7069, 0.8141, 0.7362, 0.6128, 0.5609, 0.7164, 0.6333, 0.7891),
        "ChestX-ray8, ResNet-50 with unweighted loss (table 3)": _nih8(
            0.7064, 0.7262, 0.7351, 0.6084, 0.5530, 0.6545, 0.5164, 0.7665
        ),
        "ChestX-ray14, ResNet-50, published split (table 17)": dict(
            zip(
                label_set("nih14"),
                (
                    0.7003,
                    0.8100,
                    0.7585,
                    0.6614,
                    0.6933,
                    0.6687,
                    0.6580,
                    0.7993,
                    0.7032,
                    0.8052,
                    0.8330,
                    0.7859,
                    0.6835,
                    0.8717,
                ),
                strict=True,
            )
        ),
    },
    parity={
        "unified_dcnn_resnet50": "preset 'seed': logits, probabilities, map, CAM, its 8-bit heat map",
        "unified_dcnn_cam": "heat map, boxes at both levels, IoU, IoBB, hits",
        "lse_pooling": "log-sum-exp pooling and its gradient",
        "chexnet_losses": "W-CEL",
    },
    notes=(
        "No code or weights were published with the paper: the whole network has no record, its parts have.",
        "Its trunks are Caffe's; torchvision's and timm's ImageNet weights are the practical equivalent.",
        "Not stated there and decided here: transition of 1x1 convolution, batch norm and ReLU; a bias in the "
        "prediction layer; r = 10 (the best of its figure 6); 512 pixels by default.",
        "Most later papers quote a 'Wang et al.' column that equals neither of its tables.",
    ),
)


@register("unified_dcnn", card=_CARD)
def unified_dcnn(
    *,
    labels: str | Sequence[str] = "nih14",
    backbone: Spec | backbones.Backbone = "resnet50",
    transition: Spec | nn.Module = "conv1x1",
    pool: Spec | nn.Module = "lse",
    last_pool: bool = True,
    in_chans: int = 3,
    pretrained: bool = False,
    input_spec: Mapping[str, Any] | InputSpec | None = None,
) -> Classifier:
    """The Unified DCNN: trunk -> transition -> pooling -> prediction layer.

    Wang et al. 2017, arXiv 1705.02315, section 3.2.

    Parameters
    ----------
    labels : str or sequence of str
        A label set's name, or the labels.
    backbone : str, mapping or module
        The paper's trunks are "alexnet", "googlenet", "vgg16" and "resnet50".
    transition : str, mapping or module
        A kind of :class:`thoraxlib.blocks.transition.Transition` ("conv1x1", "conv3x3", "none"), its options as a
        mapping (``{"kind": "conv1x1", "out_channels": 1024, "size": 16}``), or a module with ``out_channels``.
    pool : str, mapping or module
        "avg", "max", "lse" (r = 10) or ``{"name": "lse", "r": ...}``.
    last_pool : bool
        Keep the last max pool of AlexNet and VGG; without it their maps are twice as fine.
    in_chans : int
        Channels of the images.
    pretrained : bool
        ImageNet weights for the trunk, as in the paper.
    input_spec : mapping or InputSpec, optional
        Changes to the default input (512 x 512 stretched, ImageNet statistics).
    """
    spec = InputSpec.imagenet(in_chans, size=(512, 512)).updated(input_spec)
    trunk = backbones.registry.resolve(backbone, in_chans=spec.channels, pretrained=pretrained, img_size=spec.size)
    backbones.check_backbone(trunk)
    stage = -1 if last_pool else _before_last_pool(trunk)
    if not isinstance(transition, nn.Module):
        options = {"kind": transition} if isinstance(transition, str) else {"name": "transition", **transition}
        options.pop("name", None)
        transition = blocks.build("transition", in_channels=trunk.channels[stage], **options)
    return classifier(labels=labels, backbone=trunk, pool=pool, neck=transition, stage=stage, input_spec=spec)


def _before_last_pool(trunk: backbones.Backbone) -> int:
    """Index of the map before the last max pool, for trunks that end in one."""
    if (
        len(trunk.channels) < 2
        or trunk.channels[-1] != trunk.channels[-2]
        or trunk.strides[-1] != 2 * trunk.strides[-2]
    ):
        raise ValueError(
            "last_pool=False needs a trunk that ends in a max pool (alexnet, vgg...), "
            f"got one with channels {trunk.channels} and strides {trunk.strides}"
        )
    return -2
