"""The checkpoints of QUST-SmartData/CXRClassification: its VTNet, DenseVan, DenseAndVAN and VanillaNet."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from torch import Tensor

from thoraxlib.checkpoints import register
from thoraxlib.checkpoints.layout import LOGITS, Layout, StateDict, bare

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
_BATCHED = ("head.labelwise.", "head.linear_share", "head.decoder_share", "head.constant")  # (1, K, ...) there


@register("cxr_vtnet")
def cxr_vtnet() -> Layout:
    """CXRClassification's VTNet: ``backbone``, ``transformer``, ``fc``; ``pos_emb.pe`` is computed here, not stored."""
    return _layout(
        _VTNET,
        telltale="query_embed.weight",
        reshape=lambda key, value: value.squeeze(0) if key.startswith(_BATCHED) else value,
        spare=lambda key: key == "pos_emb.pe",
    )


@register("cxr_densevan")
def cxr_densevan() -> Layout:
    """CXRClassification's DenseVan: the backbone's own names, and ``fc``."""
    return _layout({r"^fc\.": f"{LOGITS}."}, telltale="dilation_conv1.weight")


@register("cxr_dense_and_van")
def cxr_dense_and_van() -> Layout:
    """CXRClassification's DenseAndVAN: torchvision's DenseNet-121 in ``dense``, a VAN stage, last layer in ``van``."""
    rules = {r"^dense\.": "", r"^van\.head\.": f"{LOGITS}.", r"^van\.(patch_embed|block|norm)1\.": r"neck.\1."}
    return _layout(rules, telltale="dense.features.conv0.weight")


@register("cxr_vanillanet")
def cxr_vanillanet() -> Layout:
    """CXRClassification's VanillaNet, before fusing: ``stem1``, ``stem2``, ``stages``, ``cls1``, ``cls2`` of 1x1."""
    return _layout(
        {r"^cls1\.2\.": "head.fc.", r"^cls1\.3\.": "head.norm.", r"^cls2\.0\.": "head.out."},
        telltale="cls1.2.weight",
        reshape=lambda key, value: value.flatten(1) if key in ("head.fc.weight", "head.out.weight") else value,
    )


def _layout(
    rules: Mapping[str, str],
    *,
    telltale: str,
    reshape: Callable[[str, Tensor], Tensor] = lambda key, value: value,
    spare: Callable[[str], bool] = lambda key: False,
) -> Layout:
    """A layout whose entries are renamed by `rules`, patterns and replacements applied in turn."""

    def translate(state: StateDict) -> dict[str, Tensor]:
        result = {}
        for name, value in bare(state).items():
            for pattern, replacement in rules.items():
                name = re.sub(pattern, replacement, name)
            result[name] = reshape(name, value)
        return result

    return Layout(recognises=lambda state: telltale in bare(state), translate=translate, spare=spare)
