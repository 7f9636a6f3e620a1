"""CheXNet: DenseNet-121 (ReLU after its last norm), average pooling, linear layer.

Rajpurkar et al. 2017, arXiv 1711.05225v3, section 2; trained there from ImageNet weights. 6,968,206 parameters with
14 labels. ``labels="pneumonia"`` is the paper's model of one output. ``head="map"`` pools per-location logits
instead of features: the same network with average pooling; with "lse" the locations with the highest logits decide,
which sharpens heat maps.
"""

from __future__ import annotations

from thoraxlib.models.classifier import classifier
from thoraxlib.models.variant import variant

chexnet = variant("chexnet", __doc__, classifier, backbone="densenet121")
