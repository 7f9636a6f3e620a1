"""Compare two functions, run in turn in one process, by time and peak memory."""

from __future__ import annotations

import ctypes
import gc
import re
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

Work = Callable[[], object]

_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")

most_pairs = 1_000_000  # limit for all comparisons: python -m benchmarks --pairs


@dataclass(frozen=True)
class Row:
    """One row of a table: the cost of the library as a multiple of a reference.

    Attributes
    ----------
    ratios : list of float
        Time ratio of each pair of runs; empty if the reference is not installed.
    target : float, optional
        The largest ratio that meets the target.
    memory : (float, float), optional
        Peak memory of both in MiB, beyond the memory in use before.
    reason : str
        Reason for a missed target.
    """

    name: str
    peer: str
    ratios: list[float]
    target: float | None = None
    conditions: str = ""
    memory: tuple[float, float] | None = None
    reason: str = ""

    def __str__(self) -> str:
        cells = [self.name, self.peer, "", "", "", "", self.conditions]
        if self.ratios:
            middle = statistics.median(self.ratios)
            cells[2] = f"{middle:.3g}"
            cells[3] = f"{min(self.ratios):.3g} to {max(self.ratios):.3g}" if len(self.ratios) > 1 else "once"
            if self.target is not None:
                verdict = "met" if middle <= self.target else ": ".join(filter(None, ("missed", self.reason)))
                cells[4] = f"{self.target:.3g}, {verdict}"
        if self.memory is not None:
            cells[5] = " / ".join("< 1" if part < 1 else f"{part:.0f}" for part in self.memory)
        return f"| {' | '.join(cells)} |"


HEADER = (
    "| thoraxlib | reference | time ratio | spread | target: at most | memory, MiB | conditions |\n"
    "|---|---|---|---|---|---|---|"
)


def compare(
    name: str,
    peer_name: str,
    ours: Work,
    peer: Work,
    *,
    target: float | None = None,
    conditions: str = "",
    reason: str = "",
    pairs: int = 11,
    warmup: int = 1,
    slow: bool = False,
) -> Row:
    """Measure a row of `pairs` pairs of runs; a `slow` reference runs only once for all pairs."""
    for _ in range(warmup):
        ours()
        if not slow:
            peer()
    memory = peak(ours)
    pairs = min(pairs, most_pairs)
    if slow:
        taken: list[float] = []
        of_peer = peak(lambda: taken.append(seconds(peer)))
        ratios = [seconds(ours) / taken[0] for _ in range(pairs)]
    else:
        of_peer = peak(peer)
        ratios = pair(ours, peer, pairs)
    both = None if memory is None or of_peer is None else (memory, of_peer)
    return Row(name, peer_name, ratios, target, conditions, both, reason)


def optional(name: str, peer: str, rows: Iterator[Row]) -> Iterator[Row]:
    """Yield `rows`, or one row that says that the reference is not installed."""
    try:
        yield from rows
    except ImportError as error:
        yield Row(name, peer, [], conditions=f"not measured: {error}")


def pair(ours: Work, peer: Work, pairs: int) -> list[float]:
    """Return the time ratios of `pairs` runs of both in turn."""
    return [seconds(ours) / seconds(peer) for _ in range(pairs)]


def seconds(work: Work) -> float:
    _finish()
    start = time.perf_counter()
    work()
    _finish()
    return time.perf_counter() - start


def peak(work: Work) -> float | None:
    """Measure peak memory of `work` in MiB, beyond that before: of the GPU in use, or of the process (Linux)."""
    gc.collect()
    if torch.cuda.is_initialized():
        _finish()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    if not _CLEAR.exists():
        return None
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)  # return freed memory to the system, so that it counts again
    _CLEAR.write_text("5")  # reset the peak
    before = _resident("VmRSS")
    work()
    return max(_resident("VmHWM") - before, 0) / 2**10


def _resident(key: str) -> int:
    size = re.search(rf"{key}:\s+(\d+)", _STATUS.read_text())
    assert size is not None
    return int(size[1])


def _finish() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def repeated(work: Work, times: int) -> Callable[[], None]:
    """Return a function that runs `work` several times, if one run is too short to be timed."""

    def works() -> None:
        for _ in range(times):
            work()

    return works
