"""Columns of a user's table as text: CSV, tab-separated text, or Parquet."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thoraxlib.datasets.tables import Table
from thoraxlib.utils.files import open_regular, read_regular

_SMALL = 2**20  # bytes: below, importing pyarrow takes longer than reading with the standard library
_SAMPLE = 1000  # rows; a column that repeats nothing in them probably repeats nothing
_PARQUET = (".parquet", ".pq")


class Columns:
    """Read a table into memory, and give its columns as text without blanks around it.

    Tables of more than 1 MiB are read by pyarrow if it is installed; Parquet files always need it.

    Parameters
    ----------
    path : Path
        A CSV file as for :class:`~thoraxlib.datasets.tables.Table`, with commas, tabs or semicolons (the header
        decides), packed by gzip or not; or a Parquet file, ``.parquet`` or ``.pq``.

    Attributes
    ----------
    path : Path
        The file.
    names : list of str
        Names of the columns.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ImportError
        A Parquet file, and pyarrow is not installed.
    ValueError
        As :class:`~thoraxlib.datasets.tables.Table`; or the file is no Parquet file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.exists():
            raise FileNotFoundError(f"table: no such file: {path}")
        self._delimiter = ""
        self._lines: list[int] | None = None
        self._arrow: Any = None
        self._rows: list[list[str]] = []
        if path.suffix.lower() in _PARQUET:
            self._arrow = _read_parquet(path)
        else:
            content = _content(path)
            header = content[: content.find(b"\n") if b"\n" in content else len(content)]
            self._delimiter = max(",\t;", key=lambda sign: header.count(sign.encode()))
            self._arrow = _read_csv(content, self._delimiter)
        if self._arrow is None:
            table = Table(path, self._delimiter)
            self.names, self._rows, self._lines = table.columns, table.rows, table.lines
            self._table = table
        else:
            self.names = [name.strip() for name in self._arrow.column_names]
        self._read: dict[str, tuple[list[str], NDArray[np.intp]]] = {}
        if not len(self):
            raise ValueError(f"{path} holds no rows")

    def __len__(self) -> int:
        return len(self._rows) if self._arrow is None else int(self._arrow.num_rows)

    def where(self, row: int) -> str:
        """Return ``path:line`` of a row; for Parquet ``path: row number``, counted from 1."""
        if not self._delimiter:
            return f"{self.path}: row {row + 1}"
        if self._lines is None:  # lines are wanted for messages only, and pyarrow does not tell them
            self._lines = Table(self.path, self._delimiter).lines
        return f"{self.path}:{self._lines[row]}"

    def coded(self, name: str) -> tuple[list[str], NDArray[np.intp]]:
        """Return the different values of a column, and each row's position in them.

        Raises
        ------
        ValueError
            There is no such column (the message lists those of the file), there are several, a row is too short, or the
            values are neither text nor numbers.
        """
        if name not in self._read:
            self._check(name)
            if self._arrow is None:
                self._read[name] = _code(self._table.column(name))
            else:
                self._read[name] = self._encoded(name)
        return self._read[name]

    def column(self, name: str) -> list[str]:
        """Return a column as text.

        Raises
        ------
        ValueError
            As :meth:`coded`.
        """
        values, codes = self.coded(name)
        return [values[code] for code in codes.tolist()]

    def _check(self, name: str) -> None:
        if self.names.count(name) != 1:
            count = self.names.count(name)
            found = f"{count} columns {name!r}: one is wanted" if count else f"no column {name!r}"
            raise ValueError(f"{self.path} has {found}; columns found: {', '.join(self.names)}")

    def _encoded(self, name: str) -> tuple[list[str], NDArray[np.intp]]:
        """Return the values and codes of a column of an Arrow table."""
        import pyarrow
        from pyarrow import compute

        column = self._arrow.column(self.names.index(name))
        if column.type == pyarrow.string() and compute.count_distinct(column[:_SAMPLE]).as_py() == _SAMPLE:
            texts = compute.utf8_trim_whitespace(compute.fill_null(column, "")).to_numpy(zero_copy_only=False).tolist()
            if len(set(texts)) == len(texts):  # also computes the hashes of later look-ups
                return texts, np.arange(len(texts))
        try:
            known = pyarrow.types.is_dictionary(column.type)
            array = (column.unify_dictionaries() if known else column.dictionary_encode()).combine_chunks()
            texts = compute.fill_null(array.dictionary.cast(pyarrow.string()), "")
        except (pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError) as error:
            raise ValueError(f"{self.path}: {name!r} has the type {column.type}; text or numbers are needed") from error
        trimmed = compute.utf8_trim_whitespace(texts)  # of the different values: faster than of all rows
        values: list[str] = trimmed.to_numpy(zero_copy_only=False).tolist()
        codes = array.indices
        if codes.null_count:
            codes = compute.fill_null(codes, len(values))
            values.append("")
        codes = codes.to_numpy(zero_copy_only=False).astype(np.intp)
        if "" in values[:-1] or not trimmed.equals(texts):  # two of them may have become one
            values, merged = _code(values)
            codes = merged[codes]
        return values, codes


def _code(texts: Sequence[str]) -> tuple[list[str], NDArray[np.intp]]:
    """Return the different texts, and the position of each in them."""
    position: dict[str, int] = {}
    codes = [position.setdefault(text, len(position)) for text in texts]
    return list(position), np.array(codes, dtype=np.intp)


def _content(path: Path) -> bytes:
    """Return the text of a file if it is large and may be read by pyarrow, else its first line."""
    with open_regular(path) as file:
        packed = path.suffix.lower() == ".gz"
        if not packed and (path.stat().st_size < _SMALL or find_spec("pyarrow") is None):
            return file.readline(_SMALL)
        if not packed:
            return read_regular(path)
        try:
            with gzip.open(file, "rb") as text:
                start = text.read(_SMALL)
                return start + text.read(2**31 - len(start)) if len(start) == _SMALL else start
        except (OSError, EOFError):
            return b""  # Table says which


def _read_csv(content: bytes, delimiter: str) -> Any:
    """Return an Arrow table of text; None if the standard library should read the file."""
    sign = delimiter.encode()
    # rows that this parser would read in another way than the standard library, or not refuse
    quoted = b'"' in content
    odd = (quoted and (sign + b' "' in content or content.count(b'"') % 2)) or b"\0" in content
    if len(content) < _SMALL or odd or find_spec("pyarrow") is None:
        return None
    import pyarrow
    from pyarrow import compute
    from pyarrow import csv as arrow_csv

    content = content.removeprefix(b"\xef\xbb\xbf")
    try:
        names = next(csv.reader(io.StringIO(content[: content.find(b"\n")].decode()), delimiter=delimiter))
        table = arrow_csv.read_csv(
            pyarrow.BufferReader(content),
            parse_options=arrow_csv.ParseOptions(delimiter=delimiter, newlines_in_values=quoted),
            convert_options=arrow_csv.ConvertOptions(column_types=dict.fromkeys(names, pyarrow.string())),
        )
    except (pyarrow.ArrowException, UnicodeDecodeError, csv.Error):
        return None  # the standard library reads it, or says what is wrong in which line
    empty = compute.equal(table.column(0), "")
    for column in table.columns[1:]:
        if not compute.any(empty).as_py():
            return table
        empty = compute.and_(empty, compute.equal(compute.utf8_trim_whitespace(column), ""))
    return table.filter(compute.invert(empty))


def _read_parquet(path: Path) -> Any:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ImportError(
            f'{path}: reading Parquet needs pyarrow: pip install "thoraxlib[archive]"; CSV does not'
        ) from error
    with open_regular(path) as file:
        try:
            schema = parquet.read_schema(file)
            texts = [each.name for each in schema if pyarrow.types.is_string(each.type)]
            file.seek(0)
            return parquet.read_table(file, read_dictionary=texts)
        except (pyarrow.ArrowException, OSError) as error:
            raise ValueError(f"{path} is no Parquet file: {error}") from error
