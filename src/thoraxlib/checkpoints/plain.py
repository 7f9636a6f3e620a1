"""State dicts of this library's own models, and of plain torchvision and timm models."""

from __future__ import annotations

import re

from torch import Tensor

from thoraxlib.checkpoints import register
from thoraxlib.checkpoints.layout import LOGITS, OLD_DENSENET, Layout, StateDict, having, renaming

_HEADS = ("fc", "classifier", "head.fc", "head", "last_linear", "classifier.6", "classifier.1")
_plain_keys = having(rf"({'|'.join(map(re.escape, _HEADS))})\.weight$")


@register("thoraxlib")
def thoraxlib() -> Layout:
    """State dicts of this library's models; also of a Lightning run, whose names begin with ``model.``."""
    return Layout(having(r"(\w+_branch\.)?backbone\.", r"head\."), translate=dict)


@register("plain")
def plain() -> Layout:
    """Models of torchvision and timm: the backbone's own names, last layer ``fc``, ``classifier``, ``head`` and others.

    ImageNet weights, or a fine-tuned copy of them.
    """
    return Layout(_plain_keys, _translate, priority=-1)


@register("softmax_pair")
def softmax_pair() -> Layout:
    """Models of torchvision and timm with a softmax over two classes, as one logit: that of the second class.

    The sigmoid of the difference of two logits is the softmax's probability of the second class. Further outputs are
    left out. The keys are those of "plain": name this layout.
    """
    return Layout(_plain_keys, lambda state: _difference(_translate(state)), priority=-2)


def _difference(state: dict[str, Tensor]) -> dict[str, Tensor]:
    leaves = [f"{LOGITS}.{leaf}" for leaf in ("weight", "bias") if f"{LOGITS}.{leaf}" in state]
    return {**state, **{leaf: state[leaf][1:2] - state[leaf][:1] for leaf in leaves}}


def _translate(state: StateDict) -> dict[str, Tensor]:
    head = next((re.escape(head) for head in _HEADS if f"{head}.weight" in state), None)
    rules = {} if head is None else {rf"^{head}\.(weight|bias)$": rf"{LOGITS}.\1"}
    return renaming({**OLD_DENSENET, **rules})(state)
