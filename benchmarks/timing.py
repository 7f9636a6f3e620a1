"""Interleaved timing of two pieces of work in one process."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One line of the table: how long `ours` takes as a multiple of `peer`."""

    name: str
    peer: str
    ratios: list[float]
    target: float | None
    conditions: str

    def __str__(self) -> str:
        middle, low, high = statistics.median(self.ratios), min(self.ratios), max(self.ratios)
        target = (
            "" if self.target is None else f"at most {self.target:g}: {'met' if middle <= self.target else 'missed'}"
        )
        spread = f"{low:.3g} to {high:.3g}"
        return f"| {self.name} | {self.peer} | {middle:.3g} | {spread} | {target} | {self.conditions} |"


HEADER = "| ours | peer | ratio (median) | spread | target | conditions |\n|---|---|---|---|---|---|"


def pair(ours: Callable[[], object], peer: Callable[[], object], pairs: int = 11, warmup: int = 2) -> list[float]:
    """Ratios ours / peer of `pairs` runs, the two in turn, after `warmup` uncounted ones."""
    for _ in range(warmup):
        ours()
        peer()
    return [seconds(ours) / seconds(peer) for _ in range(pairs)]


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def repeated(work: Callable[[], object], times: int) -> Callable[[], None]:
    """`work` several times in a row, where once is too short to be timed."""

    def works() -> None:
        for _ in range(times):
            work()

    return works
