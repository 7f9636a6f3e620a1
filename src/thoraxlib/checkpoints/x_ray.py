"""The checkpoints of alinstein/X_RAY."""

from __future__ import annotations

import re

from torch import Tensor

from thoraxlib.checkpoints import register
from thoraxlib.checkpoints.layout import LOGITS, Layout, StateDict, bare, stack_heads

# the heads of its networks, newest first; DenseNet-121's changed its name in April 2021
_HEADS = ("classifier.0", "fc.1", "FF.0")
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
_SIZES = enumerate((1, 2, 2, 3, 3, 4, 1))
_BLOCKS = {str(k): place for k, place in enumerate((stage, index) for stage, n in _SIZES for index in range(n))}
_SEQUENTIAL = {"0": "conv1", "1": "bn1", **{str(4 + k): f"layer{k + 1}" for k in range(4)}}


@register("x_ray")
def x_ray() -> Layout:
    """alinstein/X_RAY: ResNet18, DenseNet121 (both heads), EfficientNet, custom, and PCAM with two backbones."""
    return Layout(recognises=_recognises, translate=_translate, spare=_spare)


def _recognises(state: StateDict) -> bool:
    keys = bare(state)
    return any(key.startswith("img_model.") for key in keys) or "first_layer.0.weight" in keys


def _translate(state: StateDict) -> dict[str, Tensor]:
    entries = bare(state)
    if "fc_0.weight" in entries:
        entries = stack_heads(entries, "fc_")
    elif "FF.0.weight" in entries:  # with img_model.classifier, ImageNet's, unused beside it
        entries = {key: value for key, value in entries.items() if not key.startswith("img_model.classifier.")}
    result = {}
    for key, value in entries.items():
        name = key.removeprefix("img_model.").removeprefix("attention_map.").removeprefix("attention_map_1.")
        head = next((head for head in _HEADS if name in (f"{head}.weight", f"{head}.bias")), None)
        if head is not None:
            result[f"{LOGITS}.{name.rpartition('.')[2]}"] = value.flatten(1) if value.ndim > 1 else value
        elif not name.startswith(("classifier.", "fc.", "_fc.")):  # ImageNet's, never used
            result[_backbone_key(name)] = value
    return result


def _backbone_key(name: str) -> str:
    """The name that timm or torchvision has for an entry of the backbone."""
    first, _, rest = name.partition(".")
    if first == "_blocks":
        number, part, leaf = [*rest.split(".", 2), "", ""][:3]
        stage, index = _BLOCKS.get(number, (0, -1))
        parts = _EXPANDING if stage else _PLAIN
        return f"blocks.{stage}.{index}.{parts[part]}.{leaf}" if index >= 0 and part in parts else name
    return ".".join(filter(None, ((_OUTSIDE | _SEQUENTIAL).get(first, first), rest)))


def _spare(key: str) -> bool:
    return re.match(r"(channel|spatial|pyramid)_attention\.", key) is not None
