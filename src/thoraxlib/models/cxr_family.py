"""The rarer networks of QUST-SmartData/CXRClassification: VTNet, DenseAndVAN, DenseVan, VanillaNet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from thoraxlib.models.large_kernel import family_card, member
from thoraxlib.models.registry import Preset

_REPOSITORY = (
    "(no paper: QUST-SmartData/CXRClassification has it beside SegFusionVANGCN, Biomedical Signal Processing and "
    "Control 100, 2024, doi 10.1016/j.bspc.2024.107018)"
)


def _rare(
    name: str, summary: str, *notes: str, parity: Mapping[str, str], paper: str = _REPOSITORY, **defaults: Any
) -> None:
    card = family_card(
        paper=paper,
        presets={"original": Preset("The published order of the labels.", {"labels": "nih14_alphabetical"})},
        parity=parity,
        notes=(*notes, "No results on chest X-rays and no weights trained on them were published."),
    )
    member(name, summary, card, **defaults)


_rare(
    "vtnet",
    "VTNet: VAN-B0, whose logits are mixed with those of Query2Label's transformer.",
    "Its VAN has 128 channels, not 160, in stage 3: the ImageNet weights of VAN-B0 do not fit.",
    "The position code follows the map, so that every image size will do; the original stores it for one.",
    paper=f"Liu et al., Query2Label, arXiv 2107.10834, 2021, for the transformer; {_REPOSITORY}",
    parity={"cxr_vtnet": "logits, both branches, stages, position code, layers of the transformer"},
    backbone={"name": "van_b0", "widths": (32, 64, 128, 256)},
    head="query_decoder",
)
_rare(
    "dense_and_van",
    "DenseAndVAN: DenseNet-121, one stage of VAN blocks, average pooling, a linear layer.",
    parity={"cxr_dense_and_van": "logits, DenseNet's map, embedding, blocks and norm of the stage"},
    backbone="densenet121",
    neck="van_stage",
)
_rare(
    "densevan",
    "DenseVan: dense blocks and VAN blocks at full resolution, average pooling, a linear layer.",
    "Nothing has a stride: about 870 GMAC at 224 x 224. For small images.",
    parity={"cxr_densevan": "logits, convolutions, dense blocks, VAN blocks, norms"},
    backbone="dense_van",
)
_rare(
    "vanillanet",
    "VanillaNet: convolutions and poolings in a chain, and a classifier of two layers.",
    "backbone 'vanillanet_5' (the default) to 'vanillanet_13', 'vanillanet_13_x1_5', 'vanillanet_13_x1_5_ada_pool'.",
    "model.backbone.fuse() and model.head.fuse() fold it for inference: the same logits, a third fewer weights.",
    "activation_slope is meant to rise from 0 to 1 in training; the repository leaves it at 1, the default here.",
    paper="Chen, Wang, Guo, Tao, VanillaNet: the Power of Minimalism in Deep Learning, arXiv 2305.12972, 2023; in "
    "QUST-SmartData/CXRClassification",
    parity={"cxr_vanillanet5": "logits before and after fusing, stem, stages, hidden units of the classifier"},
    backbone="vanillanet_5",
    head="vanilla",
)
