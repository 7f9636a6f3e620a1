"""CSV tables with messages that say which file, line and column is wrong."""

from __future__ import annotations

import csv
from pathlib import Path

__all__ = ["Table"]


class Table:
    """A CSV file in memory, by column name.

    Parameters
    ----------
    path : Path
        UTF-8, with a header; a row may have more fields than the header (some releases' headers hold commas).

    Raises
    ------
    ValueError
        No header, no row, a row that is too short, or not text.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open(encoding="utf-8-sig", newline="") as file:
                reader = csv.reader(file)
                self.columns = [name.strip() for name in next(reader, [])]
                self.rows: list[list[str]] = []
                self.lines: list[int] = []
                for row in reader:
                    if row:
                        self.rows.append(row)
                        self.lines.append(reader.line_num)
        except (UnicodeDecodeError, csv.Error) as error:
            raise ValueError(f"{path} is no CSV text file: {error}") from error
        if not self.rows:
            raise ValueError(f"{path} holds no rows")

    def where(self, row: int) -> str:
        """``path:line`` of a row."""
        return f"{self.path}:{self.lines[row]}"

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
