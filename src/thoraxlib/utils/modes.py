"""Device of a model, and copies of a model in eval mode that several threads may use at once."""

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

#: Methods with which a class changes how it is copied.
_COPYING = ("__deepcopy__", "__reduce_ex__", "__reduce__", "__getstate__", "__setstate__")
_IMMUTABLE = {bool, int, float, str, type(None)}
_CONTAINERS = {dict, OrderedDict, set}


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a model's weights; the CPU for a model without weights."""
    return next((tensor.device for tensor in _weights(model)), torch.device("cpu"))


def uncompiled(model: nn.Module) -> nn.Module:
    """Return the module inside a compiled one (``torch.compile``), and any other module unchanged."""
    while isinstance(inside := getattr(model, "_orig_mod", None), nn.Module):
        model = inside
    return model


def eval_view(model: M, device: torch.device | None = None) -> M:
    """Return a model that computes as `model` in eval mode, on `device`; the mode of `model` never changes.

    If no module is in training mode, and all weights are on the device, it is the model itself. Otherwise it is a
    :func:`shared_copy` for one call: it does not follow later changes of the model.

    Raises
    ------
    ValueError
        The model cannot be copied.
    """
    if device is not None:
        device = torch.empty(0, device=device).device  # "cuda" becomes "cuda:0"
    elsewhere = device is not None and any(tensor.device != device for tensor in _weights(model))
    training = any(module.training for module in model.modules())
    return shared_copy(model, device) if training or elsewhere else model


def shared_copy(model: M, device: torch.device | None = None) -> M:
    """Return a copy of a model's modules in eval mode, which shares parameters and buffers with the model.

    Weights on another device than `device` are copied to it. A forward pass of the copy, and hooks on its modules, do
    not affect the model's modules; the model's own hooks run with the copy too. Compiled modules are copied without
    compilation; modules of torch.jit have copies of their weights. No ``train`` or ``eval`` method is called, since
    some of them change weights.

    Raises
    ------
    ValueError
        The model cannot be copied.
    """
    modules = list(model.modules())
    memo: dict[int, Any] = {}
    for module in modules:
        memo.update((id(kept), kept) for kept in _kept(module))
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
    except Exception as error:  # an attribute of the model may raise anything
        raise ValueError(
            f"{type(model).__name__} cannot be copied ({type(error).__name__}: {error}); a copy is needed for a model "
            "in training mode (call model.eval()), for a model on another device, and to read a layer inside it"
        ) from error
    for copied in chain(twin.modules(), memo.values()):  # also modules in lists, and those of torch.jit
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
    """Yield further objects that a copy shares: other tensors, and hooks that are not methods of modules."""
    for name, value in vars(module).items():
        if isinstance(value, Tensor):
            yield value
        elif name.endswith("_hooks") and isinstance(value, dict):
            for hook in value.values():
                if not (isinstance(hook, MethodType) and isinstance(hook.__self__, nn.Module)):
                    yield hook


def _is_plain(kind: type[nn.Module]) -> bool:
    """Return True if modules of a class may be copied attribute by attribute; torch's methods only read old pickles."""
    methods = [getattr(kind, name, None) for name in _COPYING]
    return all(
        method is getattr(nn.Module, name, None) or getattr(method, "__module__", "").startswith("torch.nn.modules.")
        for name, method in zip(_COPYING, methods, strict=True)
    )


def _attributes(module: nn.Module, memo: dict[int, Any]) -> Iterator[tuple[str, Any]]:
    """Yield copies of a plain module's attributes, several times faster than ``copy.deepcopy`` does."""
    for name, value in vars(module).items():
        kind = type(value)
        if name == "training":
            yield name, False
        elif kind in _IMMUTABLE or (kind is tuple and all(type(item) in _IMMUTABLE for item in value)):
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
