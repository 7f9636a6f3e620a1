"""Split lists: text files with one image a line, with or without its labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from thoraxlib import labels as label_sets
from thoraxlib.datasets.tables import is_blank
from thoraxlib.utils.files import read_regular

_VALUES = {"0": 0.0, "1": 1.0}


class ImageList(NamedTuple):
    """The images of a list and, where the list has them, float32 labels (N, K) or (N, 1)."""

    path: Path
    names: list[str]
    targets: NDArray[np.float32] | None


def find_list(split: str, folders: Sequence[Path]) -> Path | None:
    """The file of `split`: ``<split>.txt``, ``<split>_list.txt``, ``<split>_1.txt`` or ``<split>.csv`` in `folders`."""
    ends = (".txt", "_list.txt", "_1.txt", ".csv")
    names = [split] if split.endswith((".txt", ".csv")) else [f"{split}{end}" for end in ends]
    return next((folder / name for folder in folders for name in names if (folder / name).is_file()), None)


def read_list(path: Path, labels: Sequence[str]) -> ImageList:
    """Read a split list.

    Parameters
    ----------
    path : Path
        Each line: a file name (a folder before it is dropped), then either nothing, or a 0, 1 or ``nan`` for each
        label, or a single one of them: whether there is any finding. Blanks between them, or commas in a ``.csv``,
        whose first line names the columns: ``FileName``, then the labels.
    labels : sequence of str
        What the numbers of a line stand for.

    Raises
    ------
    ValueError
        Naming file and line: another number of labels, another value, no file's name, an image twice; or the list is
        empty.
    """
    names: dict[str, int] = {}
    targets: list[list[float]] = []
    try:
        lines = read_regular(path).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text file: {error}") from error
    comma = "," if path.suffix == ".csv" else None
    if comma is not None:
        head = [label_sets.canonical(name) for name in lines[0].split(comma)[1:]] if lines else []
        if head != [label_sets.canonical(label) for label in labels]:
            raise ValueError(f"{path}:1: the header must be FileName, {', '.join(labels)}, got {lines[:1]}")
        lines = ["", *lines[1:]]
    width: int | None = None
    for number, line in enumerate(lines, start=1):
        name, *values = [part.strip() for part in line.split(comma)] or [""]
        if not name:
            continue
        width = len(values) if width is None else width
        if len(values) not in (0, 1, len(labels)) or len(values) != width:
            wanted = f"{len(labels)} labels ({', '.join(labels)}), one or none" if not names else f"{width}, as before,"
            raise ValueError(f"{path}:{number}: {wanted} must follow the file name, got {len(values)}")
        name = name.replace("\\", "/").rpartition("/")[2]
        if not name:
            raise ValueError(f"{path}:{number}: a file's name is wanted, got {line!r}")
        if name in names:
            raise ValueError(f"{path}:{number}: {name} is listed again, first in line {names[name]}")
        names[name] = number
        try:
            targets.append([float("nan") if is_blank(value) else _VALUES[value] for value in values])
        except KeyError as error:
            raise ValueError(f"{path}:{number}: labels must be 0, 1 or nan, got {error.args[0]!r}") from error
    if not names:
        raise ValueError(f"{path} lists no image")
    return ImageList(path, list(names), np.array(targets, dtype=np.float32) if width else None)
