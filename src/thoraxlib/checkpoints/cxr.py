"""The checkpoints of QUST-SmartData/CXRClassification."""

from __future__ import annotations

import re

from torch import Tensor

from thoraxlib.checkpoints import register
from thoraxlib.checkpoints.layout import LOGITS, Layout, StateDict, having, matrix, renaming
from thoraxlib.graphs import Graph

_GATE = r"(spatial_gating_unit)\."
_RULES = {
    r"^gcn\.": "",
    **{rf"^gc{k + 1}\.": f"head.convolutions.{k}." for k in range(9)},
    r"^unet\.": "segmenter.",
    r"^w\.(\d+)$": r"fusion.stages.\1.weight",
    r"^b\.(\d+)$": r"fusion.stages.\1.bias",
    r"^bn\.(\d+)": r"fusion.stages.\1.norm",
    r"^vit\.(\d+)": r"head.vits.\1",
    r"^(head|fc)\.(weight|bias)$": rf"{LOGITS}.\2",
    r"^(net\.|van\.|features\.)?(patch_embed|block|norm)([1-4]\.)": r"backbone.\2\3",
    # features: a ResNet's layers in a row, or Swin, with the norm before its pooling. Up to timm 0.6 a stage of Swin
    # ended in the down-sampling that now begins the next one
    **{r"^features\.0\.": "conv1.", r"^features\.1\.": "bn1.", r"^features\.norm\.": "neck."},
    **{rf"^features\.{k + 3}\.": f"layer{k}." for k in range(1, 5)},
    **{rf"^features\.layers\.{k}\.downsample\.": f"layers.{k + 1}.downsample." for k in range(9)},
    r"^features\.(layers|patch_embed)\.": r"\1.",
    # multi-scale attention: five branches of three convolutions each
    **{rf"{_GATE}conv{k + 1}0\.": rf"\1.branches.{k}.0." for k in range(5)},
    **{rf"{_GATE}conv_spatial{k + 1}1\.": rf"\1.branches.{k}.1." for k in range(5)},
    **{rf"{_GATE}conv{k + 1}2\.": rf"\1.branches.{k}.2." for k in range(5)},
}
_DILATED = {rf"{_GATE}conv(\d)\.": r"\1.kernels.\2."}
_VTNET = {
    r"^backbone\.head\.": "head.linear.fc.",
    r"^transformer\.decoder\.norm\.": "head.norm.",
    r"^transformer\.": "head.",
    r"\.layers\.": ".",
    r"\.multihead_attn\.": ".self_attn.",
    # norm1 would be that of the attention among the queries, which its decoder lacks
    r"(decoder\.\d+)\.norm2\.": r"\1.norm1.",
    r"(decoder\.\d+)\.norm3\.": r"\1.norm2.",
    r"^input_proj\.": "head.input_proj.",
    r"^query_embed\.weight$": "head.queries",
    r"^fc\.W$": "head.labelwise.weight",
    r"^fc\.b$": "head.labelwise.bias",
    r"^W1$": "head.linear_share",
    r"^W2$": "head.decoder_share",
    r"^b$": "head.constant",
}
_NAMES = {"labels": ("nih14_alphabetical", "chexpert5_alphabetical", "mimic14")}
_BATCHED = ("head.labelwise.", "head.linear_share", "head.decoder_share", "head.constant")  # (1, K, ...) there


@register("cxr_lka")
def cxr_lka() -> Layout:
    """QUST-SmartData/CXRClassification: VAN, its multi-scale and dilated forms, and every model with a label graph.

    The label graph is saved as it was counted, before its normalisation. Label vectors are not saved, nor are the
    random weights and norms of the segmentation fusion: the model keeps its own. If a file has the latter, as ``w.0``,
    ``b.0``, ``bn.0.weight``, ``vit.0.cls_token`` and so on, they are loaded.
    """
    return Layout(
        having(r"((net|van|features)\.)?patch_embed1\.proj\.weight$|gc1\.weight$|gcn\.A$"),
        _translate,
        spare=re.compile(r".*(relative_position_index|attn_mask)$").match,  # Swin's tables are computed
        kept=re.compile(r"head\.embedding\.vectors$|fusion\.stages\.").match,
        names=_NAMES,
    )


def _translate(state: StateDict) -> dict[str, Tensor]:
    dilated = any("spatial_gating_unit." in key and "conv1x1" in key for key in state)
    result = renaming({**_RULES, **(_DILATED if dilated else {})})(state)
    if "A" in result and result["A"].ndim == 2:
        counted = result.pop("A")
        nodes = tuple(map(str, range(len(counted))))
        result["head.operator.matrix"] = Graph(nodes, counted.float()).normalized()
    return result


@register("cxr_vtnet")
def cxr_vtnet() -> Layout:
    """CXRClassification's VTNet: ``backbone``, ``transformer``, ``fc``; ``pos_emb.pe`` is computed here, not stored."""
    unbatched = renaming(_VTNET, lambda key, value: value.squeeze(0) if key.startswith(_BATCHED) else value)
    return Layout(having(r"query_embed\.weight$"), unbatched, spare=re.compile(r"pos_emb\.pe$").match, names=_NAMES)


@register("cxr_densevan")
def cxr_densevan() -> Layout:
    """CXRClassification's DenseVan: the backbone's own names, and ``fc``."""
    return Layout(having(r"dilation_conv1\.weight$"), renaming({r"^fc\.": f"{LOGITS}."}), names=_NAMES)


@register("cxr_dense_and_van")
def cxr_dense_and_van() -> Layout:
    """CXRClassification's DenseAndVAN: torchvision's DenseNet-121 in ``dense``, a VAN stage, last layer in ``van``."""
    rules = {r"^dense\.": "", r"^van\.head\.": f"{LOGITS}.", r"^van\.(patch_embed|block|norm)1\.": r"neck.\1."}
    return Layout(having(r"dense\.features\.conv0\.weight$"), renaming(rules), names=_NAMES)


@register("cxr_vanillanet")
def cxr_vanillanet() -> Layout:
    """CXRClassification's VanillaNet, before fusing: ``stem1``, ``stem2``, ``stages``, ``cls1``, ``cls2`` of 1x1."""
    rules = {r"^cls1\.2\.": "head.fc.", r"^cls1\.3\.": "head.norm.", r"^cls2\.0\.": "head.out."}
    linear = ("head.fc.weight", "head.out.weight")
    translate = renaming(rules, lambda key, value: matrix(value) if key in linear else value)
    return Layout(having(r"cls1\.2\.weight$"), translate, names=_NAMES)
