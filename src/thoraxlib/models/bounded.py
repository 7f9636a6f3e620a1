"""Limit the memory and time of building a model from a config that somebody else wrote."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

_OPERATORS = 5  # for each tensor that is allowed; models take a tenth of them


class Bounded(TorchDispatchMode):  # type: ignore[no-untyped-call, unused-ignore]
    """Context that limits the number of tensors, and of numbers in them, that its code makes in this thread.

    Every tensor ever made counts, except changes in place and most views, and is refused before it gets memory.
    Operators are counted, too. Modules need tensors, so their number is limited as well.

    Parameters
    ----------
    tensors : int
        Most tensors that may be made, with 5 operators for each.
    numbers : int
        Most numbers in all of them together.
    reason : str
        Reason of the limits, for the message.

    Raises
    ------
    ValueError
        The code inside exceeds a limit.

    Examples
    --------
    >>> with Bounded(tensors=10, numbers=1000, reason="the file is small"):
    ...     small = torch.nn.Linear(10, 10)
    ...     large = torch.nn.Linear(10**6, 10**6)
    Traceback (most recent call last):
    ValueError: more than 10 tensors or 1000 numbers are asked for, but the file is small
    """

    def __init__(self, *, tensors: int, numbers: int, reason: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call, unused-ignore]
        self.most, self.reason = (tensors, numbers), reason
        self.tensors = self.numbers = self.operators = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        schema = func._schema
        self.operators += 1
        if not schema.is_mutable and not any(result.alias_info for result in schema.returns):
            sizes = _sizes(func, args, kwargs)
            self.tensors += len(sizes)
            self.numbers += sum(sizes)
        elif func is torch.ops.aten.unbind.int:  # iteration: a view of each element
            self.tensors += args[0].shape[args[1] if len(args) > 1 else 0]
        tensors, numbers = self.most
        if self.tensors > tensors or self.numbers > numbers or self.operators > _OPERATORS * tensors:
            raise ValueError(f"more than {tensors} tensors or {numbers} numbers are asked for, but {self.reason}")
        return func(*args, **kwargs)


def _sizes(func: Any, args: Any, kwargs: Any) -> list[int]:
    """Count the numbers in each result of an operator, without memory; [] if they depend on values of its inputs."""
    arguments = [argument.name for argument in func._schema.arguments]
    if arguments[:1] == ["size"]:
        return [math.prod(args[0])]
    args, kwargs = tree_map_only(torch.Tensor, _without_memory, (args, kwargs))
    if "device" in arguments:
        kwargs = {**kwargs, "device": "meta"}
    try:
        results = tree_leaves(func(*args, **kwargs))
    except (NotImplementedError, RuntimeError):
        return []
    return [result.numel() for result in results if isinstance(result, torch.Tensor)]


def _without_memory(value: torch.Tensor) -> torch.Tensor:
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
