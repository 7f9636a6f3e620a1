"""Reading of batches, in this process or in worker processes."""

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
    """Return the number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def context(module: str) -> BaseContext:
    """Return a start method whose workers do not inherit open connections to buckets, as forked ones would.

    The workers need `module`: it is imported once for all of them where the system supports that.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    chosen = multiprocessing.get_context("forkserver")
    chosen.set_forkserver_preload([module])
    return chosen


def follow_parent(_: object = None) -> None:
    """End this process, started by :mod:`multiprocessing`, when its parent ends.

    torch does so only for its direct children, not for those of a fork server.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def in_batches(keys: Iterable[K], batch_size: int) -> Iterator[list[K]]:
    """Group `keys` into lists of `batch_size`; the last one may be shorter. Keys are read lazily.

    Raises
    ------
    ValueError
        `batch_size` is below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: at least 1 is needed")
    left = iter(keys)
    return iter(lambda: list(islice(left, batch_size)), [])


def read_batches(
    read: Callable[[K], R], order: Iterable[list[K]], join: Callable[[list[R]], Any], **options: Any
) -> DataLoader[Any]:
    """Read batches in `order`; workers read a few batches ahead, and end with this process.

    The random numbers of this process are not changed. An error of `read` ends the loop.

    Parameters
    ----------
    read : callable
        Function from a key to a row.
    order : iterable of list
        Keys of each batch; if it is a list, the loader has a length.
    join : callable
        Function from the rows of a batch to the batch.
    **options
        Options of :class:`torch.utils.data.DataLoader`, such as ``num_workers``; without workers, this process reads
        each batch when it is needed.
    """
    return DataLoader(
        _Rows(read),
        batch_sampler=order,  # type: ignore[arg-type]
        collate_fn=join,
        worker_init_fn=follow_parent,
        generator=torch.Generator(),
        **options,
    )


class _Rows(Dataset[Any]):
    """Data set of the rows of given keys."""

    def __init__(self, read: Callable[[Any], Any]) -> None:
        self.read = read

    def __getitem__(self, key: Any) -> Any:
        return self.read(key)
