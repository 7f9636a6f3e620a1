"""Two pieces of work in turn in one process: how long they take, and what memory at the worst moment."""

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

most_pairs = 1_000_000  # of any comparison: python -m benchmarks --pairs


@dataclass(frozen=True)
class Row:
    """One line of the table: what `ours` takes as a multiple of `peer`.

    Attributes
    ----------
    ratios : list of float
        Of the pairs; none where the peer is missing.
    target : float, optional
        The ratio wanted at most.
    memory : (float, float), optional
        Ours and the peer's: MiB at the worst moment beyond those before.
    reason : str
        Why the target is out of reach, for a row that misses it.
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
    "| ours | peer | time: ours / peer | spread | target: at most | memory, MiB: ours / peer | conditions |\n"
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
    """A row of `pairs` pairs; of one run of the peer for all of them if that is `slow`."""
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
    """`rows`, or one that says that the peer is missing."""
    try:
        yield from rows
    except ImportError as error:
        yield Row(name, peer, [], conditions=f"not measured: {error}")


def pair(ours: Work, peer: Work, pairs: int) -> list[float]:
    """Ratios ours / peer of `pairs` runs, the two in turn."""
    return [seconds(ours) / seconds(peer) for _ in range(pairs)]


def seconds(work: Work) -> float:
    _finish()
    start = time.perf_counter()
    work()
    _finish()
    return time.perf_counter() - start


def peak(work: Work) -> float | None:
    """MiB at the worst moment of `work` beyond those before: of the GPU if one is in use, or of the process (Linux)."""
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
        trim(0)  # what was freed goes back to the system, so that it counts when it is taken again
    _CLEAR.write_text("5")  # the peak counts from here
    before = _resident("VmRSS")
    work()
    return max(_resident("VmHWM") - before, 0) / 2**10


def _resident(key: str) -> int:
    found = re.search(rf"{key}:\s+(\d+)", _STATUS.read_text())
    assert found is not None
    return int(found[1])


def _finish() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def repeated(work: Work, times: int) -> Callable[[], None]:
    """`work` several times in a row, where once is too short to be timed."""

    def works() -> None:
        for _ in range(times):
            work()

    return works
