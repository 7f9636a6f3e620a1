"""State dicts of this library's own models, and of plain torchvision and timm models."""

from __future__ import annotations

import re

from torch import Tensor

from thoraxlib.checkpoints import register
from thoraxlib.checkpoints.layout import LOGITS, OLD_DENSENET, Layout, StateDict, having, renaming

_HEADS = ("fc", "classifier", "head.fc", "head", "last_linear", "classifier.6", "classifier.1")


@register("thoraxlib")
def thoraxlib() -> Layout:
    """State dicts of this library's models; also of a Lightning run, whose names begin with ``model.``."""
    return Layout(having(r"(\w+_branch\.)?backbone\.", r"head\."), translate=dict)


@register("plain")
def plain() -> Layout:
    """Models of torchvision and timm: the backbone's own names, last layer ``fc``, ``classifier``, ``head`` and others.

    ImageNet weights, or a fine-tuned copy of them.
    """
    heads = "|".join(map(re.escape, _HEADS))
    return Layout(having(rf"({heads})\.weight$"), _translate, priority=-1)


def _translate(state: StateDict) -> dict[str, Tensor]:
    head = next((re.escape(head) for head in _HEADS if f"{head}.weight" in state), None)
    rules = {} if head is None else {rf"^{head}\.(weight|bias)$": rf"{LOGITS}.\1"}
    return renaming({**OLD_DENSENET, **rules})(state)
