"""The checkpoints of alinstein/X_RAY."""

from __future__ import annotations

import re

from torch import Tensor

from thoraxlib.checkpoints import register
from thoraxlib.checkpoints.layout import LOGITS, Layout, StateDict, having, matrix, renaming, stack_heads

# efficientnet_pytorch's names inside a block, and timm's; the first stage's blocks do not expand
_EXPANDING = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_se_reduce": "se.conv_reduce",
    "_se_expand": "se.conv_expand",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_PLAIN = {**_EXPANDING, "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_OUTSIDE = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}
_SEQUENTIAL = {"0": "conv1", "1": "bn1", **{str(4 + k): f"layer{k + 1}" for k in range(4)}}
_BLOCKS = [(stage, index) for stage, blocks in enumerate((1, 2, 2, 3, 3, 4, 1)) for index in range(blocks)]
_RULES = {
    r"^img_model\.": "",
    r"^attention_map(_1)?\.": "",
    # heads of its networks, newest first; DenseNet-121's changed its name in April 2021
    r"^(classifier\.0|fc\.1|FF\.0)\.(weight|bias)$": rf"{LOGITS}.\2",
    **{rf"^{old}\.": f"{new}." for old, new in (_OUTSIDE | _SEQUENTIAL).items()},
    **{rf"^_blocks\.{k}\.": f"blocks.{stage}.{index}." for k, (stage, index) in enumerate(_BLOCKS)},
    **{rf"^(blocks\.0\.\d)\.{old}\.": rf"\1.{new}." for old, new in _PLAIN.items()},
    **{rf"^(blocks\.[1-6]\.\d)\.{old}\.": rf"\1.{new}." for old, new in _EXPANDING.items()},
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
