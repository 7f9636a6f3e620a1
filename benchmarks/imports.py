"""``import thoraxlib`` after torch, as a multiple of ``import torch``, in the same process."""

from __future__ import annotations

import subprocess
import sys

from benchmarks.timing import Row

CODE = """
import time
start = time.perf_counter()
import torch
middle = time.perf_counter()
import thoraxlib
end = time.perf_counter()
thoraxlib.names()
used = time.perf_counter()
print((end - middle) / (middle - start), (used - middle) / (middle - start))
"""


def run() -> list[Row]:
    runs = [subprocess.check_output([sys.executable, "-c", CODE], text=True).split() for _ in range(9)][1:]
    imported, used = ([float(ratio) for ratio in column] for column in zip(*runs, strict=True))
    conditions = "torch imported before, 8 fresh processes after one"
    return [
        Row("import thoraxlib", "import torch", imported, 0.15, conditions),
        Row("import thoraxlib; thoraxlib.names()", "import torch", used, None, conditions),
    ]
