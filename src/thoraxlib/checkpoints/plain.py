"""Plain torchvision and timm models, such as ImageNet weights or a fine-tuned copy of them."""

from __future__ import annotations

from torch import Tensor

from thoraxlib.checkpoints import register
from thoraxlib.checkpoints.layout import Layout, StateDict, bare, modern_densenet_keys, rename_head


@register("timm")
def timm() -> Layout:
    """Models of timm: the backbone's own names; head ``fc``, ``classifier``, ``head.fc``, ``head``, ``last_linear``."""
    return _plain("fc", "classifier", "head.fc", "head", "last_linear")


@register("torchvision")
def torchvision() -> Layout:
    """Models of torchvision: the backbone's own names; head ``fc``, ``classifier`` or its last element."""
    return _plain("fc", "classifier", "classifier.6", "classifier.1")


def _plain(*heads: str) -> Layout:
    def find(state: StateDict) -> str | None:
        keys = bare(state)
        return next((head for head in heads if f"{head}.weight" in keys), None)

    def translate(state: StateDict) -> dict[str, Tensor]:
        entries = modern_densenet_keys(bare(state))
        head = find(entries)
        return rename_head(entries, head) if head is not None else entries

    return Layout(recognises=lambda state: find(state) is not None, translate=translate)
