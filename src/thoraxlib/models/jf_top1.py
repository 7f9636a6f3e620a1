"""The single model of jfhealthcare/Chexpert that led the CheXpert competition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from torch import nn

from thoraxlib.backbones import Backbone
from thoraxlib.input_spec import InputSpec
from thoraxlib.labels import build as label_set
from thoraxlib.models import register
from thoraxlib.models.base import Classifier
from thoraxlib.models.pcam import JF_INPUT, pcam
from thoraxlib.models.registry import ModelCard, Preset
from thoraxlib.registry import Spec

__all__ = ["jf_top1"]

_CARD = ModelCard(
    paper="jfhealthcare/Chexpert ('top 1 solution of CheXpert', 2019; config example.json); no paper of its own. Its "
    "pooling study became Ye et al., arXiv 2005.14480",
    label_sets=("chexpert5",),
    presets={
        "released": Preset("The default, whose published weights (config/pre_train.pth) need every part of it."),
        "once": Preset(
            "The attention once, before the head, rather than once more for each label: for new training. The released "
            "weights do not fit.",
            {"attention_mode": "once"},
        ),
    },
    published={
        "jfhealthcare/Chexpert, 200 validation studies of CheXpert": dict(
            zip(label_set("chexpert5"), (0.8703, 0.9436, 0.9334, 0.9029, 0.9166), strict=True)
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
    labels : str or sequence of str
        A label set's name, or the labels.
    backbone, pool : str, mapping or module
        Parts, from :mod:`thoraxlib.backbones` and :mod:`thoraxlib.pooling`.
    attention : str, mapping or module, optional
        From :mod:`thoraxlib.blocks`.
    attention_mode : {"cumulative", "once"}
        See :func:`thoraxlib.models.classifier.classifier`.
    norm : bool
        Batch norm of each label's vector ("fc_bn").
    dropout : float
        On each label's vector, in training.
    in_chans : int
        Channels of the images.
    pretrained : bool
        ImageNet weights for the trunk, from which the released weights were trained.
    input_spec : mapping or InputSpec, optional
        Changes to the default input, which is that repository's.
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
        input_spec=InputSpec.imagenet(in_chans).updated(JF_INPUT).updated(input_spec),
    )
