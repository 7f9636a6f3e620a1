"""CSV tables and split lists, with errors that name the file, line and column."""

from __future__ import annotations

import csv
import gzip
import io
import re
import warnings
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TextIO

import numpy as np
from numpy.typing import NDArray

from thoraxlib import labels as label_sets
from thoraxlib.utils.arguments import few
from thoraxlib.utils.files import open_regular, read_regular

_LARGEST = 2**31  # bytes of text: several times the largest release's; a packed file may claim more than fits in memory
_BLANK = frozenset({"", "nan", "na", "n/a", "<na>", "none", "null"})


def is_blank(text: str) -> bool:
    """Return True if a cell is empty, or holds a word that programs write for an empty one.

    >>> [is_blank(text) for text in ("", " NaN", "None", "NA", "0")]
    [True, True, True, True, False]
    """
    return text.strip().lower() in _BLANK


class Table:
    """Read a CSV file into memory, and give its columns by name.

    Parameters
    ----------
    path : Path
        UTF-8, with a header. A row may have more fields than the header (some releases' headers hold commas). A name
        that ends in ``.gz`` means a file packed by gzip. Empty rows, and blanks around a field, are left out.
    delimiter : str
        Separator of the fields.

    Raises
    ------
    ValueError
        The file has no row, a quote that is not closed, text that is not UTF-8, or more than 2 GiB of text; or it is no
        regular file. The message names the line.
    """

    def __init__(self, path: Path, delimiter: str = ",") -> None:
        self.path = path
        self.columns: list[str] = []
        self.rows: list[list[str]] = []
        self.lines: list[int] = []
        end = 0
        try:
            with _open(path) as file:
                # strict: an unclosed quote would put all later rows into one field
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
            raise ValueError(f"{path}:{_first_bad_line(path)}: no CSV text file: {error}") from error
        except csv.Error as error:
            raise ValueError(f"{path}:{end + 1}: no CSV text file: {error}, in the row that begins here") from error
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise ValueError(f"{path} is no CSV text file: {error}") from error
        if not self.rows:
            raise ValueError(f"{path} holds no rows")

    def where(self, row: int) -> str:
        """Return ``path:line`` of a row."""
        return f"{self.path}:{self.lines[row]}"

    def check_unique(self, values: list[str]) -> None:
        """Raise ValueError, with both lines, if a column has a value twice."""
        first: dict[str, int] = {}
        for row, value in enumerate(values):
            if first.setdefault(value, row) != row:
                raise ValueError(f"{self.where(row)}: {value} appears again, first in line {self.lines[first[value]]}")

    def column(self, *names: str) -> list[str]:
        """Return the column with one of `names`, without blanks around its fields.

        Raises
        ------
        ValueError
            There is no such column (the message lists those of the file), there are several, or a row is too short.
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
        """Return the column with one of `names`, spelled so that its ids can be compared with those of another table.

        Whole numbers that a program turned into floats become whole again, and lose the letter `prefix`: with "s", the
        study 50414267 may also be written ``50414267.0`` or ``s50414267``. Other texts stay as they are.

        Raises
        ------
        ValueError
            As :meth:`column`.
        """
        whole = re.compile(rf"(?:{prefix})?(\d+)(?:\.0*)?", re.IGNORECASE)
        matches = ((text, whole.fullmatch(text)) for text in self.column(*names))
        return [text if match is None else match[1] for text, match in matches]

    def rows_of(self, keys: list[str], wanted: Sequence[str], what: str = "images") -> list[int]:
        """Return the row of each `wanted` name; `keys` are the names of all rows.

        Raises
        ------
        ValueError
            A key comes twice, or there is no row for a name.
        """
        self.check_unique(keys)
        row_of = {key: row for row, key in enumerate(keys)}
        lacking = [name for name in wanted if name not in row_of]
        if lacking:
            raise ValueError(f"{self.path} lacks {len(lacking)} of {len(wanted)} {what}, the first is {lacking[0]}")
        return [row_of[name] for name in wanted]

    def having(
        self,
        name: str,
        wanted: str | Sequence[str] | None,
        *,
        argument: str,
        groups: Mapping[str, Sequence[str]] | None = None,
    ) -> NDArray[np.bool_]:
        """Return a mask of the rows whose column `name` has a `wanted` value; None selects all rows.

        Parameters
        ----------
        name : str
            The column.
        wanted : str, sequence of str or None
            Values, or names of `groups`.
        argument : str
            Name of the option `wanted`, for the message.
        groups : mapping of str to sequence of str, optional
            Names that stand for several values.

        Raises
        ------
        ValueError
            There is no such column, or `wanted` names a value that neither the column nor `groups` has.
        """
        if wanted is None:
            return np.ones(len(self.rows), dtype=bool)
        values = self.column(name)
        chosen = expand(wanted, values, argument, groups or {}, f" (those of {self.path.name})")
        return np.array([value in chosen for value in values], dtype=bool)


def expand(
    wanted: str | Sequence[str],
    values: Iterable[str],
    argument: str,
    groups: Mapping[str, Sequence[str]],
    source: str = "",
) -> set[str]:
    """Return the values that an option names, by themselves or by the name of a group.

    Raises
    ------
    ValueError
        `wanted` is empty, or names something that is neither among `values` nor a group.
    """
    names = [wanted] if isinstance(wanted, str) else list(wanted)
    known = sorted({*values, *groups})
    if not names or not set(names) <= set(known):
        raise ValueError(f"{argument} must name some of {known}{source}, got {wanted!r}")
    return {value for name in names for value in groups.get(name, (name,))}


def match_labels(labels: Sequence[str], known: Sequence[str], source: str) -> list[int | None]:
    """Return the position in `known` of each label, in any data set's spelling; None for a label that is not there.

    Raises
    ------
    ValueError
        No label is known.
    """
    positions = label_sets.align(known, labels)
    if all(position is None for position in positions):
        raise ValueError(f"labels: none of {list(labels)} is known to {source}; known: {', '.join(known)}")
    return positions


def check_joined(
    names: Sequence[str],
    joined: Sequence[bool],
    known: Sequence[str],
    source: object,
    what: str,
    *,
    keys: str = "",
    lost: str = "their labels are unknown",
) -> None:
    """Raise ValueError if a table has a row for none of some names; warn if it lacks some of them.

    Parameters
    ----------
    names : sequence of str
        Names of images, studies or other things.
    joined : sequence of bool
        True for each name that has a row.
    known : sequence of str
        The table's own names, for the message.
    source : object
        The table, for the message.
    what : str
        Plural noun for the things, for the message.
    keys : str
        Plural noun for the things of the table's rows, if different.
    lost : str
        Treatment of the names without a row, for the warning, such as "they are left out".
    """
    lacking = [name for name, has_row in zip(names, joined, strict=True) if not has_row]
    if lacking and len(lacking) == len(names):
        raise ValueError(
            f"{source} has a row for none of these {keys or what}; its ids are {few(known, 3)}, "
            f"those looked up {few(names, 3)}"
        )
    if lacking:
        warnings.warn(
            f"{len(lacking)} of {len(names)} {what} have no row in {source}, {lost}: {few(lacking, 5)}",
            stacklevel=4,
        )


class ImageList(NamedTuple):
    """Images of a split list, with float32 labels (N, K) or (N, 1) if the list has them."""

    path: Path
    names: list[str]
    targets: NDArray[np.float32] | None


def find_list(split: str, folders: Sequence[Path]) -> Path | None:
    """Find ``<split>.txt``, ``<split>_list.txt``, ``<split>_1.txt`` or ``<split>.csv`` in `folders`."""
    ends = (".txt", "_list.txt", "_1.txt", ".csv")
    names = [split] if split.endswith((".txt", ".csv")) else [f"{split}{end}" for end in ends]
    return next((folder / name for folder in folders for name in names if (folder / name).is_file()), None)


def read_list(path: Path, labels: Sequence[str]) -> ImageList:
    """Read a split list: a text file with one image per line.

    Parameters
    ----------
    path : Path
        Each line has a file name (a folder before it is dropped), then nothing, or a 0, 1 or ``nan`` for each label, or
        a single one of these for "any finding". They are separated by blanks; in a ``.csv`` by commas, and its first
        line is ``FileName`` and the labels.
    labels : sequence of str
        Names of the labels in a line.

    Raises
    ------
    ValueError
        A line has another number of labels, another value, no file name, or an image that came before (the message
        names file and line); or the list is empty.
    """
    lines: dict[str, int] = {}
    targets: list[list[float]] = []
    try:
        texts = read_regular(path).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text file: {error}") from error
    comma = "," if path.suffix == ".csv" else None
    if comma is not None:
        head = [label_sets.canonical(name) for name in texts[0].split(comma)[1:]] if texts else []
        if head != [label_sets.canonical(label) for label in labels]:
            raise ValueError(f"{path}:1: the header must be FileName, {', '.join(labels)}, got {texts[:1]}")
        texts[0] = ""
    width: int | None = None
    for number, line in enumerate(texts, start=1):
        name, *values = [part.strip() for part in line.split(comma)] or [""]
        if not name:
            continue
        width = len(values) if width is None else width
        if len(values) not in (0, 1, len(labels)) or len(values) != width:
            wanted = f"{len(labels)} labels ({', '.join(labels)}), one or none" if not lines else f"{width}, as before,"
            raise ValueError(f"{path}:{number}: {wanted} must follow the file name, got {len(values)}")
        name = name.replace("\\", "/").rpartition("/")[2]
        if not name:
            raise ValueError(f"{path}:{number}: a file's name is wanted, got {line!r}")
        if lines.setdefault(name, number) != number:
            raise ValueError(f"{path}:{number}: {name} is listed again, first in line {lines[name]}")
        try:
            targets.append([float("nan") if is_blank(value) else {"0": 0.0, "1": 1.0}[value] for value in values])
        except KeyError as error:
            raise ValueError(f"{path}:{number}: labels must be 0, 1 or nan, got {error.args[0]!r}") from error
    if not lines:
        raise ValueError(f"{path} lists no image")
    return ImageList(path, list(lines), np.array(targets, dtype=np.float32) if width else None)


def _first_bad_line(path: Path) -> int:
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
