"""The checkpoints of jaydurant/ChestX-ray_classification_and_localization (PadChest + OpenI, 22 findings)."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from thoraxlib.checkpoints import register
from thoraxlib.checkpoints.layout import LOGITS, Layout, StateDict, having, renaming

_PREFIX = "base_model."


@register("jaydurant")
def jaydurant() -> Layout:
    """jaydurant/ChestX-ray_classification_and_localization: ``base_model.*``.

    Its ResNet-50 has layer4 and fc a second time, as aliases; its DenseNet-121 is read as it was intended.
    """
    return Layout(having(rf"{_PREFIX}(fc|classifier)\.weight$"), _translate, names={"labels": ("padchest_openi22",)})


def _translate(state: StateDict) -> dict[str, Tensor]:
    own = {key.removeprefix(_PREFIX): value for key, value in state.items() if key.startswith(_PREFIX)}
    rest = {key: value for key, value in state.items() if not key.startswith(_PREFIX)}
    differing = [key for key in rest if key in own and not torch.equal(rest[key], own[key])]
    if differing:
        warnings.warn(
            f"{len(differing)} alias entries differ from their {_PREFIX}* twins, e.g. {differing[:3]}; the twins are "
            "used: the original class keeps them, too, when it loads such a file",
            stacklevel=2,
        )
    return renaming({r"^(fc|classifier)\.(weight|bias)$": rf"{LOGITS}.\2"})({**rest, **own})
