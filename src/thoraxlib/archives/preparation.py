"""Big archives of images -> a training copy, in parallel, and again after an interruption."""

from __future__ import annotations

import csv
import io
import json
import os
import stat
import sys
import warnings
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from numpy.lib import format as npy

from thoraxlib.archives.sources import Stored, listed, told
from thoraxlib.images.copies import COPY, MANIFEST, PIXELS, TrainingCopy, description, entries
from thoraxlib.images.reading import check_greys, read
from thoraxlib.images.resize import Resize, placement
from thoraxlib.images.windows import Window
from thoraxlib.input_spec import InputSpec
from thoraxlib.utils.files import check_resumable, discard_scratch, is_environment_error, locked, replacing, write_json
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
    """Read images of any kind, resize them, and write a training copy, from which they are read much faster.

    Where the copy takes the place of the folder of images (with the tables of the release beside), the library's data
    sets read it of their own accord: samples, boxes and masks are as if the images had been read and resized.

    After an interruption, the same call goes on where it was; images of which a pixel is not as it was written are
    prepared again, and so are those whose source has changed. Images that were added to the source are appended; images
    that are gone from it stay in the copy, so that archives can be brought, prepared and deleted in turn. Images that
    failed are tried again. Errors of the machine are no image's: where memory, disk or descriptors run out, or a disk
    or bucket fails, the call ends with the error, and the same call goes on when that is mended.

    Nothing in `output` is changed that was not written there by this function, and no link in it is followed.

    Parameters
    ----------
    source : path, or a sequence of them
        Folders of PNG, JPEG and DICOM files, or zip archives of them, or folders of such archives; local, or in
        buckets (``gs://...``, ``s3://...``: with the extra ``cloud``).
    output : path
        A local folder, neither in a source nor around one; where a pattern leads into it, nothing in it is taken. It
        gets ``pixels.npy``, uint8 (N, h, w), to be mapped into memory, and ``manifest.jsonl``, a line for each image:
        name, source with size and stamp, height and width, place (see :func:`thoraxlib.images.placement`), row; or the
        error. ``failures.csv`` lists these at the end.
    spec : InputSpec, optional
        Its `size`, `resize`, `crop_ratio` and `fill` are used; by default 256 x 256 with black borders
        (``resize="pad"``), which keeps the aspect ratio.
    bits, window
        As for :func:`thoraxlib.images.read`.
    pattern : str, optional
        Of file names, such as ``"IM*"`` for DICOM files without ending; by default .png, .jpg, .jpeg, .dcm, .dicom.
    num_workers : int, optional
        Processes; by default one for each CPU; 0 works in this one. A script that uses several must be importable
        (``if __name__ == "__main__":``), as they are started afresh.
    progress : bool
        Show a bar.

    Returns
    -------
    TrainingCopy
        The copy, finished.

    Raises
    ------
    FileNotFoundError
        A source is absent or holds no image.
    ImportError
        Something is not installed that reading needs.
    ValueError
        The output holds a copy with other settings, or files or links that are not a copy's where its own would
        be; another process is writing there, it overlaps a source, or no image at all could be read; two files of one
        name; a wrong argument, or a output that is a URL.
    OSError, MemoryError
        An error of the machine.
    RuntimeError
        A worker died.

    Warns
    -----
    UserWarning
        Images failed: how many, and the first ones.
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
    _check_own(folder)
    spec = InputSpec().updated(shape)
    work = partial(_prepared, spec=spec, bits=bits, window=window)
    with locked(folder):
        _check_settings(folder, settings)
        with _Store(folder, spec.size) as store:
            todo = [image for image in images if not store.has(image)]
            if todo:
                _describe(folder, settings, complete=False)
            bar = partial(
                tqdm,
                total=len(images),
                initial=len(images) - len(todo),
                unit=" images",
                disable=not progress,
            )
            for image, result in bar(
                _in_order(todo, work, num_workers)
            ):  # which ends with the loop, and its workers with it
                store.add(image, result)
            store.finish()
        _describe(folder, settings, complete=True)
    return TrainingCopy(folder)


class _Result(NamedTuple):
    """What became of an image: where it lies, the checksum of its pixels, and the pixels; or an error."""

    size: tuple[int, int] = (0, 0)
    place: tuple[int, ...] = ()
    check: int = 0
    pixels: bytes = b""
    error: str | None = None


def _prepared(picture: Stored, spec: InputSpec, bits: int | None, window: Window | None) -> _Result:
    """Read and resize one image."""
    try:
        image = read(picture.open(), bits=bits, window=window)
        small = Resize(spec)(image)
    except ImportError:  # it would be the same for every picture
        raise
    except Exception as error:  # whatever a file or its decoder comes up with
        if is_environment_error(error):
            if sys.version_info >= (3, 11):
                error.add_note(f"at {picture.origin}; the same call goes on there")
            raise
        return _Result(error=told(error))
    if small.is_floating_point():
        small = (small * 255).round().to(torch.uint8)
    size, pixels = (int(image.shape[-2]), int(image.shape[-1])), small[0].numpy().tobytes()
    return _Result(size, placement(spec, *size), zlib.crc32(pixels), pixels)


class _Store:
    """The images of a copy and their manifest, being written: pixels first, then the line that says so.

    So a line is never without its pixels, unless the machine itself goes down; then their checksum tells.
    """

    def __init__(self, folder: Path, shape: tuple[int, int]) -> None:
        self.folder, self.shape = folder, shape
        self._manifest = _for_update(folder / MANIFEST)
        self.entries = entries(folder / MANIFEST)
        _cut_torn_line(self._manifest)
        discard_scratch(folder)
        self._pixels = _for_update(folder / PIXELS)
        self._start = len(_header(0, shape))
        rows = [entry["row"] for entry in self.entries.values() if "row" in entry]
        self.rows = max(rows, default=-1) + 1
        self._good = {name for name, entry in self.entries.items() if "row" in entry and self._is_whole(entry)}

    def __enter__(self) -> _Store:
        return self

    def __exit__(self, *_: object) -> None:
        self._manifest.close()
        self._pixels.close()

    def _is_whole(self, entry: dict[str, Any]) -> bool:
        self._seek(entry["row"])
        return zlib.crc32(self._pixels.read(self.shape[0] * self.shape[1])) == int(entry["check"])

    def _seek(self, row: int) -> None:
        self._pixels.seek(self._start + row * self.shape[0] * self.shape[1])

    def has(self, image: Stored) -> bool:
        """Whether the image is there, as it is in its source now."""
        entry = self.entries.get(image.name, {})
        return image.name in self._good and (entry.get("size"), entry.get("stamp")) == (image.size, image.stamp)

    def add(self, image: Stored, result: _Result) -> None:
        """Keep an image, or the error that it gave."""
        entry = {"name": image.name, "source": image.origin, "size": image.size, "stamp": image.stamp}
        if result.error is None:
            known = self.entries.get(image.name, {}).get("row")
            row = self.rows if known is None else known
            self._seek(row)
            self._pixels.write(result.pixels)
            self._pixels.flush()
            self.rows = max(self.rows, row + 1)
            entry |= {"height": result.size[0], "width": result.size[1], "place": result.place}
            entry |= {"row": row, "check": result.check}
        else:
            entry["error"] = result.error
        self._manifest.write(json.dumps(entry).encode() + b"\n")
        self._manifest.flush()
        self.entries[image.name] = entry

    def finish(self) -> None:
        """Write what is known at the end alone, the array's length and the list of failures, and wait for the disk."""
        failed = [(name, entry["error"]) for name, entry in sorted(self.entries.items()) if "error" in entry]
        with (
            replacing(self.folder / FAILURES) as scratch,
            # names need not be UTF-8
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
            warnings.warn(
                f"{len(failed)} of {len(self.entries)} images failed, see {self.folder / FAILURES}: {first}",
                UserWarning,
                stacklevel=3,
            )


def _header(rows: int, shape: tuple[int, int]) -> bytes:
    """The beginning of an .npy file, which is equally long for every number of rows: NumPy leaves room for growth."""
    file = io.BytesIO()
    npy.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (rows, *shape)})
    return file.getvalue()


def _for_update(path: Path) -> BinaryIO:
    """Open a file of the copy, made if need be."""
    if os.path.lexists(path) and not stat.S_ISREG(path.lstat().st_mode):
        raise ValueError(f"{path} is a link, or no regular file; a copy has none, and it is not followed: remove it")
    flags = os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    return open(path, "r+b", opener=lambda name, mode: os.open(name, mode | flags, 0o666))


def _cut_torn_line(manifest: BinaryIO) -> None:
    """Without its last line, if that was not written to its end."""
    content = manifest.read()
    manifest.truncate(content.rfind(b"\n") + 1)
    manifest.seek(0, os.SEEK_END)


def _check_own(folder: Path) -> None:
    """Refuse a folder with files that are named as a copy's, but that no preparation wrote: there is no description."""
    if (folder / COPY).is_file():
        return
    for name in (COPY, MANIFEST, PIXELS, FAILURES):
        if os.path.lexists(folder / name):
            raise ValueError(
                f"{folder} holds {name}, but no {COPY} that says that it is a training copy: take another output"
            )


def _check_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Refuse to go on with a copy that was begun with other settings."""
    if not (folder / COPY).is_file():
        _describe(folder, settings, complete=False)
        return
    begun = description(folder).get("settings")
    if not isinstance(begun, dict):
        raise ValueError(f"{folder / COPY} describes no training copy: take another output")
    check_resumable(folder, begun, settings, "a copy", remedy="take another output")


def _describe(folder: Path, settings: dict[str, Any], complete: bool) -> None:
    write_json(folder / COPY, {"version": 1, "complete": complete, "settings": settings}, indent=1)


def _check_apart(folder: Path, sources: Iterable[str | os.PathLike[str]]) -> None:
    """Refuse to write into a source, or around one: what is written must never be taken for an image."""
    target = folder.resolve()
    for source in sources:
        place = Path(os.fspath(source).removeprefix("file://")).resolve()
        if place.is_dir() and (place == target or place in target.parents or target in place.parents):
            raise ValueError(f"output {folder} and source {source} overlap; take a folder beside it")


def _in_order(
    images: list[Stored], work: Callable[[Stored], _Result], num_workers: int
) -> Iterator[tuple[Stored, _Result]]:
    """Each image with its result, in the order of the list, a few of them ahead in other processes."""
    if not num_workers or not images:
        yield from ((image, work(image)) for image in images)
        return
    with ProcessPoolExecutor(min(num_workers, len(images)), context(__name__), _settle) as pool:
        waiting: deque[tuple[Stored, Future[_Result]]] = deque()
        try:
            for image in images:
                waiting.append((image, pool.submit(work, image)))
                if len(waiting) > 4 * num_workers:
                    yield waiting[0][0], waiting[0][1].result()
                    waiting.popleft()
            while waiting:
                yield waiting[0][0], waiting[0][1].result()
                waiting.popleft()
        except BrokenProcessPool as error:
            names = ", ".join(image.name for image, _ in waiting)
            raise RuntimeError(
                f"a worker died, of memory or of a damaged file; one of these did it: {names}; "
                "num_workers=0 shows which"
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _settle() -> None:
    """One thread for each worker, and no worker without its parent."""
    torch.set_num_threads(1)
    follow_parent()
