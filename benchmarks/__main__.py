"""Measure the library against reference libraries; print the tables and write them and the plots to docs/."""

from __future__ import annotations

import argparse
import importlib
import platform
import re
import sys
import traceback
from importlib import metadata
from pathlib import Path
from types import ModuleType

import torch

from benchmarks import scaling, timing
from thoraxlib.utils.files import replacing

HERE = Path(__file__).parent
OTHERS = {"__init__", "__main__", "timing", "scaling"}
NAMES = sorted(path.stem for path in HERE.glob("*.py") if path.stem not in OTHERS)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"tables to measure; default: all ({', '.join(NAMES)}) and the plots"
    )
    parser.add_argument(
        "--scaling", action="store_true", help="measure the plots: cost against batch, size, labels, rows"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="device (default: cpu)")
    parser.add_argument(
        "--pairs", type=int, help="for a quick check: most pairs of runs for each row; nothing is written"
    )
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in NAMES]
    if unknown:
        parser.error(f"unknown benchmark {unknown[0]!r}; there are {', '.join(NAMES)}")
    torch.set_num_threads(1)
    timing.most_pairs = options.pairs or timing.most_pairs
    device = torch.device(options.device)
    torch.zeros(1, device=device)  # initialises a GPU
    docs = None if options.pairs else HERE.parent / "docs"
    everything = not options.names and not options.scaling
    failed = [name for name in (NAMES if everything else options.names) if not table(name, device, docs)]
    if (everything or options.scaling) and device.type == "cpu":
        try:
            scaling.draw(docs, conditions(scaling, device))
        except Exception:
            traceback.print_exc()
            failed.append("--scaling")
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def table(name: str, device: torch.device, docs: Path | None) -> bool:
    """Run a benchmark, print and write its rows, and return True if it was completed."""
    lines, complete = [], True
    try:
        module = importlib.import_module(f"benchmarks.{name}")
        if device.type not in getattr(module, "DEVICES", ("cpu",)):
            return True
        lines += [f"*{conditions(module, device)}*", "", *getattr(module, "HEADER", timing.HEADER).split("\n")]
        print(f"\n## {name}", *lines, sep="\n", flush=True)
        for row in module.run(device):
            lines.append(str(row))
            print(row, flush=True)
    except Exception as error:
        traceback.print_exc()
        lines += ["", f"**Stopped by {type(error).__name__}: {error}**"]
        complete = False
    if docs is not None:
        path = docs / "_benchmarks" / f"{name}{'' if device.type == 'cpu' else '-' + device.type}.md"
        with replacing(path) as scratch:
            scratch.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return complete


def conditions(module: ModuleType, device: torch.device) -> str:
    """Describe processor and versions."""
    timed = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{_processor()}, one thread"
    where = getattr(module, "WHERE", timed)
    versions = [f"Python {platform.python_version()}"]
    for package in ("thoraxlib", "torch", *getattr(module, "PACKAGES", ())):
        try:
            versions.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            versions.append(f"no {package}")
    return f"{where}; {', '.join(versions)}."


def _processor() -> str:
    listed = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*:\s*(.+)", listed.read_text()) if listed.exists() else None
    return model[1].strip() if model else platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
