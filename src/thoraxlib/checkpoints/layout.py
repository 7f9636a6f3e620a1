"""What a checkpoint layout is, and what several of them share."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

__all__ = ["LOGITS", "Layout", "StateDict", "modern_densenet_keys", "rename_head"]

StateDict = Mapping[str, Tensor]

#: What :attr:`Layout.translate` calls the last linear layer, whatever its source calls it.
LOGITS = "<logits>"

# torchvision up to 0.2.0 put dots into the names inside a dense layer; a transition's norm and conv never had them
_OLD_DENSE_LAYER = re.compile(r"(\.denselayer\d+\.(?:norm|conv))\.([12])\.")


@dataclass(frozen=True)
class Layout:
    """How one source names the entries of its state dict.

    Attributes
    ----------
    recognises : Callable
        State dict -> whether it has this layout.
    translate : Callable
        State dict -> one whose trunk has the names of timm or torchvision and whose last layer is :data:`LOGITS`, or
        which has the model's own names.
    """

    recognises: Callable[[StateDict], bool]
    translate: Callable[[StateDict], dict[str, Tensor]]


def modern_densenet_keys(state: StateDict) -> dict[str, Tensor]:
    """``denselayer1.norm.1.weight`` -> ``denselayer1.norm1.weight``, and so on; other keys stay."""
    return {_OLD_DENSE_LAYER.sub(r"\1\2.", key): value for key, value in state.items()}


def rename_head(state: StateDict, head: str) -> dict[str, Tensor]:
    """`state` with the layer `head` renamed to :data:`LOGITS`."""
    leaves = {f"{head}.{leaf}": f"{LOGITS}.{leaf}" for leaf in ("weight", "bias")}
    return {leaves.get(key, key): value for key, value in state.items()}
