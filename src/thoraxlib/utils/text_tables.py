"""Tables of results as text: aligned, as Markdown and as CSV."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

from thoraxlib.utils.files import write_text

Cells = Sequence[Sequence[str]]


def decimals(value: float) -> str:
    """Format a number with four digits; "-" for NaN."""
    return "-" if math.isnan(value) else f"{value:.4f}"


def span(low: float, high: float) -> str:
    """Format both ends of an interval with four digits each."""
    return f"{decimals(low)} - {decimals(high)}"


def aligned(cells: Cells) -> list[str]:
    """Format each row of cells as a line: the first column aligned to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    rows = ([cell.rjust(width) for cell, width in zip(line, widths, strict=True)] for line in cells)
    firsts = (line[0].ljust(widths[0]) for line in cells)
    return ["  ".join([first, *row[1:]]).rstrip() for first, row in zip(firsts, rows, strict=True)]


def markdown(cells: Cells) -> str:
    """Format cells as a Markdown table; the first row is the heading."""
    heading, *body = cells
    rule = ["---"] + ["---:"] * (len(heading) - 1)
    return "\n".join("| " + " | ".join(line) + " |" for line in (heading, rule, *body)) + "\n"


class Table:
    """Base class of results that are shown as a table; ``str(table)`` is aligned text.

    A subclass gives the cells in ``_cells``, the heading first. If its CSV file has other columns or more digits, it
    gives the rows of that in ``_records``.
    """

    _name: ClassVar[str]  # stem of the file names

    def _cells(self) -> list[list[str]]:
        raise NotImplementedError

    def _records(self) -> Iterable[Sequence[Any]]:
        return self._cells()

    def __str__(self) -> str:
        return "\n".join(aligned(self._cells()))

    def to_markdown(self) -> str:
        """Return a Markdown table."""
        return markdown(self._cells())

    def to_csv(self, path: str | os.PathLike[str] | None = None) -> str:
        """Return the table as CSV, and write it to `path` if given; NaN is an empty cell."""
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        for row in self._records():
            writer.writerow(["" if value is None or value != value else value for value in row])
        if path is not None:
            write_text(path, file.getvalue())
        return file.getvalue()

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the table as ``.csv``, ``.md`` and ``.txt`` into `folder`, which is made if needed."""
        for kind, text in {"csv": self.to_csv(), "md": self.to_markdown(), "txt": f"{self}\n"}.items():
            write_text(Path(folder, f"{self._name}.{kind}"), text)
