"""The checkpoints of alinstein/X_RAY."""

from __future__ import annotations

import re

from torch import Tensor

from thoraxlib.checkpoints import register
from thoraxlib.checkpoints.efficientnet import EFFICIENTNET_B0
from thoraxlib.checkpoints.layout import LOGITS, Layout, StateDict, having, matrix, renaming, stack_heads

_SEQUENTIAL = {"0": "conv1", "1": "bn1", **{str(4 + k): f"layer{k + 1}" for k in range(4)}}
_RULES = {
    r"^img_model\.": "",
    r"^attention_map(_1)?\.": "",
    # heads of its networks, newest first; DenseNet-121's changed its name in April 2021
    r"^(classifier\.0|fc\.1|FF\.0)\.(weight|bias)$": rf"{LOGITS}.\2",
    **{rf"^{old}\.": f"{new}." for old, new in _SEQUENTIAL.items()},
    **EFFICIENTNET_B0,
}
# attention that the network may not use, and ImageNet's classifiers, which never run
_NAMES = {"labels": ("nih8", "nih14", "chexpert5")}
_SPARE = re.compile(r"(channel|spatial|pyramid)_attention\.|(classifier|_?fc)\.")


@register("x_ray")
def x_ray() -> Layout:
    """alinstein/X_RAY: ResNet18, DenseNet121 (both heads), EfficientNet, custom, and PCAM with two backbones."""
    return Layout(having(r"img_model\.|first_layer\.0\.weight$"), _translate, spare=_SPARE.match, names=_NAMES)


def _translate(state: StateDict) -> dict[str, Tensor]:
    entries = stack_heads(state, "fc_") if "fc_0.weight" in state else state
    return renaming(_RULES, lambda key, value: matrix(value) if key == f"{LOGITS}.weight" else value)(entries)
