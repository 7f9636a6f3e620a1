"""Tables of cells as text: aligned, as Markdown, as CSV, and in files."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from thoraxlib.utils.files import replacing

Cells = Sequence[Sequence[str]]


def decimals(value: float) -> str:
    """With four digits; "-" for NaN."""
    return "-" if math.isnan(value) else f"{value:.4f}"


def span(low: float, high: float) -> str:
    """Format both ends of an interval with four digits each."""
    return f"{decimals(low)} - {decimals(high)}"


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


class Table:
    """Base class of results that are shown as a table: ``str(table)`` is aligned.

    A subclass gives the cells in ``_cells``, the heading first, and, where the CSV file has other columns or more
    digits, its rows in ``_records``.
    """

    _name: ClassVar[str]  # of the files

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
        """Return the table as CSV, and write it to `path` if one is given; NaN is empty."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        for row in self._records():
            writer.writerow(["" if value is None or value != value else value for value in row])
        if path is not None:
            with replacing(path) as scratch:
                scratch.write_text(text.getvalue(), encoding="utf-8")
        return text.getvalue()

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the table as ``.csv``, ``.md`` and ``.txt`` into `folder`, which is made if need be."""
        kinds = {"csv": self.to_csv(), "md": self.to_markdown(), "txt": f"{self}\n"}
        write(folder, {f"{self._name}.{kind}": text for kind, text in kinds.items()})
