"""What one of several training processes does for all."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import wraps
from typing import Any, ParamSpec, TypeVar, cast

from lightning.pytorch.utilities import rank_zero_only
from torch import distributed

__all__ = ["first_process", "is_first_process"]

P = ParamSpec("P")
R = TypeVar("R")

_PATIENCE = timedelta(days=30)  # the group's own limit is that of a step, not of an evaluation


def is_first_process() -> bool:
    """Whether this is the only process, or the first of those that torchrun, SLURM or Lightning started."""
    return not rank_zero_only.rank


def first_process(function: Callable[P, R]) -> Callable[P, R]:
    """Decorator: what the first process alone does, while the others wait; all of them get what it returns.

    For what comes before, between and after trainings on several devices: scores, tables, pictures, files. Every
    process must make the call. Where no training has brought the processes together yet, each is on its own.

    Parameters
    ----------
    function : callable
        Its result can be pickled.

    Examples
    --------
    >>> @first_process
    ... def report(scores):
    ...     print("written once")
    ...     return max(scores)
    >>> report([0.25, 0.5])
    written once
    0.5
    """

    @wraps(function)
    def alone(*args: P.args, **options: P.kwargs) -> R:
        if not (distributed.is_available() and distributed.is_initialized()):
            return function(*args, **options)
        group: Any = distributed.new_group(backend="gloo", timeout=_PATIENCE)
        result: list[Any] = [function(*args, **options) if distributed.get_rank() == 0 else None]
        distributed.broadcast_object_list(result, src=0, group=group)
        distributed.destroy_process_group(group)
        return cast("R", result[0])

    return alone
