"""Where a model is, and the model as it computes in eval mode, for several threads at once."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterator
from itertools import chain
from types import MethodType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)

#: Methods by which a class says how it is copied.
_COPYING = ("__deepcopy__", "__reduce_ex__", "__reduce__", "__getstate__", "__setstate__")
_IMMUTABLE = {bool, int, float, str, type(None)}
_CONTAINERS = {dict, OrderedDict, set}


def device_of(model: nn.Module) -> torch.device:
    """Where a model's weights are; the CPU for a model without any."""
    return next((tensor.device for tensor in _weights(model)), torch.device("cpu"))


def uncompiled(model: nn.Module) -> nn.Module:
    """Return the module that ``torch.compile`` wrapped; another one as it is."""
    while isinstance(inside := getattr(model, "_orig_mod", None), nn.Module):
        model = inside
    return model


def eval_view(model: M, device: torch.device | None = None) -> M:
    """Return `model` as it computes in eval mode, on `device`; the model is left as it is, also while this runs.

    Where no module is in training mode, and all weights are on the device, that is the model itself. Otherwise it is a
    :func:`shared_copy`, good for one call: it does not follow what happens to the model later.

    Raises
    ------
    ValueError
        The model cannot be copied.
    """
    if device is not None:
        device = torch.empty(0, device=device).device  # "cuda" with its number
    if any(module.training for module in model.modules()):
        return shared_copy(model, device)
    if device is not None and any(tensor.device != device for tensor in _weights(model)):
        return shared_copy(model, device)
    return model


def shared_copy(model: M, device: torch.device | None = None) -> M:
    """Return a copy of a model's modules in eval mode, with the model's own parameters and buffers.

    Those that are not on `device` are copied to it. A forward pass of the copy, and hooks on its modules, leave the
    model's modules alone; the model's own hooks run with the copy too. Compiled modules are copied as they were before
    compilation; modules of torch.jit have copies of their weights. No ``train`` or ``eval`` of the model's classes is
    called, since some of them change weights.

    Raises
    ------
    ValueError
        The model cannot be copied.
    """
    modules = list(model.modules())
    memo: dict[int, Any] = {}
    for module in modules:
        memo.update((id(part), part) for part in _kept(module))
        for tensor in chain(module._parameters.values(), module._buffers.values()):
            memo[id(tensor)] = _moved(tensor, device)
    plain = [module for module in modules if _is_plain(type(module))]
    memo.update((id(module), type(module).__new__(type(module))) for module in plain)
    try:
        for module in reversed(modules):  # inner ones first
            if isinstance(getattr(module, "_orig_mod", None), nn.Module):  # by torch.compile
                memo[id(module)] = copy.deepcopy(module._orig_mod, memo)
        for module in plain:
            memo[id(module)].__dict__.update(_attributes(module, memo))
        twin = copy.deepcopy(model, memo)
    except Exception as error:  # whatever an attribute of the model raises
        raise ValueError(
            f"{type(model).__name__} cannot be copied ({type(error).__name__}: {error}), as is needed for a model in "
            "training mode, model.eval(), for one that is on another device, and to look at a layer inside it"
        ) from error
    for copied in chain(twin.modules(), memo.values()):  # in lists, too, and what torch.jit made
        if isinstance(copied, nn.Module) and copied.training:
            copied.training = False
    return twin


def _weights(model: nn.Module) -> Iterator[Tensor]:
    return chain(model.parameters(), model.buffers())


def _moved(tensor: Tensor | None, device: torch.device | None) -> Tensor | None:
    if tensor is None or device is None or tensor.device == device:
        return tensor
    moved = tensor.detach().to(device)
    return nn.Parameter(moved, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else moved


def _kept(module: nn.Module) -> Iterator[Any]:
    """What a copy shares beside weights: other tensors, and hooks but for those that are methods of modules."""
    for name, value in vars(module).items():
        if isinstance(value, Tensor):
            yield value
        elif name.endswith("_hooks") and isinstance(value, dict):
            for hook in value.values():
                if not (isinstance(hook, MethodType) and isinstance(hook.__self__, nn.Module)):
                    yield hook


def _is_plain(kind: type[nn.Module]) -> bool:
    """Whether modules of a class are copied attribute by attribute; torch's own methods only read old pickles."""
    methods = [getattr(kind, name, None) for name in _COPYING]
    return all(
        method is getattr(nn.Module, name, None) or getattr(method, "__module__", "").startswith("torch.nn.modules.")
        for name, method in zip(_COPYING, methods, strict=True)
    )


def _attributes(module: nn.Module, memo: dict[int, Any]) -> Iterator[tuple[str, Any]]:
    """The attributes of a plain module's copy: what ``copy.deepcopy`` makes of them, several times as fast."""
    for name, value in vars(module).items():
        kind = type(value)
        if name == "training":
            yield name, False
        elif kind in _IMMUTABLE or (kind is tuple and all(type(part) in _IMMUTABLE for part in value)):
            yield name, value
        elif kind in _CONTAINERS and not value:
            yield name, kind()
        elif name in ("_parameters", "_buffers", "_modules"):
            yield (
                name,
                kind((key, memo[id(v)] if id(v) in memo else copy.deepcopy(v, memo)) for key, v in value.items()),
            )
        elif name != "_compiled_call_impl":
            yield name, copy.deepcopy(value, memo)
