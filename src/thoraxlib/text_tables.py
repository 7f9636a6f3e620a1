"""Tables of cells as text: aligned, as Markdown, and in files."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from thoraxlib.files import replacing

__all__ = ["aligned", "decimals", "estimate", "markdown", "write"]

Cells = Sequence[Sequence[str]]


def decimals(value: float) -> str:
    """With four digits; "-" for NaN."""
    return "-" if math.isnan(value) else f"{value:.4f}"


def estimate(value: float, low: float, high: float) -> str:
    """A value with its interval, three digits each."""
    return f"{value:.3f} ({low:.3f} to {high:.3f})"


def aligned(cells: Cells) -> list[str]:
    """A line for each row of cells: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    rows = ([cell.rjust(width) for cell, width in zip(line, widths, strict=True)] for line in cells)
    firsts = (line[0].ljust(widths[0]) for line in cells)
    return ["  ".join([first, *row[1:]]).rstrip() for first, row in zip(firsts, rows, strict=True)]


def markdown(cells: Cells) -> str:
    """A Markdown table; the first row of cells is its heading."""
    heading, *body = cells
    rule = ["---"] + ["---:"] * (len(heading) - 1)
    return "\n".join("| " + " | ".join(line) + " |" for line in (heading, rule, *body)) + "\n"


def write(folder: str | os.PathLike[str], texts: Mapping[str, str]) -> None:
    """Texts as files of `folder`, by their names, each whole or not at all; the folder is made if need be."""
    for name, text in texts.items():
        with replacing(Path(folder) / name) as scratch:
            scratch.write_text(text, encoding="utf-8")
