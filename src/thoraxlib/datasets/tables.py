"""CSV tables with messages that say which file, line and column is wrong."""

from __future__ import annotations

import csv
import gzip
import io
import re
import warnings
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from thoraxlib.utils.arguments import few
from thoraxlib.utils.files import open_regular

_LARGEST = 2**31  # bytes of text: several times the largest release's, and less than a file may promise
_BLANK = frozenset({"", "nan", "na", "n/a", "<na>", "none", "null"})


def is_blank(text: str) -> bool:
    """Whether a cell says nothing: it is empty, or has a word that programs write for an empty one.

    >>> [is_blank(text) for text in ("", " NaN", "None", "NA", "0")]
    [True, True, True, True, False]
    """
    return text.strip().lower() in _BLANK


class Table:
    """A CSV file in memory, by column name.

    Parameters
    ----------
    path : Path
        UTF-8, with a header; a row may have more fields than the header (some releases' headers hold commas). Packed by
        gzip where it ends in ``.gz``. Rows without any text are left out, and so are blanks around a field.
    delimiter : str
        Between the fields.

    Raises
    ------
    ValueError
        No header, no row, a row that is too short, a quote that is not closed, or not UTF-8, with the line; text of
        more than 2 GiB; or no regular file.
    """

    def __init__(self, path: Path, delimiter: str = ",") -> None:
        self.path = path
        self.columns: list[str] = []
        self.rows: list[list[str]] = []
        self.lines: list[int] = []
        end = 0
        try:
            with _open(path) as file:
                # strict, as an unclosed quote would take all the rows behind it into one field
                reader = csv.reader(file, delimiter=delimiter, skipinitialspace=True, strict=True)
                for row in reader:
                    end = reader.line_num
                    if not any(map(str.strip, row)):
                        continue
                    if not self.columns:
                        self.columns = [name.strip() for name in row]
                        continue
                    self.rows.append(row)
                    self.lines.append(end)
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}:{_odd_line(path)}: no CSV text file: {error}") from error
        except csv.Error as error:
            raise ValueError(f"{path}:{end + 1}: no CSV text file: {error}, in the row that begins here") from error
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
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
            There is none (the message lists those found) or more than one, or a row ends before it.
        """
        name = next((name for name in names if name in self.columns), None)
        if name is None:
            wanted = " or ".join(map(repr, names))
            raise ValueError(f"{self.path} has no column {wanted}; columns found: {', '.join(self.columns)}")
        if self.columns.count(name) > 1:
            raise ValueError(f"{self.path} has {self.columns.count(name)} columns {name!r}: one is wanted")
        at = self.columns.index(name)
        try:
            return [row[at].strip() for row in self.rows]
        except IndexError as error:
            short = next(number for number, row in enumerate(self.rows) if len(row) <= at)
            raise ValueError(
                f"{self.where(short)}: the row has {len(self.rows[short])} fields, {name!r} is number {at + 1}"
            ) from error

    def ids(self, *names: str, prefix: str = "") -> list[str]:
        """Read the column that goes by one of `names`, as ids that can be compared with those of another table.

        Whole numbers that a program made floats are whole again, and lose the letter `prefix`: with "s" the study
        50414267 may also be written ``50414267.0`` or ``s50414267``. Other texts stay as they are.

        Raises
        ------
        ValueError
            As :meth:`column`.
        """
        whole = re.compile(rf"(?:{prefix})?(\d+)(?:\.0*)?", re.IGNORECASE)
        matches = ((text, whole.fullmatch(text)) for text in self.column(*names))
        return [text if match is None else match[1] for text, match in matches]

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


def check_joined(
    names: Sequence[str],
    found: Sequence[bool],
    known: Sequence[str],
    source: object,
    what: str,
    *,
    keys: str = "",
    lost: str = "their labels are unknown",
) -> None:
    """Raise an error where a table has a row for none of some names, and warn where it lacks a part of them.

    Parameters
    ----------
    names : sequence of str
        Of images, studies or what else is looked up.
    found : sequence of bool
        For each of them.
    known : sequence of str
        The table's own names, for the message.
    source : object
        The table, for the message.
    what : str
        What is looked up, in the plural.
    keys : str
        What the table's rows may be of, by default the same.
    lost : str
        What becomes of those that were not found.

    Raises
    ------
    ValueError
        There are names, and none was found.
    """
    lacking = [name for name, here in zip(names, found, strict=True) if not here]
    if lacking and len(lacking) == len(names):
        raise ValueError(
            f"{source} is of none of these {keys or what}; its ids are {few(known, 3)}, those looked up {few(names, 3)}"
        )
    if lacking:
        warnings.warn(
            f"{len(lacking)} of {len(names)} {what} have no row in {source}, {lost}: {few(lacking, 5)}",
            stacklevel=4,
        )


def _odd_line(path: Path) -> int:
    """Find the first line that is not UTF-8."""
    with _open(path) as file:
        content = file.buffer.read()
    try:
        content.decode()
    except UnicodeDecodeError as error:
        return content.count(b"\n", 0, error.start) + 1
    return 1


def _open(path: Path) -> TextIO:
    if path.suffix.lower() == ".gz":
        with open_regular(path) as packed, gzip.open(packed, "rb") as file:
            content = file.read(_LARGEST + 1)
        if len(content) > _LARGEST:
            raise ValueError(f"{path} holds more than {_LARGEST} bytes of text")
        return io.TextIOWrapper(io.BytesIO(content), encoding="utf-8-sig", newline="")
    return io.TextIOWrapper(open_regular(path, largest=_LARGEST), encoding="utf-8-sig", newline="")
