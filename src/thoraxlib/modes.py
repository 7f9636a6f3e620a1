"""Where a model is, and the mode that it is in: read, and put back afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

import torch
from torch import nn

__all__ = ["device_of", "evaluating", "keeping_modes"]


def device_of(model: nn.Module) -> torch.device:
    """Where a model's weights are; the CPU for a model without any."""
    return next((tensor.device for tensor in chain(model.parameters(), model.buffers())), torch.device("cpu"))


@contextmanager
def keeping_modes(model: nn.Module) -> Iterator[None]:
    """Afterwards every module is in the mode in which it was: parts of a model in training may be frozen, in eval."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode, and afterwards every module in the mode in which it was."""
    with keeping_modes(model):
        model.eval()
        yield
