"""ResNet-50, DenseNet-121 or VGG-16, average pooling and one linear layer, for the 22 labels of PadChest + Open-i.

23,553,110 parameters with ResNet-50; trained from ImageNet weights, see :func:`thoraxlib.training.seed_stage`. The
default input is 250 x 250 pixels.
"""

from __future__ import annotations

from thoraxlib.input_spec import InputSpec
from thoraxlib.models import register
from thoraxlib.models.classifier import classifier
from thoraxlib.models.registry import ModelCard, Preset
from thoraxlib.models.variant import variant

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


unified_dcnn_padchest = register("unified_dcnn_padchest", card=_CARD)(
    variant(
        classifier,
        __doc__,
        input_spec=_INPUT,
        labels="padchest_openi22",
    )
)
