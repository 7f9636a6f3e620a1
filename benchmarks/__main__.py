"""Run the named benchmarks, or all, and print one table."""

from __future__ import annotations

import argparse
import importlib
import platform
from importlib import metadata
from pathlib import Path

from benchmarks.timing import HEADER

NAMES = sorted(
    path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in {"__init__", "__main__", "timing"}
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*NAMES, []], help=f"default: all of {', '.join(NAMES)}")
    chosen = parser.parse_args().names or NAMES
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("thoraxlib", "torch", "timm", "torchvision"))
    print(f"{versions}, Python {platform.python_version()}, {platform.machine()}\n\n{HEADER}", flush=True)
    for name in chosen:
        for row in importlib.import_module(f"benchmarks.{name}").run():
            print(row, flush=True)


if __name__ == "__main__":
    main()
