"""Work of several training processes: tasks for the first one only, and locks on the folder of a run."""

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

_PATIENCE = timedelta(days=30)  # the group's own timeout is for a training step; an evaluation takes longer
_LINGERING = 10.0  # seconds until the loading processes of a killed run end


def is_first_process() -> bool:
    """Return True in the only process, or in the first one that torchrun, SLURM or Lightning started."""
    return not rank_zero_only.rank


@contextmanager
def only_run(folder: Path) -> Iterator[None]:
    """Lock the folder of a run, in the first process only; wait some seconds for a killed run to release it.

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
    """Decorate a function to run in the first process only, while the others wait; all get its result.

    Use it for scores, tables, figures and files before, between and after trainings on several devices. Every process
    must call the function. If no training has connected the processes yet, it runs in each of them.

    Parameters
    ----------
    function : callable
        Its result must be picklable.

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
