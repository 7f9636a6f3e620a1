"""The single model of jfhealthcare/Chexpert that led the CheXpert competition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from torch import nn

from thoraxlib.backbones import Backbone
from thoraxlib.input_spec import InputSpec
from thoraxlib.models import register
from thoraxlib.models.base import Classifier
from thoraxlib.models.pcam import JF_INPUT, pcam
from thoraxlib.models.registry import ModelCard, Preset, by_label
from thoraxlib.registry import Spec

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


@register("jf_top1", card=_CARD)
def jf_top1(
    *,
    labels: str | Sequence[str] = "chexpert5",
    backbone: Spec | Backbone = "densenet121",
    pool: Spec | nn.Module = "avg_max",
    attention: Spec | nn.Module | None = "pyramid_attention",
    attention_mode: Literal["once", "cumulative"] = "cumulative",
    norm: bool = True,
    dropout: float = 0.0,
    in_chans: int = 3,
    pretrained: bool = False,
    input_spec: Mapping[str, Any] | InputSpec | None = None,
) -> Classifier:
    """The CheXpert model of jfhealthcare: DenseNet-121, pyramid attention, mean and maximum, a norm for each label.

    Parameters
    ----------
    labels, backbone, pool, attention, attention_mode, norm, dropout, in_chans, pretrained, input_spec
        See :func:`~thoraxlib.models.pcam.pcam`. The default input is that repository's; the released weights were
        trained from ImageNet's.
    """
    return pcam(
        labels=labels,
        backbone=backbone,
        pool=pool,
        attention=attention,
        attention_mode=attention_mode,
        norm=norm,
        dropout=dropout,
        pretrained=pretrained,
        input_spec=_INPUT.with_channels(in_chans).updated(input_spec),
    )
