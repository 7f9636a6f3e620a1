"""PCAM: logit maps, probability-weighted pooling of each label's features, the same layer again.

Ye et al. 2020, arXiv 2005.14480. ``cams.build("pcam", model)`` gives its probability maps. The default input is
512 x 512 pixels. The published code's attention is "cumulative", its "fc_bn" is ``norm=True``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from thoraxlib.input_spec import InputSpec
from thoraxlib.models.classifier import classifier
from thoraxlib.models.variant import variant

#: jfhealthcare/Chexpert: equalised, blurred, longer side 512, padded at right and bottom by 128, (x - 128) / 64.
JF_INPUT: Mapping[str, Any] = {
    "size": [512, 512],
    "mean": [128 / 255],
    "std": [64 / 255],
    "resize": "pad_end",
    "fill": 128 / 255,
    "equalize": True,
    "blur": 3,
}

_INPUT = InputSpec(size=(512, 512))

pcam = variant("pcam", __doc__, classifier, input_spec=_INPUT, backbone="resnet34", head="classwise", pool="pcam")
