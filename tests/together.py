"""One piece of work in several threads at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

__all__ = ["together"]

T = TypeVar("T")


def together(work: Callable[[int], T], threads: int = 8) -> list[T]:
    """What ``work(0)``, ``work(1)``, ... give, all begun at the same moment; the first error is raised."""
    gate = threading.Barrier(threads)

    def begin(number: int) -> T:
        gate.wait(timeout=60)
        return work(number)

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(begin, range(threads)))
