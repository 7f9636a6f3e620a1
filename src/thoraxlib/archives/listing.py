"""List the images to be scored in a file of one line per image, and read them from there in batches."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import tv_tensors

from thoraxlib.archives.sources import Stored, reason, stream
from thoraxlib.images import transform_for
from thoraxlib.images.copies import COPY, MANIFEST, PIXELS, TrainingCopy, entries
from thoraxlib.images.reading import read
from thoraxlib.images.windows import Window
from thoraxlib.input_spec import InputSpec
from thoraxlib.utils.files import address
from thoraxlib.utils.workers import context, in_batches, read_batches

_MEMBER = re.compile(r"(.+?\.zip)/(.+)", flags=re.IGNORECASE)
_array = lru_cache(maxsize=1)(partial(np.load, mmap_mode="r"))


class Listed(NamedTuple):
    """An image to be scored.

    Attributes
    ----------
    stored : Stored
        The file.
    pixels : str, optional
        Array of a training copy that has its pixels.
    row : int, optional
        Row of that array.
    size : (int, int), optional
        (H, W) of the original image, if the pixels are in a copy.
    error : str, optional
        Why the copy does not have it.
    """

    stored: Stored
    pixels: str | None = None
    row: int | None = None
    size: tuple[int, int] | None = None
    error: str | None = None

    def to_line(self) -> str:
        """Return a line of JSON."""
        return json.dumps([list(self.stored), *self[1:]], ensure_ascii=False) + "\n"

    @classmethod
    def of_line(cls, line: str) -> Listed:
        """Parse a line of :meth:`to_line`."""
        stored, pixels, row, size, error = json.loads(line)
        return cls(Stored(*stored), pixels, row, tuple(size) if size else None, error)

    def image(self, bits: int | None = None, window: Window | None = None) -> tv_tensors.Image:
        """Read the pixels, (1, H, W) as :func:`thoraxlib.images.read` does.

        Raises
        ------
        ValueError
            The training copy does not have the image. All errors of reading are raised, too.
        """
        if self.error is not None:
            raise ValueError(self.error)
        if self.pixels is None or self.row is None:
            return read(self.stored.open(), bits=bits, window=window)
        return tv_tensors.Image(torch.from_numpy(_array(self.pixels)[self.row].copy())[None])


def copy_spec(sources: Sequence[str]) -> InputSpec | None:
    """Return the input specification of the images if the source is a training copy, else None.

    Raises
    ------
    ValueError
        There is a copy and another source, or the copy is not finished.
    """
    copies = [source for source in sources if _is_copy(source)]
    if not copies:
        return None
    if len(sources) > 1:
        raise ValueError(f"{copies[0]} is a training copy, which is scored alone, not with {len(sources) - 1} others")
    return TrainingCopy(copies[0]).spec


def images_of(sources: Sequence[str], pattern: str | None = None) -> Iterator[Listed]:
    """List all images of folders, archives, patterns, tables (.csv) and training copies, always in the same order.

    Raises
    ------
    FileNotFoundError, ImportError, ValueError
        As :func:`thoraxlib.archives.sources.listed`; or a table has no column ``path``, or no rows.
    """
    for source in sources:
        if _is_copy(source):
            yield from _of_copy(Path(source))
        elif source.lower().endswith(".csv"):
            yield from _of_table(source)
        else:
            yield from map(Listed, stream([source], pattern))


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
    """List the images of a table; :func:`thoraxlib.utils.files.address` checks each path."""
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
                url = address(path, source)
                member = _MEMBER.fullmatch(url)
                url, inner = member.groups() if member else (url, None)
                yield Listed(Stored(row.get("id") or path, url, inner, 0, ""))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{source} is no table in UTF-8 after row {number}: {error}") from error
    if not number:
        raise ValueError(f"{source} has no rows")


def write_listing(images: Iterator[Listed], path: Path) -> tuple[int, str]:
    """Write images to a file one by one; return their number, and a digest of all that is known of them."""
    count, digest = 0, hashlib.sha256()
    with path.open("wb") as file:
        for image in images:
            line = image.to_line().encode(errors="surrogatepass")  # a name may be invalid UTF-8
            file.write(line)
            digest.update(line)
            count += 1
    return count, digest.hexdigest()[:16]


class Batch(NamedTuple):
    """Images of one part of the listing.

    Attributes
    ----------
    part : int
        Number of the part.
    images : list of Listed
        N images.
    errors : list of str or None
        N: why an image could not be read.
    x : Tensor
        (M, C, h, w): the M images that could be read.
    sizes : list of (int, int)
        M: (H, W) of the pixels that were read.
    """

    part: int
    images: list[Listed]
    errors: list[str | None]
    x: Tensor
    sizes: list[tuple[int, int]]


_Row = tuple[int, Listed, Tensor | None, tuple[int, int], str | None]


def batches(
    listing: Path,
    part_size: int,
    wanted: Collection[int],
    spec: InputSpec,
    *,
    batch_size: int,
    num_workers: int,
    bits: int | None = None,
    window: Window | None = None,
) -> DataLoader[Any]:
    """Read the images of the wanted parts in order, some batches ahead in worker processes; a batch is of one part."""
    return read_batches(
        partial(_read, transform=transform_for(spec), bits=bits, window=window),
        _keys(listing, part_size, wanted, batch_size),
        _batch,
        num_workers=num_workers,
        pin_memory=torch.cuda.is_available(),
        multiprocessing_context=context(__name__) if num_workers else None,
    )


def _keys(path: Path, part_size: int, wanted: Collection[int], batch_size: int) -> Iterator[list[tuple[int, Listed]]]:
    """Read the wanted parts of a listing: lists of up to `batch_size` images of a part, each with its part's number."""
    with path.open(encoding="utf-8", errors="surrogatepass", newline="\n") as file:
        for number in range(max(wanted, default=-1) + 1):
            lines = islice(file, part_size)
            if number in wanted:
                for batch in in_batches(lines, batch_size):
                    yield [(number, Listed.of_line(line)) for line in batch]
            else:
                next(islice(lines, part_size, None), None)


def _read(
    key: tuple[int, Listed], *, transform: Callable[[Tensor], Tensor], bits: int | None, window: Window | None
) -> _Row:
    part, listed = key
    try:
        image = listed.image(bits, window)
        return part, listed, transform(image).as_subclass(Tensor), (image.shape[-2], image.shape[-1]), None
    except Exception as error:  # files, decoders and buckets raise many kinds
        return part, listed, None, (0, 0), reason(error, listed.stored)


def _batch(rows: Sequence[_Row]) -> Batch:
    numbers, images, tensors, sizes, errors = map(list, zip(*rows, strict=True))
    whole = [x for x in tensors if x is not None]
    kept = [size for size, error in zip(sizes, errors, strict=True) if error is None]
    return Batch(numbers[0], images, errors, torch.stack(whole) if whole else torch.zeros(0), kept)
