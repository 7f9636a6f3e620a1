"""The description of a checkpoint layout, and helpers that several layouts share."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

StateDict = Mapping[str, Tensor]

#: Name that :attr:`Layout.translate` gives to the last linear layer, whatever its source calls it.
LOGITS = "<logits>"

#: Rule of :func:`renaming` for DenseNets. torchvision up to 0.2.0 put dots into the names inside a dense layer
#: (``denselayer1.norm.1.weight``); a transition's norm and conv never had them.
OLD_DENSENET = {r"(\.denselayer\d+\.(?:norm|conv))\.([12])\.": r"\1\2."}

_COMPILED = re.compile(r"(^|\.)_orig_mod\.")
_ENGINES = re.compile(r"^(module\.)+")
_AROUND = ("model.", "net.", "network.")


@dataclass(frozen=True)
class Layout:
    """Names that one source gives to the entries of its state dict.

    Attributes
    ----------
    recognises : Callable
        State dict -> True if it has this layout. The prefixes of engines and ``torch.compile`` are removed before.
    translate : Callable
        State dict -> one whose backbone has the names of timm or torchvision and whose last layer is :data:`LOGITS`, or
        which has the model's own names.
    spare : Callable
        Translated name -> true if the source may save this entry without using it: the model needs no such entry.
    kept : Callable
        Name in the model -> true if the source does not save this entry: the model keeps its own value.
    names : Mapping[str, tuple of str]
        Attribute of the model (``"labels"``) -> label sets in whose order the source has its rows. A model with the
        same number of names in another order, or with other names, is refused. Without a set of that number, the user
        must say the labels.
    then : str
        Layout of the translated names, if they are neither the model's nor those that `translate` has to give.
    priority : int
        Layouts of higher priority are tried first, those of equal priority in alphabetical order.
    """

    recognises: Callable[[StateDict], bool]
    translate: Callable[[StateDict], dict[str, Tensor]]
    spare: Callable[[str], object] = lambda key: False
    kept: Callable[[str], object] = lambda key: False
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    then: str = ""
    priority: int = 0


def having(*patterns: str) -> Callable[[StateDict], bool]:
    """Return a function that is True for state dicts in which each regular expression matches the start of a key."""
    return lambda state: all(any(map(re.compile(pattern).match, state)) for pattern in patterns)


def renaming(
    rules: Mapping[str, str], change: Callable[[str, Tensor], Tensor] = lambda key, value: value
) -> Callable[[StateDict], dict[str, Tensor]]:
    """Return a function that renames the entries of a state dict.

    Parameters
    ----------
    rules : mapping of str to str
        Regular expressions and their replacements, applied to each name one after the other.
    change : callable
        (new name, value) -> the value under the new name, in another shape for instance.
    """

    def rename(state: StateDict) -> dict[str, Tensor]:
        result = {}
        for key, value in state.items():
            for pattern, replacement in rules.items():
                key = re.sub(pattern, replacement, key)
            result[key] = change(key, value)
        return result

    return rename


def views(state: StateDict) -> Iterator[StateDict]:
    """Yield `state` without the prefixes of engines and ``torch.compile``, then the networks inside other modules.

    Modules of Lightning and of plain scripts hold the network as an attribute, and other weights, such as a loss's.
    """
    # torch's AveragedModel counts the models that it averaged
    plain = {_ENGINES.sub("", _COMPILED.sub(r"\1", key)): value for key, value in state.items() if key != "n_averaged"}
    yield plain
    for start in _AROUND:
        inside = {key.removeprefix(start): value for key, value in plain.items() if key.startswith(start)}
        if inside:
            yield from views(inside)


def matrix(value: Tensor) -> Tensor:
    """Weight (K, C) of the linear layer that equals a 1x1 convolution; vectors, such as biases, stay."""
    return value.flatten(1) if value.ndim > 1 else value


def stack_heads(state: StateDict, head: str, norm: str | None = None) -> dict[str, Tensor]:
    """`state` with the one-label layers ``<head>0``, ``<head>1``, ... as one layer :data:`LOGITS`.

    Their 1x1 convolutions become rows of one linear layer. Their batch norms ``<norm>0``, ... are concatenated into the
    norm of :class:`thoraxlib.heads.classwise.ClasswiseHead`. Layers of different shapes are left out, so that the model
    lacks them.
    """
    count = sum(key.startswith(head) and key.endswith(".weight") for key in state)
    renamed = {(head, leaf): f"{LOGITS}.{leaf}" for leaf in ("weight", "bias")}
    if norm is not None:
        renamed |= {(norm, leaf): f"head.norm.{leaf}" for leaf in ("weight", "bias", "running_mean", "running_var")}
    stacked = {}
    for (layer, leaf), name in renamed.items():
        parts = [state[key] for k in range(count) if (key := f"{layer}{k}.{leaf}") in state]
        if parts and len(parts) == count and len({part.shape[1:] for part in parts}) == 1:
            stacked[name] = torch.cat([matrix(part) for part in parts])
    layers = tuple(layer for layer in (head, norm) if layer is not None)
    return {**{key: value for key, value in state.items() if not key.startswith(layers)}, **stacked}
