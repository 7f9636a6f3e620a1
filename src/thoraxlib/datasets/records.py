"""Images of a user's table: names, patients, labels, attributes and boxes, before any file is opened."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from thoraxlib import labels as label_sets
from thoraxlib.datasets.columns import Columns
from thoraxlib.datasets.faults import Faults
from thoraxlib.datasets.files import StrPath
from thoraxlib.datasets.tables import is_blank
from thoraxlib.utils.arguments import few, one_of, repeated

#: Words for an image without any finding.
NEGATIVE = ("No Finding", "Normal", "Healthy", "Negative", "No abnormality", "Clear")
# names of the four columns of boxes that are recognised, and their format
_BOX_COLUMNS: dict[tuple[str, ...], str] = {
    ("x1", "y1", "x2", "y2"): "xyxy",
    ("x_min", "y_min", "x_max", "y_max"): "xyxy",
    ("xmin", "ymin", "xmax", "ymax"): "xyxy",
    ("x", "y", "width", "height"): "xywh",
    ("x", "y", "w", "h"): "xywh",
}
_VALUES = {"1": 1.0, "true": 1.0, "yes": 1.0, "0": 0.0, "false": 0.0, "no": 0.0}
_SEXES = {"f": "F", "female": "F", "m": "M", "male": "M"}
_AGE = re.compile(r"0*(\d+(?:\.\d+)?)\s*([dwmy]?)", re.IGNORECASE)
_YEARS = {"": 1.0, "y": 1.0, "m": 1 / 12, "w": 7 / 365.25, "d": 1 / 365.25}
_MANY = 100  # different values: more than a column of labels has
_NEARLY = 0.9  # of the cells: a column with so many labels and other values is not left out without a word


class BoxRows(NamedTuple):
    """Boxes of a table, one for each entry.

    Attributes
    ----------
    image : NDArray
        intp (M,): position of the image among the records.
    xyxy : NDArray
        float64 (M, 4): x1, y1, x2, y2.
    labels : list of str
        Name of each box's label.
    where : list of str
        Name of the image and line of each box, for messages.
    """

    image: NDArray[np.intp]
    xyxy: NDArray[np.float64]
    labels: list[str]
    where: list[str]


@dataclass
class Records:
    """Images of a table or of folders by class, in order.

    Attributes
    ----------
    source : str
        The table or folder, for messages.
    names : list of str
        Name of each image's file, as the table spells it.
    patients : list of str or None
        Patient of each image, if known.
    labels : tuple of str
        All labels of the source.
    targets : NDArray
        float32 (N, K): 1, 0 or NaN.
    parts : list of str or None
        Part of each image, if the source names parts.
    columns : dict of str to list
        Attributes for each image, such as ``views``.
    boxes : BoxRows or None
        Boxes, if asked for.
    rows : int
        Number of rows of the table.
    """

    source: str
    names: list[str]
    patients: list[str] | None
    labels: tuple[str, ...]
    targets: NDArray[np.float32]
    parts: list[str] | None = None
    columns: dict[str, list[Any]] = field(default_factory=dict)
    boxes: BoxRows | None = None
    rows: int = 0


@dataclass(frozen=True)
class TableLayout:
    """Layout of a user's table: the options of :class:`~thoraxlib.datasets.table_dataset.TableDataset` with its names.

    Raises
    ------
    ValueError
        Options contradict each other.
    """

    image: str = "image"
    patient: str | None = None
    study: str | None = None
    labels: str | Sequence[str] | None = None
    labels_column: str | None = None
    separator: str | None = "|"
    negative: Sequence[str] = NEGATIVE
    unknown: Sequence[str] = ("-1",)
    view: str | None = None
    age: str | None = None
    sex: str | None = None
    site: str | None = None
    split_column: str | None = None
    boxes: bool | StrPath = False
    box_columns: Sequence[str] | None = None
    box_format: str = "xyxy"
    box_label: str | None = None

    def __post_init__(self) -> None:
        one_of("box_format", self.box_format, ("xyxy", "xywh"))
        for name in ("negative", "unknown"):
            if isinstance(getattr(self, name), str):
                raise ValueError(f"{name} must be a sequence of texts, got {getattr(self, name)!r}")
        if self.box_columns is not None and (isinstance(self.box_columns, str) or len(self.box_columns) != 4):
            raise ValueError(f"box_columns must name four columns, got {self.box_columns!r}")
        twice = repeated(self.named().values())
        if twice:
            raise ValueError(f"the column {twice[0]!r} is given for two options: {self.named()}")

    def named(self) -> dict[str, str]:
        """Return the columns that options name, by option."""
        options = ("image", "patient", "study", "labels_column", "view", "age", "sex", "site", "split_column")
        given = {option: getattr(self, option) for option in options}
        return {option: column for option, column in given.items() if column is not None}

    def read(self, table: Columns, faults: Faults) -> Records:
        """Read the images of a table; rows of one image are joined if the table has boxes.

        Raises
        ------
        ValueError
            A column is missing, no image is named, or no label is found.
        """
        names, image = table.coded(self.image)
        blank = _blank(names)
        bare = np.isin(image, blank)
        faults.error("rows without an image's name", [table.where(row) for row in np.flatnonzero(bare)[:1000].tolist()])
        used = np.flatnonzero(~bare)
        if not len(used):
            raise ValueError(f"{table.path}: the column {self.image!r} names no image")
        if len(names) == len(table):  # no name comes twice
            kept, first, image_of = image[used], used, np.arange(len(used))
        else:
            kept, first, image_of = np.unique(image[used], return_index=True, return_inverse=True)
            order = np.argsort(first, kind="stable")  # images come in the order of the table
            kept, first, image_of = kept[order], used[first[order]], np.argsort(order, kind="stable")[image_of]
        if self.boxes is not True and len(first) < len(used):
            again = np.setdiff1d(used, first)[:1000].tolist()
            of = dict(zip(kept.tolist(), first.tolist(), strict=True))
            cases = [f"{table.where(row)}: {names[image[row]]}, first {table.where(of[image[row]])}" for row in again]
            hint = "; boxes=True joins the rows of an image" if self._box_columns(table) else ""
            faults.error("rows of an image that came before" + hint, cases)
        labels, targets = self._labels(table, faults)
        groups = _Groups(first, used, image_of)
        listed = names if np.array_equal(kept, np.arange(len(names))) else _taken(names, kept)
        columns: dict[str, list[Any]] = {}
        for name, option in (("views", "view"), ("sexes", "sex"), ("sites", "site"), ("study_ids", "study")):
            if getattr(self, option) is not None:
                texts, codes = groups.coded(table, getattr(self, option), faults)
                columns[name] = _taken([_SEXES.get(x.lower(), x) for x in texts] if option == "sex" else texts, codes)
        if self.age is not None:
            texts, codes = groups.coded(table, self.age, faults)
            columns["ages"] = _taken(_ages(texts, self.age, faults), codes)
        patients: list[str] | None = None
        if self.patient is not None:
            texts, codes = groups.coded(table, self.patient, faults)
            lacking = first[np.isin(codes, _blank(texts))][:1000].tolist()
            faults.error("images without a patient", [table.where(row) for row in lacking])
            patients = _taken(texts, codes)
        parts = None if self.split_column is None else _taken(*groups.coded(table, self.split_column, faults))
        return Records(
            source=str(table.path),
            names=listed,
            patients=patients,
            labels=labels,
            targets=groups.joined(targets),
            parts=parts,
            columns=columns,
            boxes=None if self.boxes is False else self._boxes(table, listed, faults),
            rows=len(table),
        )

    # -- labels ------------------------------------------------------------------------------------

    def _labels(self, table: Columns, faults: Faults) -> tuple[tuple[str, ...], NDArray[np.float32]]:
        """Return the labels that the table has, and their values (rows, K)."""
        if self.labels_column is not None:
            return self._listed(table)
        corners = self._box_columns(table) or () if self.boxes is True else ()
        used = {*self.named().values(), *corners, self.box_label}
        free = [name for name in table.names if name and name not in used and not name.startswith("Unnamed:")]
        asked = None if self.labels is None else label_sets.resolve(self.labels)
        chosen = [free[position] for position in label_sets.align(free, asked or ()) if position is not None]
        if asked is not None and not chosen:
            raise ValueError(
                f"labels: none of {list(asked)} is a column of {table.path}; columns left: {', '.join(free)}"
            )
        for name in chosen:
            faults.error("odd label values", self._odd(table, name))
        # also the labels that are not asked for, for a split that does not depend on `labels`
        chosen += [name for name in self._found(table, free, asked is None, faults) if name not in chosen]
        values = np.empty((len(table), len(chosen)), dtype=np.float32, order="F")
        for k, name in enumerate(chosen):
            texts, codes = table.coded(name)
            of_text = np.array([self._value(text) for text in texts], dtype=np.float32)
            values[:, k] = np.where(np.isinf(of_text), np.nan, of_text)[codes]
        return tuple(chosen), values

    def _found(self, table: Columns, free: Sequence[str], strict: bool, faults: Faults) -> list[str]:
        """Return the columns that hold labels, by their values; `strict`: report if there is none, or a doubt."""
        found, others = [], []
        for name in free:
            texts, codes = table.coded(name)
            if len(texts) > _MANY:
                continue
            counts = np.bincount(codes, minlength=len(texts))
            of_text = np.array([self._value(text) for text in texts])
            known, odd = np.isfinite(of_text), np.isinf(of_text)
            if known.any() and not odd.any():
                found.append(name)
            elif odd.any() and strict:
                others.append(self._odd(table, name)[0])
                if counts[known].sum() >= _NEARLY * (counts[known].sum() + counts[odd].sum()):
                    faults.error(
                        "columns with nearly only labels",
                        others[-1:],
                        f"{table.path}: nearly all cells of the column {name!r} are labels, but not all; name the "
                        "columns by labels=[...], or the value by unknown=[...]",
                    )
        if not found and strict:
            values = ", ".join(("0", "1", "true", "false", "yes", "no", "blank", *self.unknown))
            faults.error(
                "tables without labels",
                others or [str(table.path)],
                f"{table.path} has no column of labels ({values}), and labels_column= names none",
            )
        return found

    def _odd(self, table: Columns, name: str) -> list[str]:
        """Describe each value of a column that is no label."""
        texts, codes = table.coded(name)
        odd = [position for position, text in enumerate(texts) if np.isinf(self._value(text))]
        rows = [np.flatnonzero(codes == position) for position in odd[:100]]
        return [
            f"{table.where(int(at[0]))}: {name} is {texts[position]!r}{f' (in {len(at)} rows)' if len(at) > 1 else ''}"
            for position, at in zip(odd, rows, strict=False)
        ]

    def _value(self, text: str) -> float:
        """Return 1, 0, NaN for unknown, or infinity for a cell that is no label."""
        if is_blank(text) or _plain(text) in {_plain(each) for each in self.unknown}:
            return float("nan")
        return _VALUES.get(_plain(text), float("inf"))

    def _listed(self, table: Columns) -> tuple[tuple[str, ...], NDArray[np.float32]]:
        """Read the column that lists the labels of each row."""
        texts, codes = table.coded(str(self.labels_column))
        lists = [[text] if self.separator is None else text.split(self.separator) for text in texts]
        asked = () if self.labels is None else label_sets.resolve(self.labels)
        spelled = {label_sets.canonical(label): label for label in asked}
        none = {label_sets.canonical(name) for name in self.negative}
        unknown = {label_sets.canonical(name) for name in self.unknown}
        sets: list[set[str]] = []
        for names in lists:
            own = {label_sets.canonical(name): name.strip() for name in names}
            named = {key for key in own if key in spelled or key in none or not is_blank(key)}
            sets.append(named)
            for key in sorted(named - none - unknown):
                spelled.setdefault(key, own[key])
        occurring = set().union(*sets)
        labels = [key for key in (spelled if asked else sorted(spelled)) if key in occurring]
        if not labels or (asked and not occurring & set(map(label_sets.canonical, asked))):
            wanted = f"none of the labels {list(asked)}" if asked else "no label"
            raise ValueError(
                f"{table.path}: the column {self.labels_column!r} has {wanted}, but {few([*map(repr, texts)], 5)}"
            )
        of_text = np.zeros((len(texts), len(labels)), dtype=np.float32)
        for row, named in enumerate(sets):
            if not named or named & unknown:
                of_text[row] = np.nan
            for k, label in enumerate(labels):
                if label in named:
                    of_text[row, k] = 1
        return tuple(spelled[key] for key in labels), of_text[codes]

    # -- boxes -------------------------------------------------------------------------------------

    def _box_columns(self, table: Columns) -> tuple[str, ...] | None:
        if self.box_columns is not None:
            return tuple(self.box_columns)
        return next((names for names in _BOX_COLUMNS if set(names) <= set(table.names)), None)

    def _boxes(self, table: Columns, images: Sequence[str], faults: Faults) -> BoxRows:
        """Read the boxes of the images with these names, from their own table or from the same one."""
        table = table if isinstance(self.boxes, bool) else Columns(Path(self.boxes))
        columns = self._box_columns(table)
        if columns is None:
            raise ValueError(
                f"{table.path} has no columns of boxes, such as {', '.join(next(iter(_BOX_COLUMNS)))}; box_columns= "
                f"names four; columns found: {', '.join(table.names)}"
            )
        form = self.box_format if self.box_columns is not None else _BOX_COLUMNS[columns]
        texts = [table.column(name) for name in columns]
        blank = np.array([[is_blank(text) for text in column] for column in texts])
        given = ~blank.all(axis=0)
        cells = [[texts[side][row] for side in range(4)] for row in np.flatnonzero(given).tolist()]
        xyxy = np.array([[_number(cell) for cell in row] for row in cells], dtype=np.float64).reshape(-1, 4)
        if form == "xywh":
            xyxy[:, 2:] += xyxy[:, :2]
        good = np.isfinite(xyxy).all(axis=1) & (xyxy[:, 2:] > xyxy[:, :2]).all(axis=1)
        rows = np.flatnonzero(given)
        wrong = [f"{table.where(int(rows[k]))}: {', '.join(cells[k])}" for k in np.flatnonzero(~good)[:1000].tolist()]
        faults.error(f"boxes that are not four numbers ({', '.join(columns)}) with an area", wrong)
        rows, xyxy = rows[good], xyxy[good]
        names, codes = table.coded(self.image)
        position = {name: k for k, name in enumerate(images)}
        image = np.array([position.get(name, -1) for name in names], dtype=np.intp)[codes[rows]]
        absent = list(dict.fromkeys(names[code] for code in codes[rows[image < 0]].tolist()))
        if len(rows) and (image < 0).all():
            raise ValueError(f"{table.path} has boxes of none of the images, only of {few(absent, 3)}")
        faults.warn("images have boxes, but no row in the table", absent)
        rows, xyxy, image = rows[image >= 0], xyxy[image >= 0], image[image >= 0]
        where = [f"{table.where(row)}: {names[codes[row]]}" for row in rows.tolist()]
        return BoxRows(image, xyxy, self._box_labels(table, rows), where)

    def _box_labels(self, table: Columns, rows: NDArray[np.intp]) -> list[str]:
        column = self.box_label or (self.labels_column if self.labels_column in table.names else None)
        if column is None and self.labels is not None and len(label_sets.resolve(self.labels)) == 1:
            return [label_sets.resolve(self.labels)[0]] * len(rows)
        if column is None:
            raise ValueError(f"box_label must name the column of {table.path} with the label of each box")
        values, codes = table.coded(column)
        return _taken(values, codes[rows])


class _Groups(NamedTuple):
    """Rows of each image."""

    first: NDArray[np.intp]  # of each image
    used: NDArray[np.intp]  # rows with an image
    image: NDArray[np.intp]  # of each of these rows

    def coded(self, table: Columns, column: str, faults: Faults) -> tuple[list[str], NDArray[np.intp]]:
        """Return the values of a column, and the position of each image's; the rows of an image must agree."""
        texts, codes = table.coded(column)
        of_image = codes[self.first]
        if len(self.first) < len(self.used):
            odd = self.used[codes[self.used] != of_image[self.image]][:1000].tolist()
            cases = [table.where(row) for row in odd]
            faults.error(f"rows that disagree in {column!r} with the first of their image", cases)
        return texts, of_image

    def joined(self, targets: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the targets of each image: positive if one of its rows is, unknown if all are."""
        if len(self.first) == len(self.used):
            return targets if len(self.first) == len(targets) else targets[self.first]
        order = np.argsort(self.image, kind="stable")
        starts = np.searchsorted(self.image[order], np.arange(len(self.first)))
        joined: NDArray[np.float32] = np.fmax.reduceat(targets[self.used[order]], starts, axis=0)
        return joined


def _blank(values: Sequence[str]) -> list[int]:
    """Return the positions of blank values."""
    if min(map(len, values), default=0) > 4:  # no word for a blank cell is longer
        return []
    return [position for position, value in enumerate(values) if len(value) < 5 and is_blank(value)]


def _taken(values: Sequence[Any], codes: NDArray[np.intp]) -> list[Any]:
    """Return the value of each code."""
    array = np.empty(len(values), dtype=object)
    array[:] = values
    taken: list[Any] = array[codes].tolist()
    return taken


def _ages(texts: Sequence[str], column: str, faults: Faults) -> list[float]:
    """Return ages in years; NaN for blank and for odd ones. DICOM writes 061Y, 006M, 003W, 010D."""
    years = [_age(text) for text in texts]
    odd = sorted(text for text, age in zip(texts, years, strict=True) if np.isnan(age) and not is_blank(text))
    faults.warn(f"values of {column!r} that are no age, and count as unknown", odd)
    return years


def _age(text: str) -> float:
    match = _AGE.fullmatch(text)
    return float("nan") if match is None else float(match[1]) * _YEARS[match[2].lower()]


def _plain(text: str) -> str:
    """Return a cell in lower case, and a whole number without decimals."""
    return re.sub(r"^([+-]?\d+)\.0*$", r"\1", text.strip().lower())


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")
