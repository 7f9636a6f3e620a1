"""The checkpoints of jaydurant/ChestX-ray_classification_and_localization (PadChest + OpenI, 22 findings)."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from thoraxlib.checkpoints import register
from thoraxlib.checkpoints.layout import Layout, StateDict, rename_head

_PREFIX = "base_model."
_HEADS = ("fc", "classifier")


@register("jaydurant")
def jaydurant() -> Layout:
    """jaydurant/ChestX-ray_classification_and_localization: ``base_model.*``.

    Its ResNet-50 has layer4 and fc a second time, as aliases; its DenseNet-121 is read as it was intended.
    """
    return Layout(
        recognises=lambda state: any(f"{_PREFIX}{head}.weight" in state for head in _HEADS), translate=_translate
    )


def _translate(state: StateDict) -> dict[str, Tensor]:
    own = {key.removeprefix(_PREFIX): value for key, value in state.items() if key.startswith(_PREFIX)}
    rest = {key: value for key, value in state.items() if not key.startswith(_PREFIX)}
    differing = [key for key in rest if key in own and not torch.equal(rest[key], own[key])]
    if differing:
        warnings.warn(
            f"{len(differing)} alias entries differ from their {_PREFIX}* twins, e.g. {differing[:3]}; the twins are "
            "used, which is what the original class keeps when it loads such a file",
            stacklevel=2,
        )
    merged = {**rest, **own}
    head = next((head for head in _HEADS if f"{head}.weight" in merged), None)
    return merged if head is None else rename_head(merged, head)
