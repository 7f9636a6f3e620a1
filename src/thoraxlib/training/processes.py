"""Who of several training processes does something for all, and that one run at a time writes to a folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

from lightning.pytorch.utilities import rank_zero_only
from torch import distributed

from thoraxlib.utils.files import locked

P = ParamSpec("P")
R = TypeVar("R")

_PATIENCE = timedelta(days=30)  # the group's own limit is that of a step, not of an evaluation
_LINGERING = 10.0  # seconds in which the loading processes of a killed run see that it is gone


def is_first_process() -> bool:
    """Whether this is the only process, or the first of those that torchrun, SLURM or Lightning started."""
    return not rank_zero_only.rank


@contextmanager
def only_run(folder: Path) -> Iterator[None]:
    """Hold a run's folder: the first process does so for all of its run, and waits for what a killed run leaves.

    Raises
    ------
    ValueError
        Another run writes to the folder.
    """
    with ExitStack() as held:
        until = time.monotonic() + _LINGERING
        while is_first_process():
            try:
                held.enter_context(locked(folder))
                break
            except ValueError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.1)
        yield


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
