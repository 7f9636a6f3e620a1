"""The library's own state dicts, e.g. ``torch.save(model.state_dict(), ...)`` or a Lightning checkpoint."""

from __future__ import annotations

import re

from thoraxlib.checkpoints import register
from thoraxlib.checkpoints.layout import Layout, StateDict

_BACKBONE = re.compile(r"(\w+_branch\.)?backbone\.")  # of a model, or of one of its branches


@register("thoraxlib")
def native() -> Layout:
    """State dicts of this library's models; also of a Lightning run, whose names begin with ``model.``."""
    return Layout(recognises=_recognises, translate=dict)


def _recognises(state: StateDict) -> bool:
    return any(_BACKBONE.match(key) for key in state) and any(key.startswith("head.") for key in state)
