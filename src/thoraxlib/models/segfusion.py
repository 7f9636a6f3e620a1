"""SegFusionVANGCN and similar models: large kernels, organ masks on several feature maps, a graph of the labels.

The networks of QUST-SmartData/CXRClassification, each a row of options.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from thoraxlib.input_spec import InputSpec
from thoraxlib.models.classifier import classifier
from thoraxlib.models.variant import variant

# The published code feeds pixels in [0, 1] without normalisation, also to ImageNet weights.
_member = partial(variant, base=classifier, input_spec=InputSpec(mean=(0.0,), std=(1.0,)), backbone="van_b0")

_GRAPH = {"name": "mlgcn", "threshold": 0.3, "isolated": "ignore"}
_DENSER = {"name": "mlgcn", "threshold": 0.2, "isolated": "ignore"}
_GELU = {"name": "label_graph", "act": "gelu", "act_last": "gelu"}
_MLGCN = {"name": "label_graph", "act": "leaky_relu", "act_last": None}
_SEGMENTED: dict[str, Any] = {"fusion": "seg_pyramid", "segmenter": "unet"}

_member(
    "segfusion_vangcn",
    "The paper's model: VAN-B0, organ masks on its four feature maps, classifiers from a graph of the labels.",
    head=_GELU,
    **_SEGMENTED,
    adjacency=_GRAPH,
)
_member("segfusion_van", "SegFusionVANGCN with a linear layer instead of the label graph.", **_SEGMENTED)
_member(
    "segfusion_vanvit",
    "SegFusionVAN with a small vision transformer on every feature map.",
    head="vit_per_stage",
    **_SEGMENTED,
)
_member(
    "seg_vangcn",
    "The image times the organ mask, VAN-B0, label graph.",
    fusion="seg_input",
    segmenter="unet",
    head=_GELU,
    adjacency=_GRAPH,
)
_member(
    "fusion_van",
    "VAN-B0 with all four feature maps pooled, the last one twice; no masks.",
    fusion={"name": "pyramid", "repeat_last": True},
)
_member("van", "VAN-B0, average pooling, a linear layer.")
_member(
    "ms_van",
    "VAN-B0 whose large-kernel attention has five branches of different kernels.",
    backbone={"name": "van_b0", "gate": "lka_multiscale"},
)
_member(
    "dilation_van",
    "VAN-B0 whose large-kernel attention is a sum of dilated kernels.",
    backbone={"name": "van_b0", "gate": "lka_dilated"},
)
_member("vangcn", "VAN-B0, average pooling, label graph with GELUs.", head=_GELU, adjacency=_GRAPH)
_member(
    "gcn_van",
    "VAN-B0, maximum pooling, label graph in ML-GCN's form.",
    head=_MLGCN,
    pool="max",
    adjacency=_GRAPH,
)
_member(
    "res_gcn",
    "ResNet-101, maximum pooling, label graph: ML-GCN (Chen et al. 2019, arXiv 1904.03582) with other data.",
    backbone="resnet101",
    head=_MLGCN,
    pool="max",
    adjacency=_DENSER,
)
_member(
    "dense_gcn",
    "DenseNet-201 without its last ReLU, maximum pooling, a label graph of five layers.",
    backbone={"name": "densenet201", "final_act": False},
    head={**_MLGCN, "hidden": (512, 1024, 2048, 4096)},
    pool="max",
    adjacency=_DENSER,
)
_member(
    "swin_gcn",
    "Swin-L, maximum pooling, label graph.",
    backbone="swin_large_patch4_window7_224",
    neck="layer_norm",
    head=_MLGCN,
    pool="max",
    adjacency=_DENSER,
)
_member(
    "vtnet",
    "VTNet: VAN-B0; its logits are averaged with those of Query2Label's transformer.",
    backbone={"name": "van_b0", "widths": (32, 64, 128, 256)},
    head="query_decoder",
)
_member(
    "dense_and_van",
    "DenseAndVAN: DenseNet-121, one stage of VAN blocks, average pooling, a linear layer.",
    backbone="densenet121",
    neck="van_stage",
)
_member(
    "densevan",
    "DenseVan: dense blocks and VAN blocks at full resolution, average pooling, a linear layer.",
    backbone="dense_van",
)
_member(
    "vanillanet",
    "VanillaNet: convolutions and poolings in a chain, and a classifier of two layers.",
    backbone="vanillanet_5",
    head="vanilla",
)
