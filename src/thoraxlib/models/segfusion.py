"""SegFusionVANGCN and its relatives: large kernels, organ masks over a pyramid, a graph of the labels."""

from __future__ import annotations

from functools import partial
from typing import Any

from thoraxlib.models.large_kernel import family_card, member
from thoraxlib.models.registry import Preset

_card = partial(
    family_card,
    paper="Multi-label Chest X-ray Image Classification Based on Long-range Dependencies Capture and Label "
    "Relationships Learning, Biomedical Signal Processing and Control 100, 2024, doi 10.1016/j.bspc.2024.107018",
)
_GRAPH = {"name": "mlgcn", "threshold": 0.3, "isolated": "ignore"}
_DENSER = {"name": "mlgcn", "threshold": 0.2, "isolated": "ignore"}
_GELU = {"name": "label_graph", "act": "gelu", "act_last": "gelu"}
_MLGCN = {"name": "label_graph", "act": "leaky_relu", "act_last": None}
_DEEP = {**_MLGCN, "hidden": (512, 1024, 2048, 4096)}
_PLACES = {"name": "seg_pyramid", "affine": "position", "start": "uniform"}
_NIH = {"labels": "nih14_alphabetical"}
_AS_SAID = Preset(
    "The published code in evaluation: random weights at every place, untrained, and norms that always take the "
    "statistics of the batch, so that a film's logits depend on those beside it.",
    {**_NIH, "fusion": {**_PLACES, "trained": False, "norm": "batch_statistics"}},
)
_AS_MEANT = Preset(
    "The same fusion with its parameters trained and norms that have running statistics.",
    {**_NIH, "fusion": _PLACES},
)
_WORDS = {"embeddings": "word_vectors"}
_PUBLISHED_LABELS = Preset("The published order of the labels, and word vectors for them.", {**_NIH, **_WORDS})


def _with(preset: Preset, **options: Any) -> Preset:
    return Preset(preset.summary, {**preset.options, **options})


_NO_WEIGHTS = "No trained weights were published, of classifier or UNet."
_FUSED = (
    _NO_WEIGHTS,
    "In the published code, what the fusion multiplies and adds, and its norms, are no parameters: random, untrained, "
    "not saved, and normalised by the batch at hand. By default they are the product with the mask and a batch norm.",
    "The UNet is built with random weights: load or train it (examples/segfusion_vangcn.py), or give masks.",
)
_POOLED = (
    "The original pools by 7x7 and so takes 224-pixel images alone; the maximum over the map is the same there.",
)
_MEAN_AUC = {
    "abstract, NIH ChestX-ray14": {"mean": 0.915},
    "abstract, CheXpert": {"mean": 0.845},
    "abstract, MIMIC-CXR-JPG": {"mean": 0.825},
}
_SEGMENTED = {"fusion": "seg_pyramid", "segmenter": "unet"}

member(
    "segfusion_vangcn",
    "The paper's model: VAN-B0, organ masks over its four stages, classifiers from a graph of the labels.",
    _card(
        presets={"original": _with(_AS_SAID, **_WORDS), "trained_fusion": _with(_AS_MEANT, **_WORDS)},
        published=_MEAN_AUC,
        parity={
            "cxr_segfusionvangcn": "preset 'original' and 'trained_fusion': logits, masks, stages, Grad-CAM",
            "cxr_segfusionvangcn_224": "the same at 224 pixels, with given masks",
            "cxr_label_gcn": "the head, and its forms",
            "cxr_unet": "the segmenter",
        },
        notes=(
            *_FUSED,
            "The published means are of the abstract. The code's data loaders hold commented-out lines that move half "
            "of the test images into training and half into validation; on NIH's official split, others report about "
            "0.80 to 0.85. Take 0.915 as no target.",
            "The label graph of NIH at the published threshold 0.3 has three edges: 9 of 14 labels are without any.",
            "The last GELU, which the paper that the head comes from (ML-GCN) does not have, keeps every classifier's "
            "weights above -0.17; head={'name': 'label_graph', 'act': 'gelu', 'act_last': None} leaves it out.",
        ),
    ),
    head=_GELU,
    **_SEGMENTED,
    adjacency=_GRAPH,
)
member(
    "segfusion_van",
    "SegFusionVANGCN with a linear layer instead of the label graph.",
    _card(
        presets={"original": _AS_SAID, "trained_fusion": _AS_MEANT},
        parity={"cxr_segfusionvan": "both presets: logits, masks, stages, Grad-CAM"},
        notes=_FUSED,
    ),
    **_SEGMENTED,
)
member(
    "segfusion_vanvit",
    "SegFusionVAN with a small vision transformer on every stage.",
    _card(
        presets={"original": _AS_SAID, "trained_fusion": _AS_MEANT},
        parity={"cxr_segfusionvanvit": "both presets: logits, with given masks"},
        notes=(*_FUSED, "The original's transformers are neither trained nor saved; here they are."),
    ),
    head="vit_per_stage",
    **_SEGMENTED,
)
member(
    "seg_vangcn",
    "The image times the organ mask, VAN-B0, label graph.",
    _card(
        presets={"original": _PUBLISHED_LABELS},
        parity={"cxr_segvangcn": "preset 'original': logits, masks, Grad-CAM"},
        notes=(_NO_WEIGHTS, _FUSED[-1]),
    ),
    fusion="seg_input",
    segmenter="unet",
    head=_GELU,
    adjacency=_GRAPH,
)
member(
    "fusion_van",
    "VAN-B0 with all four stages pooled, the last one twice; no masks.",
    _card(parity={"cxr_fusionvan": "logits, Grad-CAM"}, notes=(_NO_WEIGHTS,)),
    fusion={"name": "pyramid", "repeat_last": True},
)
member("van", "VAN-B0, average pooling, a linear layer.", _card(parity={"cxr_van": "logits, stages"}))
member(
    "ms_van",
    "VAN-B0 whose large-kernel attention has five branches of different kernels.",
    _card(
        presets={
            "original": Preset(
                "As the code runs: the third branch's result three times, two branches unused.",
                {"backbone": {"name": "van_b0", "gate": {"name": "lka_multiscale", "used": [0, 1, 2, 2, 2]}}, **_NIH},
            )
        },
        parity={"cxr_lka": "its attention, in both forms"},
    ),
    backbone={"name": "van_b0", "gate": "lka_multiscale"},
)
member(
    "dilation_van",
    "VAN-B0 whose large-kernel attention is a sum of dilated kernels.",
    _card(parity={"cxr_lka": "its attention"}),
    backbone={"name": "van_b0", "gate": "lka_dilated"},
)
member(
    "vangcn",
    "VAN-B0, average pooling, label graph with GELUs.",
    _card(
        presets={"original": _PUBLISHED_LABELS},
        parity={"cxr_vangcn": "preset 'original': logits, stages"},
    ),
    head=_GELU,
    adjacency=_GRAPH,
)
member(
    "gcn_van",
    "VAN-B0, maximum pooling, label graph in ML-GCN's form.",
    _card(
        presets={"original": _PUBLISHED_LABELS},
        parity={"cxr_gcnvan": "preset 'original': logits, stages"},
        notes=_POOLED,
    ),
    head=_MLGCN,
    pool="max",
    adjacency=_GRAPH,
)
member(
    "res_gcn",
    "ResNet-101, maximum pooling, label graph: ML-GCN (Chen et al. 2019, arXiv 1904.03582) with other data.",
    _card(
        presets={"original": _PUBLISHED_LABELS},
        parity={"cxr_resgcn": "preset 'original': logits, stages"},
        notes=_POOLED,
    ),
    backbone="resnet101",
    head=_MLGCN,
    pool="max",
    adjacency=_DENSER,
)
member(
    "dense_gcn",
    "DenseNet-201 without its last ReLU, maximum pooling, a label graph of five layers.",
    _card(
        presets={"original": _PUBLISHED_LABELS},
        parity={"cxr_densegcn": "preset 'original': logits, stages"},
        notes=_POOLED,
    ),
    backbone={"name": "densenet201", "final_act": False},
    head=_DEEP,
    pool="max",
    adjacency=_DENSER,
)
member(
    "swin_gcn",
    "Swin-L, maximum pooling, label graph.",
    _card(
        presets={"original": _PUBLISHED_LABELS},
        parity={"cxr_swingcn": "preset 'original': logits, stages"},
        notes=_POOLED,
    ),
    backbone="swin_large_patch4_window7_224",
    neck="layer_norm",
    head=_MLGCN,
    pool="max",
    adjacency=_DENSER,
)
