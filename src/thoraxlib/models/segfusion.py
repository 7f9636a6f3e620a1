"""SegFusionVANGCN and its relatives: large kernels, organ masks over a pyramid, a graph of the labels."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

from torch import nn

from thoraxlib import backbones, graphs
from thoraxlib import fusion as fusions
from thoraxlib.graphs.adjacency import Builder
from thoraxlib.input_spec import InputSpec
from thoraxlib.models import register
from thoraxlib.models.base import Classifier
from thoraxlib.models.classifier import classifier
from thoraxlib.models.registry import ModelCard, Preset
from thoraxlib.registry import Spec

__all__ = ["label_gcn", "large_kernel", "member"]

#: Pixels in [0, 1] as they are, also under ImageNet weights: what the published code feeds.
_UNIT: Mapping[str, Any] = {"mean": (0.0,), "std": (1.0,)}

_PAPER = (
    "Multi-label Chest X-ray Image Classification Based on Long-range Dependencies Capture and Label Relationships "
    "Learning, Biomedical Signal Processing and Control 100, 2024, doi 10.1016/j.bspc.2024.107018"
)
_LABEL_SETS = ("nih14", "chexpert5", "mimic14")
_GRAPH = {"name": "mlgcn", "threshold": 0.3, "isolated": "ignore"}
_SPARSE = {"name": "mlgcn", "threshold": 0.2, "isolated": "ignore"}
_GELU = {"name": "label_graph", "act": "gelu", "act_last": "gelu"}
_MLGCN = {"name": "label_graph", "act": "leaky_relu", "act_last": None}
_DEEP = {**_MLGCN, "hidden": (512, 1024, 2048, 4096)}
_UNTRAINED = {"affine": "position", "start": "uniform", "trained": False}
_NIH = {"labels": "nih14_alphabetical"}
_ORIGINAL = {
    **_NIH,
    "fusion": {"name": "seg_pyramid", **_UNTRAINED, "norm": "batch_statistics"},
}
_AS_SAID = Preset(
    "The published code in evaluation: random weights at every place, untrained, and norms that always take the "
    "statistics of the batch, so that a film's logits depend on those beside it.",
    _ORIGINAL,
)
_AS_MEANT = Preset(
    "The same fusion with its parameters trained and norms that have running statistics.",
    {**_NIH, "fusion": {"name": "seg_pyramid", "affine": "position", "start": "uniform"}},
)
_WORDS = {"embeddings": "word_vectors"}
_PUBLISHED_LABELS = Preset("The published order of the labels, and word vectors for them.", {**_NIH, **_WORDS})


def _with(preset: Preset, **options: Any) -> Preset:
    return Preset(preset.summary, {**preset.options, **options})


def large_kernel(
    *,
    labels: str | Sequence[str] = "nih14",
    backbone: Spec | backbones.Backbone = "van_b0",
    fusion: Spec | fusions.Fusion | None = None,
    segmenter: Spec | nn.Module | None = None,
    mask: Literal["hard", "soft"] = "hard",
    train_segmenter: bool = False,
    neck: Spec | nn.Module | None = None,
    head: Spec = "linear",
    pool: Spec | nn.Module = "avg",
    in_chans: int = 3,
    pretrained: bool = False,
    input_spec: Mapping[str, Any] | InputSpec | None = None,
) -> Classifier:
    """A classifier of the family without a label graph.

    Parameters
    ----------
    labels : str or sequence of str
        A label set's name, or the labels.
    backbone : str, mapping or Backbone
        From :mod:`thoraxlib.backbones`: any, also under a fusion.
    fusion : str, mapping or Fusion, optional
        From :mod:`thoraxlib.fusion`.
    segmenter : str, mapping or module, optional
        From :mod:`thoraxlib.segmentation`; None: masks are given, ``model(x, masks)``. It is built with random weights:
        load or train them first.
    mask : {"hard", "soft"}
        What is made of the segmenter's logits.
    train_segmenter : bool
        Train it along, with soft masks.
    neck : str, mapping or module, optional
        From :mod:`thoraxlib.blocks`, between backbone and head; without a fusion.
    head, pool : str, mapping or module
        From :mod:`thoraxlib.heads` and :mod:`thoraxlib.pooling`.
    in_chans : int
        Channels of the images.
    pretrained : bool
        ImageNet weights for the backbone. VAN's were trained on pixels with mean and deviation 0.5:
        ``input_spec={"mean": [0.5], "std": [0.5]}``.
    input_spec : mapping or InputSpec, optional
        Changes to the default input (224 x 224, pixels in [0, 1]).
    """
    return classifier(
        labels=labels,
        backbone=backbone,
        fusion=fusion,
        segmenter=segmenter,
        mask=mask,
        train_segmenter=train_segmenter,
        neck=neck,
        head=head,
        pool=pool,
        pretrained=pretrained,
        input_spec=InputSpec(channels=in_chans, **_UNIT).updated(input_spec),
    )


def label_gcn(
    *,
    labels: str | Sequence[str] = "nih14",
    backbone: Spec | backbones.Backbone = "van_b0",
    fusion: Spec | fusions.Fusion | None = None,
    segmenter: Spec | nn.Module | None = None,
    mask: Literal["hard", "soft"] = "hard",
    train_segmenter: bool = False,
    neck: Spec | nn.Module | None = None,
    head: Spec = "label_graph",
    pool: Spec | nn.Module = "avg",
    adjacency: Spec | graphs.Graph | Builder = _GRAPH,
    counts: Spec | graphs.LabelCounts | None = None,
    embeddings: Spec | graphs.embeddings.Embedding = "ppmi",
    convolution: Spec = "dense",
    in_chans: int = 3,
    pretrained: bool = False,
    input_spec: Mapping[str, Any] | InputSpec | None = None,
) -> Classifier:
    """A classifier of the family with a label graph.

    Parameters
    ----------
    adjacency : str, mapping or Graph
        From :mod:`thoraxlib.graphs.adjacency`.
    counts : str, mapping or LabelCounts, optional
        From :mod:`thoraxlib.graphs.counts`; by default shipped ones that have all labels.
    embeddings : str, mapping or Embedding
        From :mod:`thoraxlib.graphs.embeddings`.
    convolution : str or mapping
        From :mod:`thoraxlib.graphs.convolutions`.
    head : str or mapping
        "label_graph" and its form; see :class:`thoraxlib.heads.label_graph.LabelGraphHead`.
    labels, backbone, fusion, segmenter, mask, train_segmenter, neck, pool, in_chans, pretrained, input_spec
        As for :func:`large_kernel`.
    """
    form = {"name": head} if isinstance(head, str) else dict(head)
    graph = {"adjacency": adjacency, "counts": counts, "embeddings": embeddings, "convolution": convolution}
    return large_kernel(
        labels=labels,
        backbone=backbone,
        fusion=fusion,
        segmenter=segmenter,
        mask=mask,
        train_segmenter=train_segmenter,
        neck=neck,
        head={**graph, **form},
        pool=pool,
        in_chans=in_chans,
        pretrained=pretrained,
        input_spec=input_spec,
    )


def member(name: str, base: Callable[..., Classifier], summary: str, card: Mapping[str, Any], **defaults: Any) -> None:
    """Register a member of the family: `base` with other defaults; `card` has what is the member's own."""
    factory = partial(base, **defaults)
    factory.__doc__ = f"{summary}\n\n{inspect.getdoc(base)}"
    factory.__module__ = __name__  # type: ignore[attr-defined]
    shared = {"paper": _PAPER, "label_sets": _LABEL_SETS, "input_spec": InputSpec(**_UNIT)}
    register(name, card=ModelCard(**{**shared, **card}))(factory)


_NO_WEIGHTS = "No trained weights were published, of classifier or UNet."
_FUSED = (
    _NO_WEIGHTS,
    "In the published code, what the fusion multiplies and adds, and its norms, are no parameters: random, untrained, "
    "not saved, and normalised by the batch at hand. By default they are the product with the mask and a batch norm.",
    "The UNet is built with random weights: load or train it (examples/segfusion_vangcn.py), or give masks.",
)
_MEAN_AUC = {
    "abstract, NIH ChestX-ray14": {"mean": 0.915},
    "abstract, CheXpert": {"mean": 0.845},
    "abstract, MIMIC-CXR-JPG": {"mean": 0.825},
}
_SEGMENTED = {"fusion": "seg_pyramid", "segmenter": "unet"}

member(
    "segfusion_vangcn",
    label_gcn,
    "The paper's model: VAN-B0, organ masks over its four stages, classifiers from a graph of the labels.",
    {
        "presets": {"original": _with(_AS_SAID, **_WORDS), "trained_fusion": _with(_AS_MEANT, **_WORDS)},
        "published": _MEAN_AUC,
        "parity": {
            "cxr_segfusionvangcn": "preset 'original' and 'trained_fusion': logits, masks, stages, Grad-CAM",
            "cxr_segfusionvangcn_224": "the same at 224 pixels, with given masks",
            "cxr_label_gcn": "the head, and its forms",
            "cxr_unet": "the segmenter",
        },
        "notes": (
            *_FUSED,
            "The published means are of the abstract. The code's data loaders hold commented-out lines that move half "
            "of the test images into training and half into validation; on NIH's official split, others report about "
            "0.80 to 0.85. Take 0.915 as no target.",
            "The label graph of NIH at the published threshold 0.3 has three edges: 9 of 14 labels are without any.",
            "The last GELU, which the paper that the head comes from (ML-GCN) does not have, keeps every classifier's "
            "weights above -0.17; head={'name': 'label_graph', 'act': 'gelu', 'act_last': None} leaves it out.",
        ),
    },
    head=_GELU,
    **_SEGMENTED,
)
member(
    "segfusion_van",
    large_kernel,
    "SegFusionVANGCN with a linear layer instead of the label graph.",
    {
        "presets": {"original": _AS_SAID, "trained_fusion": _AS_MEANT},
        "parity": {"cxr_segfusionvan": "both presets: logits, masks, stages, Grad-CAM"},
        "notes": _FUSED,
    },
    **_SEGMENTED,
)
member(
    "segfusion_vanvit",
    large_kernel,
    "SegFusionVAN with a small vision transformer on every stage.",
    {
        "presets": {"original": _AS_SAID, "trained_fusion": _AS_MEANT},
        "parity": {"cxr_segfusionvanvit": "both presets: logits, with given masks"},
        "notes": (*_FUSED, "The original's transformers are neither trained nor saved; here they are."),
    },
    head="vit_per_stage",
    **_SEGMENTED,
)
member(
    "seg_vangcn",
    label_gcn,
    "The image times the organ mask, VAN-B0, label graph.",
    {
        "presets": {"original": _PUBLISHED_LABELS},
        "parity": {"cxr_segvangcn": "preset 'original': logits, masks, Grad-CAM"},
        "notes": (_NO_WEIGHTS, _FUSED[-1]),
    },
    fusion="seg_input",
    segmenter="unet",
    head=_GELU,
)
member(
    "fusion_van",
    large_kernel,
    "VAN-B0 with all four stages pooled, the last one twice; no masks.",
    {"parity": {"cxr_fusionvan": "logits, Grad-CAM"}, "notes": (_NO_WEIGHTS,)},
    fusion={"name": "pyramid", "repeat_last": True},
)
member("van", large_kernel, "VAN-B0, average pooling, a linear layer.", {"parity": {"cxr_van": "logits, stages"}})
member(
    "ms_van",
    large_kernel,
    "VAN-B0 whose large-kernel attention has five branches of different kernels.",
    {
        "presets": {
            "original": Preset(
                "As the code runs: the third branch's result three times, two branches unused.",
                {"backbone": {"name": "van_b0", "gate": {"name": "lka_multiscale", "used": [0, 1, 2, 2, 2]}}, **_NIH},
            )
        },
        "parity": {"cxr_lka": "its attention, in both forms"},
    },
    backbone={"name": "van_b0", "gate": "lka_multiscale"},
)
member(
    "dilation_van",
    large_kernel,
    "VAN-B0 whose large-kernel attention is a sum of dilated kernels.",
    {"parity": {"cxr_lka": "its attention"}},
    backbone={"name": "van_b0", "gate": "lka_dilated"},
)
_GRAPH_NOTES = (
    "The original pools by 7x7 and so takes 224-pixel images alone; the maximum over the map is the same there.",
)
member(
    "vangcn",
    label_gcn,
    "VAN-B0, average pooling, label graph with GELUs.",
    {
        "presets": {"original": _PUBLISHED_LABELS},
        "parity": {"cxr_vangcn": "preset 'original': logits, stages"},
    },
    head=_GELU,
)
member(
    "gcn_van",
    label_gcn,
    "VAN-B0, maximum pooling, label graph in ML-GCN's form.",
    {
        "presets": {"original": _PUBLISHED_LABELS},
        "parity": {"cxr_gcnvan": "preset 'original': logits, stages"},
        "notes": _GRAPH_NOTES,
    },
    head=_MLGCN,
    pool="max",
)
member(
    "res_gcn",
    label_gcn,
    "ResNet-101, maximum pooling, label graph: ML-GCN (Chen et al. 2019, arXiv 1904.03582) with other data.",
    {
        "presets": {"original": _PUBLISHED_LABELS},
        "parity": {"cxr_resgcn": "preset 'original': logits, stages"},
        "notes": _GRAPH_NOTES,
    },
    backbone="resnet101",
    head=_MLGCN,
    pool="max",
    adjacency=_SPARSE,
)
member(
    "dense_gcn",
    label_gcn,
    "DenseNet-201 without its last ReLU, maximum pooling, a label graph of five layers.",
    {
        "presets": {"original": _PUBLISHED_LABELS},
        "parity": {"cxr_densegcn": "preset 'original': logits, stages"},
        "notes": _GRAPH_NOTES,
    },
    backbone={"name": "densenet201", "final_act": False},
    head=_DEEP,
    pool="max",
    adjacency=_SPARSE,
)
member(
    "swin_gcn",
    label_gcn,
    "Swin-L, maximum pooling, label graph.",
    {
        "presets": {"original": _PUBLISHED_LABELS},
        "parity": {"cxr_swingcn": "preset 'original': logits, stages"},
        "notes": _GRAPH_NOTES,
    },
    backbone="swin_large_patch4_window7_224",
    neck="layer_norm",
    head=_MLGCN,
    pool="max",
    adjacency=_SPARSE,
)
