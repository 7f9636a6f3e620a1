"""ResNet-50, DenseNet-121 or VGG-16, average pooling and one linear layer, for the 22 labels of PadChest + Open-i.

23,553,110 parameters with ResNet-50; trained from ImageNet weights, see :func:`thoraxlib.training.jaydurant_stage`. The
default input is 250 x 250 pixels.
"""

from __future__ import annotations

from thoraxlib.input_spec import InputSpec
from thoraxlib.models.classifier import classifier
from thoraxlib.models.variant import variant

_INPUT = InputSpec(size=(250, 250))

unified_dcnn_padchest = variant(
    "unified_dcnn_padchest", __doc__, classifier, input_spec=_INPUT, labels="padchest_openi22"
)
