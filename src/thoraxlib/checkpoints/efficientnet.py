"""EfficientNets in the names of lukemelas/EfficientNet-PyTorch, which other repositories have taken over."""

from __future__ import annotations

from thoraxlib.checkpoints import register
from thoraxlib.checkpoints.layout import LOGITS, Layout, having, renaming

# its names inside a block, and timm's; the first stage's blocks do not expand
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
_BLOCKS = [(stage, index) for stage, blocks in enumerate((1, 2, 2, 3, 3, 4, 1)) for index in range(blocks)]

#: Rules of :func:`~thoraxlib.checkpoints.layout.renaming` to timm's names, for the 16 blocks of B0 and Lite0.
EFFICIENTNET_B0 = {
    **{rf"^{old}\.": f"{new}." for old, new in _OUTSIDE.items()},
    **{rf"^_blocks\.{k}\.": f"blocks.{stage}.{index}." for k, (stage, index) in enumerate(_BLOCKS)},
    **{rf"^(blocks\.0\.\d)\.{old}\.": rf"\1.{new}." for old, new in _PLAIN.items()},
    **{rf"^(blocks\.[1-6]\.\d)\.{old}\.": rf"\1.{new}." for old, new in _EXPANDING.items()},
}


@register("efficientnet")
def efficientnet() -> Layout:
    """EfficientNet-B0 and -Lite0 in the names of lukemelas/EfficientNet-PyTorch (``_blocks.0._depthwise_conv``)."""
    rules = {**EFFICIENTNET_B0, r"^_fc\.(weight|bias)$": rf"{LOGITS}.\1"}
    return Layout(having(r"_conv_stem\.", r"_blocks\.15\."), renaming(rules))
