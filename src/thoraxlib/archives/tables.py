"""Tables of scores: one file a part of the listing, Parquet or CSV, whole or absent."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from thoraxlib.utils.arguments import one_of

FORMATS = ("parquet", "csv")
_KEYS = ("id", "path", "height", "width", "error")


class Row(NamedTuple):
    """An image: its name and place, size in pixels and probabilities, or why it has none."""

    id: str
    path: str
    height: int | None = None
    width: int | None = None
    error: str | None = None
    probabilities: Sequence[float] = ()


def check_format(name: str, labels: Sequence[str]) -> None:
    """Raise unless tables can be written in a format, with a column for each label.

    Raises
    ------
    ImportError
        Parquet needs pyarrow.
    ValueError
        Another format; a label with the name of another column.
    """
    one_of("format", name, FORMATS)
    twice = sorted({*labels} & {*_KEYS})
    if twice:
        raise ValueError(f"the labels {twice} have the names of other columns, {_KEYS}")
    if name == "parquet":
        try:
            import pyarrow  # noqa: F401
        except ImportError as error:
            raise ImportError(
                'format="parquet" needs pyarrow: pip install "thoraxlib[archive]"; "csv" doesn\'t'
            ) from error


def write(path: Path, labels: Sequence[str], rows: Sequence[Row]) -> None:
    """Write a table, in the format that the file's ending says."""
    values = [[None if p != p else p for p in row.probabilities] or [None] * len(labels) for row in rows]
    if path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow([*_KEYS, *labels])
            for row, known in zip(rows, values, strict=True):
                # nine digits are those that a float32 has
                table.writerow([*row[:-1], *("" if p is None else f"{p:.9g}" for p in known)])
        return
    import pyarrow
    from pyarrow import parquet

    kinds = [pyarrow.string(), pyarrow.string(), pyarrow.int32(), pyarrow.int32(), pyarrow.string()]
    columns: list[Any] = [list(column) for column in zip(*(row[:-1] for row in rows), strict=True)]
    columns += [list(column) for column in zip(*values, strict=True)]
    kinds += [pyarrow.float32()] * len(labels)
    arrays = [pyarrow.array(column, kind) for column, kind in zip(columns, kinds, strict=True)]
    parquet.write_table(pyarrow.table(arrays, names=[*_KEYS, *labels]), path)


def failures(path: Path) -> int:
    """How many images of a table could not be read."""
    if path.suffix == ".csv":
        with path.open(newline="", encoding="utf-8") as file:
            return sum(bool(row["error"]) for row in csv.DictReader(file))
    from pyarrow import parquet

    errors = parquet.read_table(path, columns=["error"]).column("error")
    return len(errors) - int(errors.null_count)
