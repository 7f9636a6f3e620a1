"""DINOv2 as the library transformers saves it."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from thoraxlib.checkpoints import register
from thoraxlib.checkpoints.layout import Layout, StateDict, having, renaming

_PREFIX = r"(?:\w+\.)*?"
_EMBEDDINGS = re.compile(rf"({_PREFIX})embeddings\.patch_embeddings\.projection\.weight")
_RULES = {  # to the names of DINOv2's own code
    r"^embeddings\.patch_embeddings\.projection\.": "patch_embed.proj.",
    r"^embeddings\.position_embeddings$": "pos_embed",
    r"^embeddings\.(cls_token|mask_token|register_tokens)$": r"\1",
    r"^encoder\.layer\.(\d+)\.": r"blocks.\1.",
    r"(^blocks\.\d+)\.attention\.output\.dense\.": r"\1.attn.proj.",
    r"(^blocks\.\d+)\.layer_scale([12])\.lambda1$": r"\1.ls\2.gamma",
    r"(^blocks\.\d+)\.mlp\.weights_in\.": r"\1.mlp.w12.",
    r"(^blocks\.\d+)\.mlp\.weights_out\.": r"\1.mlp.w3.",
    r"^layernorm\.": "norm.",
}
_THIRD = re.compile(r"(blocks\.\d+)\.attention\.attention\.query\.(weight|bias)")


@register("transformers_dinov2")
def transformers_dinov2() -> Layout:
    """DINOv2 of the library transformers, with and without registers: ``embeddings``, ``encoder.layer``, ``layernorm``.

    Also inside another model (``dinov2.embeddings``, ...). RAD-DINO, RAD-DINO-MAIRA-2 and CXformer are saved so.
    """
    recognises = having(_EMBEDDINGS.pattern, rf"{_PREFIX}encoder\.layer\.\d+\.layer_scale1\.lambda1$")
    return Layout(recognises, _translate, then="plain")


def _translate(state: StateDict) -> dict[str, Tensor]:
    prefix = next((found[1] for key in state if (found := _EMBEDDINGS.fullmatch(key))), "")
    own = renaming({rf"^{re.escape(prefix)}": "", **_RULES})(state)
    for key in list(own):
        if found := _THIRD.fullmatch(key):
            block, leaf = found.groups()
            parts = [own.pop(f"{block}.attention.attention.{part}.{leaf}", None) for part in ("query", "key", "value")]
            own[f"{block}.attn.qkv.{leaf}"] = torch.cat([part for part in parts if part is not None])
    # timm knows DINOv2's files by this entry, and drops it
    token = own.get("cls_token")
    if token is not None and token.ndim > 1:
        own.setdefault("mask_token", torch.zeros_like(token).flatten(1))
    return own
