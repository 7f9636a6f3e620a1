"""The CheXpert model of jfhealthcare: DenseNet-121, pyramid attention, mean and maximum, a norm for each label.

The default input is that of the repository, whose published weights were trained from ImageNet weights.
"""

from __future__ import annotations

from thoraxlib.input_spec import InputSpec
from thoraxlib.models.classifier import classifier
from thoraxlib.models.pcam import JF_INPUT
from thoraxlib.models.variant import variant

_INPUT = InputSpec().updated(JF_INPUT)

jf_top1 = variant(
    "jf_top1",
    __doc__,
    classifier,
    input_spec=_INPUT,
    labels="chexpert5",
    backbone="densenet121",
    head="classwise",
    norm=True,
    pool="avg_max",
    attention="pyramid_attention",
    attention_mode="cumulative",
)
