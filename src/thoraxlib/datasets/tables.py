"""CSV tables with messages that say which file, line and column is wrong."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from thoraxlib.files import open_regular

__all__ = ["Table"]

_LARGEST = 2**31  # bytes of text: several times the largest release's, and less than a file may promise


class Table:
    """A CSV file in memory, by column name.

    Parameters
    ----------
    path : Path
        UTF-8, with a header; a row may have more fields than the header (some releases' headers hold commas). Packed by
        gzip where it ends in ``.gz``.
    delimiter : str
        Between the fields.

    Raises
    ------
    ValueError
        No header, no row, a row that is too short, or not text; text of more than 2 GiB; or no regular file.
    """

    def __init__(self, path: Path, delimiter: str = ",") -> None:
        self.path = path
        try:
            with _open(path) as file:
                reader = csv.reader(file, delimiter=delimiter)
                self.columns = [name.strip() for name in next(reader, [])]
                self.rows: list[list[str]] = []
                self.lines: list[int] = []
                for row in reader:
                    if row:
                        self.rows.append(row)
                        self.lines.append(reader.line_num)
        except (UnicodeDecodeError, csv.Error, gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise ValueError(f"{path} is no CSV text file: {error}") from error
        if not self.rows:
            raise ValueError(f"{path} holds no rows")

    def where(self, row: int) -> str:
        """``path:line`` of a row."""
        return f"{self.path}:{self.lines[row]}"

    def check_unique(self, values: list[str]) -> None:
        """Raise ValueError, with both lines, where a value of a column comes again."""
        first: dict[str, int] = {}
        for row, value in enumerate(values):
            if first.setdefault(value, row) != row:
                raise ValueError(f"{self.where(row)}: {value} appears again, first in line {self.lines[first[value]]}")

    def column(self, *names: str) -> list[str]:
        """The column that goes by one of `names`, stripped.

        Raises
        ------
        ValueError
            There is none (the message lists those found), or a row ends before it.
        """
        for name in names:
            if name in self.columns:
                at = self.columns.index(name)
                break
        else:
            wanted = " or ".join(map(repr, names))
            raise ValueError(f"{self.path} has no column {wanted}; columns found: {', '.join(self.columns)}")
        try:
            return [row[at].strip() for row in self.rows]
        except IndexError as error:
            short = next(number for number, row in enumerate(self.rows) if len(row) <= at)
            raise ValueError(
                f"{self.where(short)}: the row has {len(self.rows[short])} fields, {name!r} is number {at + 1}"
            ) from error

    def having(
        self,
        name: str,
        wanted: str | Sequence[str] | None,
        *,
        argument: str,
        groups: Mapping[str, Sequence[str]] | None = None,
    ) -> NDArray[np.bool_]:
        """Which rows have one of the `wanted` values in the column `name`; all, where None is wanted.

        Parameters
        ----------
        name : str
            The column.
        wanted : str, sequence of str or None
            Values, or names of `groups`.
        argument : str
            Where `wanted` comes from, for the message.
        groups : mapping of str to sequence of str, optional
            Names that stand for several values.

        Raises
        ------
        ValueError
            No such column; or something is wanted that neither it nor `groups` has.
        """
        if wanted is None:
            return np.ones(len(self.rows), dtype=bool)
        values, groups = self.column(name), groups or {}
        names = [wanted] if isinstance(wanted, str) else list(wanted)
        known = sorted({*values, *groups})
        if not names or not set(names) <= set(known):
            raise ValueError(f"{argument} must name some of {known} (those of {self.path.name}), got {wanted!r}")
        chosen = {value for name in names for value in groups.get(name, (name,))}
        return np.array([value in chosen for value in values], dtype=bool)


def _open(path: Path) -> IO[str]:
    if path.suffix.lower() == ".gz":
        with open_regular(path) as packed, gzip.open(packed, "rb") as file:
            content = file.read(_LARGEST + 1)
        if len(content) > _LARGEST:
            raise ValueError(f"{path} holds more than {_LARGEST} bytes of text")
        return io.TextIOWrapper(io.BytesIO(content), encoding="utf-8-sig", newline="")
    return io.TextIOWrapper(open_regular(path, largest=_LARGEST), encoding="utf-8-sig", newline="")
