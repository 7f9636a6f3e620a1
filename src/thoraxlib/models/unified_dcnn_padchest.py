"""The networks of jaydurant/ChestX-ray_classification_and_localization: 22 findings of PadChest and Open-i."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from thoraxlib.backbones import Backbone
from thoraxlib.input_spec import InputSpec
from thoraxlib.models import register
from thoraxlib.models.base import Classifier
from thoraxlib.models.classifier import classifier
from thoraxlib.models.registry import ModelCard, Preset
from thoraxlib.registry import Spec

__all__ = ["unified_dcnn_padchest"]

_INPUT = InputSpec(size=(250, 250))
_CARD = ModelCard(
    paper="(a repository, jaydurant/ChestX-ray_classification_and_localization, after Wang et al., CVPR 2017, and "
    "Rajpurkar et al., arXiv 1711.05225)",
    label_sets=("padchest_openi22", "padchest_openi22_listed"),
    input_spec=_INPUT,
    presets={
        "seed": Preset(
            "The repository's input: pixels in [0, 1] without mean and deviation, although the trunk is ImageNet's "
            "(for its weights).",
            {"input_spec": {"mean": [0.0], "std": [1.0]}},
        ),
    },
    parity={
        "unified_dcnn_resnet50": "ResNet-50 (as unified_dcnn, preset 'seed')",
        "chexnet_densenet121": "DenseNet-121 with the one-name repair (as chexnet, preset 'seed')",
        "padchest22_labels": "its labels: rule='last_root' of the data set padchest",
    },
    notes=(
        "The repository reports no result, and published no weights that could be had.",
        "Of the Unified DCNN it has neither the transition layer, nor log-sum-exp pooling, nor the weighted loss: "
        "unified_dcnn(labels='padchest_openi22') has them.",
        "Its labels are in alphabetical order, 'padchest_openi22'; it prints the names of 'padchest_openi22_listed'.",
        "Its DenseNet cannot be built and its VGG file is empty: both are here as they were meant.",
    ),
)


@register("unified_dcnn_padchest", card=_CARD)
def unified_dcnn_padchest(
    *,
    labels: str | Sequence[str] = "padchest_openi22",
    backbone: Spec | Backbone = "resnet50",
    pool: Spec | nn.Module = "avg",
    in_chans: int = 3,
    pretrained: bool = False,
    input_spec: Mapping[str, Any] | InputSpec | None = None,
) -> Classifier:
    """ResNet-50, DenseNet-121 or VGG-16, average pooling and one linear layer, for the 22 labels of PadChest + Open-i.

    23,553,110 parameters with ResNet-50. How it is trained: :func:`thoraxlib.training.seed_stage`.

    Parameters
    ----------
    backbone : str, mapping or Backbone
        From :mod:`thoraxlib.backbones`; the repository's trunks are "resnet50", "densenet121" and "vgg16".
    labels, pool, in_chans, pretrained, input_spec
        See :func:`~thoraxlib.models.classifier.classifier`. The default input is 250 x 250 pixels; the repository
        trains from ImageNet weights.
    """
    return classifier(
        labels=labels,
        backbone=backbone,
        pool=pool,
        pretrained=pretrained,
        input_spec=_INPUT.with_channels(in_chans).updated(input_spec),
    )
