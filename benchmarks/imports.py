"""Compare the import of the library with that of torch and of other libraries, in fresh processes in turn."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import torch

from benchmarks import timing
from benchmarks.timing import Row, optional

PACKAGES = ("torchvision", "timm", "torch-geometric", "torchxrayvision", "monai")
PEERS = ("torchvision", "timm", "torch_geometric", "torchxrayvision", "monai")

CODE = """
import re, time
resident = lambda: int(re.search(r"VmRSS:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
start = time.perf_counter()
import torch
middle, before = time.perf_counter(), resident()
import {package}
end, after = time.perf_counter(), resident()
{use}
used = time.perf_counter()
print((end - middle) / (middle - start), (used - middle) / (middle - start), after - before)
"""


def run(device: torch.device) -> Iterator[Row]:
    _cost("thoraxlib")  # a first run, so that torch's files are in the disk cache
    runs = [_cost("thoraxlib", "thoraxlib.names()") for _ in range(min(8, timing.most_pairs))]
    imported, used, _ = ([*column] for column in zip(*runs, strict=True))
    conditions = f"torch imported before, {len(runs)} fresh processes"
    yield Row("import thoraxlib, beyond torch", "import torch", imported, 0.15, conditions)
    yield Row("import thoraxlib; thoraxlib.names(), beyond torch", "import torch", used, None, conditions)
    for package in PEERS:
        yield from optional("import thoraxlib", f"import {package}", _against(package))


def _against(package: str) -> Iterator[Row]:
    if not _installed(package):
        raise ImportError(f"no {package}")
    pairs = [(_cost("thoraxlib"), _cost(package)) for _ in range(min(2, timing.most_pairs))]
    ratios = [(1 + ours[0]) / (1 + theirs[0]) for ours, theirs in pairs]
    memory = pairs[0][0][2], pairs[0][1][2]
    conditions = "torch included in the times, not in the memory"
    yield Row("import thoraxlib", f"import {package}", ratios, None, conditions, memory)


def _installed(package: str) -> bool:
    from importlib.util import find_spec

    return find_spec(package) is not None


def _cost(package: str, use: str = "") -> tuple[float, float, float]:
    """Return the time of the import, and with a first use, as multiples of torch's import, and memory in MiB."""
    code = CODE.format(package=package, use=use)
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    imported, used, memory = map(float, out.split()[-3:])
    return imported, used, memory
