"""Which images are scored: found once, kept as a file of one line each, and read from there a part at a time."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Collection, Iterator, Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision import tv_tensors

from thoraxlib.archives.sources import Stored, streamed
from thoraxlib.images.copies import COPY, MANIFEST, PIXELS, TrainingCopy, entries
from thoraxlib.images.reading import read
from thoraxlib.images.windows import Window
from thoraxlib.input_spec import InputSpec
from thoraxlib.utils.files import address

_MEMBER = re.compile(r"(.+?\.zip)/(.+)", flags=re.IGNORECASE)


class Listed(NamedTuple):
    """An image to be scored.

    Attributes
    ----------
    stored : Stored
        The file itself.
    pixels : str, optional
        The array of a training copy that has its pixels.
    row : int, optional
        In that array.
    size : (int, int), optional
        (H, W) of the image itself, where the pixels are a copy's.
    error : str, optional
        Why the copy lacks it.
    """

    stored: Stored
    pixels: str | None = None
    row: int | None = None
    size: tuple[int, int] | None = None
    error: str | None = None

    def to_line(self) -> str:
        """As a line of JSON."""
        return json.dumps([list(self.stored), *self[1:]], ensure_ascii=False) + "\n"

    @classmethod
    def of_line(cls, line: str) -> Listed:
        """What :meth:`to_line` wrote."""
        stored, pixels, row, size, error = json.loads(line)
        return cls(Stored(*stored), pixels, row, tuple(size) if size else None, error)

    def image(self, bits: int | None = None, window: Window | None = None) -> tv_tensors.Image:
        """Its pixels, (1, H, W) as :func:`thoraxlib.images.read` gives them.

        Raises
        ------
        ValueError
            The copy lacks it; and whatever reading comes up with.
        """
        if self.error is not None:
            raise ValueError(self.error)
        if self.pixels is None or self.row is None:
            return read(self.stored.open(), bits=bits, window=window)
        return tv_tensors.Image(torch.from_numpy(_array(self.pixels)[self.row].copy())[None])


@lru_cache(maxsize=1)
def _array(path: str) -> NDArray[np.uint8]:
    pixels: NDArray[np.uint8] = np.load(path, mmap_mode="r")
    return pixels


def copy_spec(sources: Sequence[str]) -> InputSpec | None:
    """How the images were resized, if the source is a training copy.

    Raises
    ------
    ValueError
        A copy beside other sources, or one that is not finished.
    """
    copies = [source for source in sources if _is_copy(source)]
    if not copies:
        return None
    if len(sources) > 1:
        raise ValueError(f"{copies[0]} is a training copy, which is scored alone, not with {len(sources) - 1} others")
    return TrainingCopy(copies[0]).spec


def images_of(sources: Sequence[str], pattern: str | None = None) -> Iterator[Listed]:
    """All images of folders, archives, patterns, tables (.csv) and training copies, in the same order in each call.

    Raises
    ------
    FileNotFoundError, ImportError, ValueError
        As :func:`thoraxlib.archives.sources.listed`; a table without a column ``path``, or without rows.
    """
    for source in sources:
        if _is_copy(source):
            yield from _of_copy(Path(source))
        elif source.lower().endswith(".csv"):
            yield from _of_table(source)
        else:
            yield from map(Listed, streamed([source], pattern))


def _is_copy(source: str) -> bool:
    return "://" not in source and (Path(source) / COPY).is_file()


def _of_copy(folder: Path) -> Iterator[Listed]:
    pixels = str((folder / PIXELS).resolve())
    for entry in entries(folder / MANIFEST).values():
        stored = Stored(entry["name"], entry["source"], None, entry["size"], entry["stamp"])
        if "error" in entry:
            yield Listed(stored, error=entry["error"])
        else:
            yield Listed(stored, pixels, entry["row"], (entry["height"], entry["width"]))


def _of_table(source: str) -> Iterator[Listed]:
    """The images of a table, each where :func:`thoraxlib.utils.files.address` lets a table name it."""
    import fsspec

    number = 0
    try:
        with fsspec.open(source, "r", encoding="utf-8-sig", newline="") as file:
            rows: Any = csv.DictReader(file)
            if "path" not in (rows.fieldnames or ()):
                raise ValueError(f"{source} has no column 'path'; its columns are {list(rows.fieldnames or ())}")
            for number, row in enumerate(rows, start=1):
                path = (row["path"] or "").strip()
                if not path:
                    raise ValueError(f"{source}: row {number} has no path")
                place = address(path, source)
                member = _MEMBER.fullmatch(place)
                url, inner = (member[1], member[2]) if member else (place, None)
                yield Listed(Stored(row.get("id") or path, url, inner, 0, ""))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{source} is no table in UTF-8 after row {number}: {error}") from error
    if not number:
        raise ValueError(f"{source} has no rows")


def write_listing(images: Iterator[Listed], path: Path) -> tuple[int, str]:
    """Write them to a file, as they come; how many there are, and a digest of all that is known of them."""
    count, digest = 0, hashlib.sha256()
    with path.open("wb") as file:
        for image in images:
            line = image.to_line().encode(errors="surrogatepass")  # a name may be no text
            file.write(line)
            digest.update(line)
            count += 1
    return count, digest.hexdigest()[:16]


def parts(path: Path, size: int, wanted: Collection[int]) -> Iterator[tuple[int, list[Listed]]]:
    """Number and images of the wanted parts of a listing, of `size` images each but the last."""
    with path.open(encoding="utf-8", errors="surrogatepass", newline="\n") as file:
        for number in range(max(wanted, default=-1) + 1):
            if number in wanted:
                yield number, [Listed.of_line(line) for line in islice(file, size)]
            else:
                next(islice(file, size - 1, None), None)
