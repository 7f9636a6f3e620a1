"""Fit the entries of a file to a model, as timm fits its own files to its networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from thoraxlib.checkpoints.layout import StateDict


def filtered(model: nn.Module, network: StateDict) -> StateDict:
    """Return a file's entries after the ``checkpoint_filter`` of the model or of its backbone, if one has it."""
    for part in (model, getattr(model, "backbone", None)):
        convert: Callable[[StateDict], StateDict] | None = getattr(part, "checkpoint_filter", None)
        if convert is not None:
            return convert(network)
    return network


def backbone_keys(model: nn.Module) -> set[str]:
    """Return the names of the model's entries that belong to its backbone."""
    if hasattr(model, "backbone_keys"):
        keys: set[str] = model.backbone_keys()  # type: ignore[operator]  # a method
        return keys
    return {key for key in model.state_dict() if "backbone" in key.split(".")}


def with_channels(model: nn.Module, new: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Adapt weights of first layers for three channels to the model's number of channels, by timm's rule.

    Parameters
    ----------
    model : nn.Module
        The model; its ``input_spec`` or its backbone's ``in_chans`` says the number.
    new : mapping of str to Tensor
        Name in the model -> the file's value.
    """
    spec: Any = getattr(model, "input_spec", None)
    channels = getattr(spec, "channels", None) or getattr(getattr(model, "backbone", None), "in_chans", 3)
    own, fitted = model.state_dict(), dict(new)
    for key, value in new.items() if channels != 3 else ():
        shape = tuple(own[key].shape)
        if value.ndim == 4 and tuple(value.shape) == (shape[0], 3, *shape[2:]) and shape[1] == channels:
            from timm.models import adapt_input_conv

            fitted[key] = adapt_input_conv(channels, value)
    return fitted
