"""Checkpoints of QUST-SmartData/CXRClassification: VAN and label-graph models, and their fusion with organ masks."""

from __future__ import annotations

import re

from torch import Tensor

from thoraxlib.checkpoints import register
from thoraxlib.checkpoints.layout import LOGITS, Layout, StateDict, bare
from thoraxlib.graphs import Graph

_BACKBONES = ("net.", "van.", "features.")
_RESNET = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
_FUSION = {"w": "weight", "b": "bias"}
_GATE = "spatial_gating_unit."


@register("cxr_lka")
def cxr_lka() -> Layout:
    """QUST-SmartData/CXRClassification: VAN, its multi-scale and dilated forms, and every model with a label graph.

    The label graph is saved as it was counted, before its normalisation. Label vectors are not saved, nor are the
    random weights and norms of the segmentation fusion: the model keeps its own. Files that do have the latter, as
    ``w.0``, ``b.0``, ``bn.0.weight``, ``vit.0.cls_token`` and so on, are read whole.
    """
    return Layout(recognises=_recognises, translate=_translate, spare=_spare, kept=_kept)


def _recognises(state: StateDict) -> bool:
    keys = set(bare(state))
    embeddings = {f"{backbone}patch_embed1.proj.weight" for backbone in ("", *_BACKBONES)}
    return bool({*embeddings, "gc1.weight", "gcn.A"} & keys)


def _translate(state: StateDict) -> dict[str, Tensor]:
    entries = bare(state)
    dilated = any(_GATE in key and "conv1x1" in key for key in entries)
    result = {}
    for key, value in entries.items():
        name = _renamed(key.removeprefix("gcn."))
        if name == "A" and value.ndim == 2:
            nodes = tuple(map(str, range(len(value))))
            name, value = "head.operator.matrix", Graph(nodes, value.float()).normalized()
        result[_gate(name, dilated)] = value
    return result


def _renamed(key: str) -> str:
    first, _, rest = key.partition(".")
    number = re.fullmatch(r"gc(\d)", first)
    if number:
        return f"head.convolutions.{int(number[1]) - 1}.{rest}"
    if first == "unet":
        return f"segmenter.{rest}"
    if first in _FUSION and rest.isdigit():
        return f"fusion.stages.{rest}.{_FUSION[first]}"
    if first in ("bn", "vit") and rest[:1].isdigit():
        stage, _, leaf = rest.partition(".")
        return f"fusion.stages.{stage}.norm.{leaf}" if first == "bn" else f"head.vits.{stage}.{leaf}"
    if key in ("head.weight", "head.bias", "fc.weight", "fc.bias"):
        return f"{LOGITS}.{rest}"
    backbone = next((backbone for backbone in _BACKBONES if key.startswith(backbone)), "")
    inside = key.removeprefix(backbone)
    if re.match(r"(patch_embed|block|norm)[1-4]\.", inside):
        return f"backbone.{inside}"
    if backbone != "features.":
        return key
    first, _, rest = inside.partition(".")
    if first in _RESNET:
        return f"{_RESNET[first]}.{rest}"
    if inside.startswith("norm."):  # Swin's last, before the pooling
        return f"neck.{rest}"
    if inside.startswith(("layers.", "patch_embed.")):
        return _swin(inside)
    return key


def _swin(key: str) -> str:
    """Up to timm 0.6 a stage of Swin ended in the down-sampling that now begins the next one."""
    found = re.match(r"layers\.(\d)\.downsample\.(.*)", key)
    return f"layers.{int(found[1]) + 1}.downsample.{found[2]}" if found else key


def _gate(key: str, dilated: bool) -> str:
    """Names inside a multi-scale or dilated attention."""
    before, gate, rest = key.partition(_GATE)
    layer, _, leaf = rest.partition(".")
    several = re.fullmatch(r"conv([1-5])0|conv_spatial([1-5])1|conv([1-5])2", layer)
    if several:
        branch = int(next(filter(None, several.groups()))) - 1
        part = next(index for index, group in enumerate(several.groups()) if group)
        return f"{before}{gate}branches.{branch}.{part}.{leaf}"
    single = re.fullmatch(r"conv(\d)", layer)
    return f"{before}{gate}kernels.{single[1]}.{leaf}" if single and dilated else key


def _spare(key: str) -> bool:
    # Swin's tables are computed
    return key.endswith(("relative_position_index", "attn_mask"))


def _kept(key: str) -> bool:
    return key == "head.embedding.vectors" or key.startswith("fusion.stages.")
