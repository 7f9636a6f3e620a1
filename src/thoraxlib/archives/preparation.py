"""Prepare a training copy of an archive of images, in parallel and resumable."""

from __future__ import annotations

import csv
import io
import json
import os
import stat
import warnings
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from numpy.lib import format as npy

from thoraxlib.archives.sources import Stored, listed, reason
from thoraxlib.images.copies import COPY, MANIFEST, PIXELS, TrainingCopy, description, entries
from thoraxlib.images.reading import check_greys, read
from thoraxlib.images.resize import Resize, placement
from thoraxlib.images.windows import Window
from thoraxlib.input_spec import InputSpec
from thoraxlib.utils.files import check_resumable, discard_scratch, locked, replacing, write_json
from thoraxlib.utils.workers import context, cpus, follow_parent

FAILURES = "failures.csv"


def prepare(
    source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    spec: InputSpec | None = None,
    bits: int | None = None,
    window: Window | None = None,
    pattern: str | None = None,
    num_workers: int | None = None,
    progress: bool = True,
) -> TrainingCopy:
    """Read images, resize them, and write a training copy, from which they are read much faster.

    The library's data sets use a copy in the place of their folder of images (with the tables of the release beside it)
    by themselves: samples, boxes and masks are the same as if the images had been read and resized.

    After an interruption, the same call resumes. Images whose pixels were damaged since are prepared again, and so are
    images whose source has changed. Images added to the source are appended. Images removed from the source stay in the
    copy, so that archives can be downloaded, prepared and deleted one by one. Images that failed are tried again.
    Errors of the machine are not the fault of an image: if memory, disk space or descriptors run out, or a disk or
    bucket fails, the call ends with the error, and the same call resumes later.

    Files in `output` that this function did not write are not changed, and links in it are not followed.

    Parameters
    ----------
    source : path, or a sequence of them
        Folders of PNG, JPEG and DICOM files, zip archives of them, or folders of such archives; local, or in buckets
        (``gs://...``, ``s3://...``: with the extra ``cloud``).
    output : path
        A local folder, neither inside a source nor around one; if a pattern leads into it, its files are left out. It
        receives ``pixels.npy``, uint8 (N, h, w), and ``manifest.jsonl``, with a line per image: name, source with size
        and stamp, and either height and width, place (see :func:`thoraxlib.images.placement`) and row, or the error. In
        the end, ``failures.csv`` lists the errors.
    spec : InputSpec, optional
        Its `size`, `resize`, `crop_ratio` and `fill` are used. The default is 256 x 256 with black borders
        (``resize="pad"``), which keeps the aspect ratio.
    bits, window
        As for :func:`thoraxlib.images.read`.
    pattern : str, optional
        Pattern of file names, such as ``"IM*"`` for DICOM files without extension; by default .png, .jpg, .jpeg, .dcm
        and .dicom.
    num_workers : int, optional
        Number of processes; by default one per CPU; 0 works in this process. A script that uses workers must be
        importable (``if __name__ == "__main__":``).
    progress : bool
        Show a progress bar.

    Returns
    -------
    TrainingCopy
        The finished copy.

    Raises
    ------
    FileNotFoundError
        A source does not exist or has no image.
    ImportError
        A package for reading is not installed.
    ValueError
        The output holds a copy with other settings, or has foreign files or links in the place of its files; another
        process is writing there; it overlaps a source or is a URL; no image could be read; two files have the same
        name; or an argument is wrong.
    OSError, MemoryError
        The machine failed.
    RuntimeError
        A worker died.

    Warns
    -----
    UserWarning
        Images failed: their number, and the first errors.
    """
    from tqdm import tqdm

    sources = [source] if isinstance(source, (str, os.PathLike)) else list(source)
    num_workers = cpus() if num_workers is None else num_workers
    if num_workers < 0:
        raise ValueError(f"num_workers must be 0 or more, got {num_workers}")
    check_greys(bits, window)
    spec = InputSpec(size=(256, 256), resize="pad") if spec is None else spec
    if "://" in os.fspath(output):
        raise ValueError(f"output must be a local folder, got {output}")
    folder = Path(output)
    _check_apart(folder, sources)
    shape = {key: value for key, value in spec.to_json().items() if key in ("size", "resize", "crop_ratio", "fill")}
    settings = {"spec": shape, "form": "array", "bits": bits, "window": window}
    images = listed(sources, pattern, without=folder)
    spec = InputSpec().updated(shape)
    work = partial(_prepared, spec=spec, bits=bits, window=window)
    with locked(folder):
        _begin(folder, settings)
        with closing(_Store(folder, spec)) as store:
            todo = [image for image in images if not store.has(image)]
            if todo:
                _describe(folder, settings, complete=False)
            bar = partial(
                tqdm, total=len(images), initial=len(images) - len(todo), unit=" images", disable=not progress
            )
            for image, result in bar(_in_order(todo, work, num_workers)):  # the end of the loop ends the workers
                store.add(image, result)
            store.finish()
        _describe(folder, settings, complete=True)
    return TrainingCopy(folder)


class _Result(NamedTuple):
    """A prepared image: original size and pixels; or an error."""

    size: tuple[int, int] = (0, 0)
    pixels: bytes = b""
    error: str | None = None


def _prepared(stored: Stored, spec: InputSpec, bits: int | None, window: Window | None) -> _Result:
    """Read and resize one image."""
    try:
        image = read(stored.open(), bits=bits, window=window)
        small = Resize(spec)(image)
    except Exception as error:  # files, decoders and buckets raise many kinds
        return _Result(error=reason(error, stored))
    if small.is_floating_point():
        small = (small * 255).round().to(torch.uint8)
    return _Result((int(image.shape[-2]), int(image.shape[-1])), small[0].numpy().tobytes())


class _Store:
    """Writer of a copy's pixels and manifest.

    Pixels are written before their line of the manifest, so no line is without pixels, unless the machine itself goes
    down; then the checksum shows it.
    """

    def __init__(self, folder: Path, spec: InputSpec) -> None:
        self.folder, self.spec, self.shape = folder, spec, spec.size
        self._manifest = _for_update(folder / MANIFEST)
        self.entries = entries(folder / MANIFEST)
        self._manifest.truncate(self._manifest.read().rfind(b"\n") + 1)  # without a line that was cut off
        self._manifest.seek(0, os.SEEK_END)
        discard_scratch(folder)
        self._pixels = _for_update(folder / PIXELS)
        self._start = len(_header(0, self.shape))
        rows = [entry["row"] for entry in self.entries.values() if "row" in entry]
        self.rows = max(rows, default=-1) + 1
        self._good = {name for name, entry in self.entries.items() if "row" in entry and self._is_whole(entry)}

    def close(self) -> None:
        self._manifest.close()
        self._pixels.close()

    def _is_whole(self, entry: dict[str, Any]) -> bool:
        self._seek(entry["row"])
        return zlib.crc32(self._pixels.read(self.shape[0] * self.shape[1])) == int(entry["check"])

    def _seek(self, row: int) -> None:
        self._pixels.seek(self._start + row * self.shape[0] * self.shape[1])

    def has(self, image: Stored) -> bool:
        """Return True if the copy has the image, and its source has not changed."""
        entry = self.entries.get(image.name, {})
        return image.name in self._good and (entry.get("size"), entry.get("stamp")) == (image.size, image.stamp)

    def add(self, image: Stored, result: _Result) -> None:
        """Write an image, or its error."""
        entry = {"name": image.name, "source": image.origin, "size": image.size, "stamp": image.stamp}
        if result.error is None:
            row = self.entries.get(image.name, {}).get("row", self.rows)
            self._seek(row)
            self._pixels.write(result.pixels)
            self._pixels.flush()
            self.rows = max(self.rows, row + 1)
            entry |= {"height": result.size[0], "width": result.size[1], "place": placement(self.spec, *result.size)}
            entry |= {"row": row, "check": zlib.crc32(result.pixels)}
        else:
            entry["error"] = result.error
        self._manifest.write(json.dumps(entry).encode() + b"\n")
        self._manifest.flush()
        self.entries[image.name] = entry

    def finish(self) -> None:
        """Write the array's length and the list of failures, and wait for the disk."""
        failed = [(name, entry["error"]) for name, entry in sorted(self.entries.items()) if "error" in entry]
        with (
            replacing(self.folder / FAILURES) as scratch,
            # names may be invalid UTF-8
            scratch.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file,
        ):
            csv.writer(file).writerows([("name", "error"), *failed])
        first = "; ".join(f"{name}: {error}" for name, error in failed[:3])
        if len(failed) == len(self.entries):
            raise ValueError(f"none of {len(failed)} images could be prepared, see {self.folder / FAILURES}: {first}")
        self._seek(self.rows)
        self._pixels.truncate()
        self._pixels.seek(0)
        self._pixels.write(_header(self.rows, self.shape))
        self._pixels.flush()
        os.fsync(self._pixels.fileno())
        os.fsync(self._manifest.fileno())
        if failed:
            message = f"{len(failed)} of {len(self.entries)} images failed, see {self.folder / FAILURES}: {first}"
            warnings.warn(message, stacklevel=3)


def _header(rows: int, shape: tuple[int, int]) -> bytes:
    """Return the header of an .npy file; NumPy gives it the same length for every number of rows."""
    file = io.BytesIO()
    npy.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (rows, *shape)})
    return file.getvalue()


def _for_update(path: Path) -> BinaryIO:
    """Open a file of the copy for reading and writing; create it if absent."""
    if os.path.lexists(path) and not stat.S_ISREG(path.lstat().st_mode):
        raise ValueError(f"{path} is a link, or no regular file, and is not part of a copy: remove it")
    flags = os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    return open(path, "r+b", opener=lambda name, mode: os.open(name, mode | flags, 0o666))


def _begin(folder: Path, settings: dict[str, Any]) -> None:
    """Begin a copy; raise ValueError if one with other settings, or foreign files of a copy's names, are there."""
    if (folder / COPY).is_file():
        begun = description(folder).get("settings")
        if not isinstance(begun, dict):
            raise ValueError(f"{folder / COPY} describes no training copy: take another output")
        check_resumable(folder, begun, settings, "a copy", remedy="take another output")
        return
    for name in (COPY, MANIFEST, PIXELS, FAILURES):
        if os.path.lexists(folder / name):
            raise ValueError(f"{folder} holds {name}, but no {COPY} of a training copy: take another output")
    _describe(folder, settings, complete=False)


def _describe(folder: Path, settings: dict[str, Any], complete: bool) -> None:
    write_json(folder / COPY, {"version": 1, "complete": complete, "settings": settings}, indent=1)


def _check_apart(folder: Path, sources: Iterable[str | os.PathLike[str]]) -> None:
    """Raise ValueError if the output is inside a source or around one: its files would be listed as images."""
    target = folder.resolve()
    for source in sources:
        place = Path(os.fspath(source).removeprefix("file://")).resolve()
        if place.is_dir() and (place == target or place in target.parents or target in place.parents):
            raise ValueError(f"output {folder} and source {source} overlap; take a folder beside it")


def _in_order(
    images: list[Stored], work: Callable[[Stored], _Result], workers: int
) -> Iterator[tuple[Stored, _Result]]:
    """Yield each image with its result, in the order of the list; processes work some images ahead."""
    if not workers or not images:
        yield from ((image, work(image)) for image in images)
        return
    with ProcessPoolExecutor(min(workers, len(images)), context(__name__), _settle) as pool:
        waiting: deque[tuple[Stored, Future[_Result]]] = deque()
        try:
            for image in images:
                waiting.append((image, pool.submit(work, image)))
                if len(waiting) > 4 * workers:
                    yield waiting[0][0], waiting[0][1].result()
                    waiting.popleft()
            while waiting:
                yield waiting[0][0], waiting[0][1].result()
                waiting.popleft()
        except BrokenProcessPool as error:
            names = ", ".join(image.name for image, _ in waiting)
            cause = f"out of memory, or by a damaged file, one of these: {names}; num_workers=0 shows which"
            raise RuntimeError(f"a worker died, {cause}") from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _settle() -> None:
    """Let a worker use one thread, and end with its parent."""
    torch.set_num_threads(1)
    follow_parent()
