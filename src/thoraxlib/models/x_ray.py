"""alinstein/X_RAY: backbone, [attention], pooling, dropout, linear layer.

Its own backbones are presets; pool "pcam" makes its PCAM model. The repository trains from ImageNet weights.
"""

from __future__ import annotations

from thoraxlib.models.classifier import classifier
from thoraxlib.models.variant import variant

x_ray = variant(
    "x_ray",
    __doc__,
    classifier,
    labels="nih8",
    backbone="resnet18",
    dropout=0.5,
    pool="max",
)
