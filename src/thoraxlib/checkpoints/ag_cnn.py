"""The checkpoints of Ien001/AG-CNN and its copies: one file for each of three networks."""

from __future__ import annotations

from torch import Tensor

from thoraxlib.checkpoints import register
from thoraxlib.checkpoints.layout import LOGITS, Layout, StateDict, modern_densenet_keys

_BRANCHES = ("global_branch", "local_branch")


@register("ag_cnn")
def ag_cnn() -> Layout:
    """Ien001/AG-CNN: its three state dicts as one, with the prefixes ``global_branch``, ``local_branch``, ``fusion``.

    :func:`thoraxlib.checkpoints.read_ag_cnn` makes it of the three files.
    """
    return Layout(recognises=lambda state: "fusion.fc.weight" in state, translate=_translate)


def _translate(state: StateDict) -> dict[str, Tensor]:
    layers = {f"{branch}.classifier": f"{branch}.{LOGITS}" for branch in _BRANCHES} | {"fusion.fc": LOGITS}
    result = {}
    for key, value in modern_densenet_keys(state).items():
        layer, _, leaf = key.rpartition(".")
        result[f"{layers.get(layer, layer)}.{leaf}"] = value
    return result
