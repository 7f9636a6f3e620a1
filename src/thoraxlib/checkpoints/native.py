"""The library's own state dicts, e.g. ``torch.save(model.state_dict(), ...)`` or a Lightning checkpoint."""

from __future__ import annotations

import re

from torch import Tensor

from thoraxlib.checkpoints import register
from thoraxlib.checkpoints.layout import Layout, StateDict

__all__ = ["native"]

_BACKBONE = re.compile(r"(\w+_branch\.)?backbone\.")  # of a model, or of one of its branches


@register("thoraxlib")
def native() -> Layout:
    """State dicts of this library's models, bare or of a Lightning run (``model.``; staged, ``model.model.``)."""
    return Layout(recognises=_recognises, translate=_translate)


def _recognises(state: StateDict) -> bool:
    keys = _translate(state)
    return any(_BACKBONE.match(key) for key in keys) and any(key.startswith("head.") for key in keys)


def _translate(state: StateDict) -> dict[str, Tensor]:
    for prefix in ("model.model.", "model.", "module."):
        if any(key.startswith(prefix) and _BACKBONE.match(key.removeprefix(prefix)) for key in state):
            # a training module may hold more than the model, such as the weights of its loss
            return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    return dict(state)
