"""The CheXpert model of jfhealthcare: DenseNet-121, pyramid attention, mean and maximum, a norm for each label.

The default input is that repository's; the released weights were trained from ImageNet's.
"""

from __future__ import annotations

from thoraxlib.input_spec import InputSpec
from thoraxlib.models import register
from thoraxlib.models.classifier import classifier
from thoraxlib.models.pcam import JF_INPUT
from thoraxlib.models.registry import ModelCard, Preset, by_label
from thoraxlib.models.variant import variant

__all__ = ["jf_top1"]

_INPUT = InputSpec().updated(JF_INPUT)
_CARD = ModelCard(
    paper="jfhealthcare/Chexpert ('top 1 solution of CheXpert', 2019; config example.json); no paper of its own. Its "
    "pooling study became Ye et al., arXiv 2005.14480",
    label_sets=("chexpert5",),
    input_spec=_INPUT,
    presets={
        "released": Preset("The default, whose published weights (config/pre_train.pth) need every part of it."),
        "once": Preset(
            "The attention once, before the head, rather than once more for each label: for new training. The released "
            "weights do not fit.",
            {"attention_mode": "once"},
        ),
    },
    published={
        "jfhealthcare/Chexpert, 200 validation studies of CheXpert": by_label(
            "chexpert5", ".8703 .9436 .9334 .9029 .9166"
        ),
    },
    parity={"jfhealthcare_densenet121_top1": "logits, probabilities, stages, attended maps, pooled vectors"},
    notes=(
        "Its attention is cumulative: label k sees the pyramid attention applied k + 1 times. That follows from a loop "
        "which overwrites the map, and the released weights were trained with it.",
        "Its pooling (mean and maximum, side by side) leaves no per-location logits: heat maps by gradients.",
        "The published numbers are for studies: films joined by minimum (Cardiomegaly), maximum (Edema) or "
        "mean (the others).",
    ),
)


jf_top1 = register("jf_top1", card=_CARD)(
    variant(
        classifier,
        __doc__,
        input_spec=_INPUT,
        labels="chexpert5",
        backbone="densenet121",
        head={"name": "classwise", "norm": True},
        pool="avg_max",
        attention="pyramid_attention",
        attention_mode="cumulative",
    )
)
