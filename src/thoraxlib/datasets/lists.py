"""Split lists: text files with one image a line, with or without its labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["ImageList", "find_list", "read_list"]

_VALUES = {"0": 0.0, "1": 1.0, "nan": float("nan")}


class ImageList(NamedTuple):
    """The images of a list and, where the list has them, float32 labels (N, K)."""

    path: Path
    names: list[str]
    targets: NDArray[np.float32] | None


def find_list(split: str, folders: Sequence[Path]) -> Path | None:
    """The file of `split`: ``<split>``, ``<split>.txt``, ``<split>_list.txt`` or ``<split>_1.txt`` in `folders`."""
    names = [split] if split.endswith(".txt") else [f"{split}{end}" for end in (".txt", "_list.txt", "_1.txt")]
    return next((folder / name for folder in folders for name in names if (folder / name).is_file()), None)


def read_list(path: Path, labels: Sequence[str]) -> ImageList:
    """Read a split list.

    Parameters
    ----------
    path : Path
        Each line: a file name (a folder before it is dropped), then either nothing or a 0, 1 or ``nan`` for each label.
    labels : sequence of str
        What the numbers of a line stand for.

    Raises
    ------
    ValueError
        Naming file and line: another number of labels, another value, an image twice; or the list is empty.
    """
    names: dict[str, int] = {}
    targets: list[list[float]] = []
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text file: {error}") from error
    width: int | None = None
    for number, line in enumerate(lines, start=1):
        name, *values = line.split() or [""]
        if not name:
            continue
        width = len(values) if width is None else width
        if len(values) not in (0, len(labels)) or len(values) != width:
            wanted = f"{len(labels)} labels ({', '.join(labels)}) or none" if not names else f"{width}, as before,"
            raise ValueError(f"{path}:{number}: {wanted} must follow the file name, got {len(values)}")
        name = name.replace("\\", "/").rpartition("/")[2]
        if name in names:
            raise ValueError(f"{path}:{number}: {name} is listed again, first in line {names[name]}")
        names[name] = number
        try:
            targets.append([_VALUES[value.lower()] for value in values])
        except KeyError as error:
            raise ValueError(f"{path}:{number}: labels must be 0, 1 or nan, got {error.args[0]!r}") from error
    if not names:
        raise ValueError(f"{path} lists no image")
    return ImageList(path, list(names), np.array(targets, dtype=np.float32) if width else None)
