"""Read images a batch at a time, in processes beside this one too."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from multiprocessing.context import BaseContext
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

K = TypeVar("K")
R = TypeVar("R")


def cpus() -> int:
    """Those that this process may use, where the system says so."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def context(module: str) -> BaseContext:
    """A way to start workers that share no connection to a bucket with this process, as forked ones would.

    `module` is what they need, imported once for all of them where the system can do that.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    chosen = multiprocessing.get_context("forkserver")
    chosen.set_forkserver_preload([module])
    return chosen


def follow_parent() -> None:
    """End this process, started by :mod:`multiprocessing`, when its parent ends."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def in_batches(keys: Iterable[K], batch_size: int) -> Iterator[list[K]]:
    """Group `keys` in lists of `batch_size`, the last one perhaps shorter; they are taken as they are asked for.

    Raises
    ------
    ValueError
        A `batch_size` below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: at least 1 is needed")
    left = iter(keys)
    return iter(lambda: list(islice(left, batch_size)), [])


def read_batches(
    read: Callable[[K], R], order: Iterable[list[K]], join: Callable[[list[R]], Any], **options: Any
) -> DataLoader[Any]:
    """Read batches in `order`, a few ahead where there are workers, which end with this process.

    The random numbers of this process are left alone, and an error of `read` ends the loop.

    Parameters
    ----------
    read : callable
        Makes one row of one key.
    order : iterable of list
        The keys of each batch; a list of them gives the loader a length.
    join : callable
        Makes a batch of its rows.
    **options
        As for :class:`torch.utils.data.DataLoader`, such as ``num_workers``; otherwise this process reads one
        when it is asked for.
    """
    return DataLoader(
        _Rows(read),
        batch_sampler=order,  # type: ignore[arg-type]
        collate_fn=join,
        worker_init_fn=_settle,
        generator=torch.Generator(),
        **options,
    )


class _Rows(Dataset[Any]):
    """Gives the row of a key."""

    def __init__(self, read: Callable[[Any], Any]) -> None:
        self.read = read

    def __getitem__(self, key: Any) -> Any:
        return self.read(key)


def _settle(_: int) -> None:
    """Let a worker end with its parent: torch sees to that only for its direct children, not for a fork server's."""
    follow_parent()
