"""The Unified DCNN of ChestX-ray8: trunk, transition layer, global pooling, prediction layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from thoraxlib import backbones
from thoraxlib.input_spec import InputSpec
from thoraxlib.models import register
from thoraxlib.models.base import Classifier
from thoraxlib.models.classifier import classifier
from thoraxlib.models.registry import ModelCard, Preset, by_label
from thoraxlib.registry import Spec

__all__ = ["unified_dcnn"]


_INPUT = InputSpec(size=(512, 512))
_CARD = ModelCard(
    paper="Wang, Peng, Lu, Lu, Bagheri, Summers, ChestX-ray8: Hospital-scale Chest X-ray Database and Benchmarks on "
    "Weakly-Supervised Classification and Localization of Common Thorax Diseases, CVPR 2017, arXiv 1705.02315",
    label_sets=("nih14", "nih8", "padchest_openi22"),
    input_spec=_INPUT,
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
        "ChestX-ray8, AlexNet (table 3)": by_label("nih8", ".6458 .6925 .6642 .6041 .5644 .6487 .5493 .7425"),
        "ChestX-ray8, GoogLeNet (table 3)": by_label("nih8", ".6307 .7056 .6876 .6088 .5363 .5579 .5990 .7824"),
        "ChestX-ray8, VGG-16 (table 3)": by_label("nih8", ".6281 .7084 .6502 .5896 .5103 .6556 .5100 .7516"),
        "ChestX-ray8, ResNet-50 (table 3)": by_label("nih8", ".7069 .8141 .7362 .6128 .5609 .7164 .6333 .7891"),
        "ChestX-ray8, ResNet-50 with unweighted loss (table 3)": by_label(
            "nih8", ".7064 .7262 .7351 .6084 .5530 .6545 .5164 .7665"
        ),
        "ChestX-ray14, ResNet-50, published split (table 17)": by_label(
            "nih14", ".7003 .8100 .7585 .6614 .6933 .6687 .6580 .7993 .7032 .8052 .8330 .7859 .6835 .8717"
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
    backbone : str, mapping or module
        The paper's trunks are "alexnet", "googlenet", "vgg16" and "resnet50".
    transition : str, mapping or module
        A kind of :class:`thoraxlib.blocks.transition.Transition` ("conv1x1", "conv3x3", "none"), its options as a
        mapping (``{"kind": "conv1x1", "out_channels": 1024, "size": 16}``); or any other block, by its ``name`` in the
        mapping or as a module.
    pool : str, mapping or module
        "avg", "max", "lse" (r = 10) or ``{"name": "lse", "r": ...}``.
    last_pool : bool
        Keep the last max pool of AlexNet and VGG; without it their maps are twice as fine.
    labels, in_chans, pretrained, input_spec
        See :func:`~thoraxlib.models.classifier.classifier`. The default input is 512 x 512 pixels; the paper trains
        from ImageNet weights.

    Raises
    ------
    ValueError
        ``last_pool=False`` and a trunk that does not end in a max pool.
    """
    spec = _INPUT.with_channels(in_chans).updated(input_spec)
    trunk = backbones.for_input(backbone, spec, pretrained=pretrained)
    stage = -1 if last_pool else _before_last_pool(trunk)
    if not isinstance(transition, nn.Module):
        options = {"kind": transition} if isinstance(transition, str) else transition
        transition = {"name": "transition", **options}
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
