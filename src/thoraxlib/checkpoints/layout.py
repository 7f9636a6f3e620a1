"""What a checkpoint layout is, and what several of them share."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

StateDict = Mapping[str, Tensor]

#: What :attr:`Layout.translate` calls the last linear layer, whatever its source calls it.
LOGITS = "<logits>"

# torchvision up to 0.2.0 put dots into the names inside a dense layer; a transition's norm and conv never had them
_OLD_DENSE_LAYER = re.compile(r"(\.denselayer\d+\.(?:norm|conv))\.([12])\.")

_COMPILED = re.compile(r"(^|\.)_orig_mod\.")
_ENGINES = re.compile(r"^(module\.)+")
_AROUND = ("model.", "net.", "network.")


@dataclass(frozen=True)
class Layout:
    """How one source names the entries of its state dict.

    Attributes
    ----------
    recognises : Callable
        State dict -> whether it has this layout.
    translate : Callable
        State dict -> one whose backbone has the names of timm or torchvision and whose last layer is :data:`LOGITS`, or
        which has the model's own names.
    spare : Callable
        Translated name -> whether the source may keep this entry without using it; such an entry needs no place in the
        model.
    kept : Callable
        Own state-dict name -> whether the source does not save it, so that the model keeps what it was built with.
    names : Mapping
        Attribute of the model (``"labels"``) -> label set whose order the source's rows have. A model with as many
        other names, or in another order, is refused.
    """

    recognises: Callable[[StateDict], bool]
    translate: Callable[[StateDict], dict[str, Tensor]]
    spare: Callable[[str], bool] = lambda key: False
    kept: Callable[[str], bool] = lambda key: False
    names: Mapping[str, str] = field(default_factory=dict)


def bare(state: StateDict) -> dict[str, Tensor]:
    """`state` without the ``module.`` that torch's data parallel engines put before every key."""
    return {key.removeprefix("module."): value for key, value in state.items()}


def views(state: StateDict) -> Iterator[StateDict]:
    """`state` without what engines and ``torch.compile`` put into the names, and what is inside of modules around it.

    Such modules, of Lightning and of plain scripts, may hold more than the network, such as the weights of a loss.
    """
    # torch's AveragedModel counts what it averaged
    plain = {_ENGINES.sub("", _COMPILED.sub(r"\1", key)): value for key, value in state.items() if key != "n_averaged"}
    yield plain
    for start in _AROUND:
        inside = {key.removeprefix(start): value for key, value in plain.items() if key.startswith(start)}
        if inside:
            yield from views(inside)


def modern_densenet_keys(state: StateDict) -> dict[str, Tensor]:
    """``denselayer1.norm.1.weight`` -> ``denselayer1.norm1.weight``, and so on; other keys stay."""
    return {_OLD_DENSE_LAYER.sub(r"\1\2.", key): value for key, value in state.items()}


def rename_head(state: StateDict, head: str) -> dict[str, Tensor]:
    """`state` with the layer `head` renamed to :data:`LOGITS`."""
    leaves = {f"{head}.{leaf}": f"{LOGITS}.{leaf}" for leaf in ("weight", "bias")}
    return {leaves.get(key, key): value for key, value in state.items()}


def stack_heads(state: StateDict, head: str, norm: str | None = None) -> dict[str, Tensor]:
    """`state` with the one-label layers ``<head>0``, ``<head>1``, ... as one layer :data:`LOGITS`.

    Their 1x1 convolutions become rows of one linear layer; their batch norms ``<norm>0``, ... become one norm, side by
    side, under the name that :class:`thoraxlib.heads.classwise.ClasswiseHead` has for it. Layers of different shapes
    are left out, so that the model lacks them.
    """
    count = sum(key.startswith(head) and key.endswith(".weight") for key in state)
    renamed = {(head, leaf): f"{LOGITS}.{leaf}" for leaf in ("weight", "bias")}
    if norm is not None:
        renamed |= {(norm, leaf): f"head.norm.{leaf}" for leaf in ("weight", "bias", "running_mean", "running_var")}
    stacked = {}
    for (layer, leaf), name in renamed.items():
        parts = [state[key] for k in range(count) if (key := f"{layer}{k}.{leaf}") in state]
        if parts and len(parts) == count and len({part.shape[1:] for part in parts}) == 1:
            stacked[name] = torch.cat([part.flatten(1) if part.ndim > 1 else part for part in parts])
    layers = tuple(layer for layer in (head, norm) if layer is not None)
    return {**{key: value for key, value in state.items() if not key.startswith(layers)}, **stacked}
