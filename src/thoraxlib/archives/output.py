"""Folder of scores or features: files of each part of the images, and a manifest of the finished parts."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from thoraxlib.localization.coco import join_coco
from thoraxlib.utils.arguments import one_of
from thoraxlib.utils.files import check_resumable, discard_scratch, locked, read_json, replacing, write_json

MANIFEST, LISTING = "manifest.json", "listing.jsonl"
SCORES, BOXES, VECTORS, MAPS, ROWS = "scores", "boxes", "vectors", "maps", "rows"
FORMATS = ("parquet", "csv")
_KEYS = ("id", "path", "height", "width", "error")
_WHY = {
    "fingerprint": "another model, or this one with other weights or options",
    "listing": "other images, or some of them have changed since",
    "pixels": "images with other pixels",
}
_OVERWRITE = "choose another folder, or overwrite=True, which removes what was written"
_REMEDY = "choose another folder, or remove it yourself"


class Row(NamedTuple):
    """Row of a table: name, address and size of an image, and its probabilities or an error."""

    id: str
    path: str
    height: int | None = None
    width: int | None = None
    error: str | None = None
    probabilities: Sequence[float] = ()


def check_format(name: str, labels: Sequence[str]) -> None:
    """Check that tables with a column for each label can be written in a format.

    Raises
    ------
    ImportError
        Parquet needs pyarrow.
    ValueError
        Unknown format, or a label has the name of another column.
    """
    one_of("format", name, FORMATS)
    twice = sorted({*labels} & {*_KEYS})
    if twice:
        raise ValueError(f"the labels {twice} have the names of other columns, {_KEYS}")
    if name == "parquet" and find_spec("pyarrow") is None:
        raise ImportError('format="parquet" needs pyarrow: pip install "thoraxlib[archive]"; "csv" does not')


def files_of_scores(run: Mapping[str, Any]) -> dict[str, str]:
    """Return the kinds of files of a run of scoring, each with its extension."""
    one_of("format", run["format"], FORMATS)
    return {SCORES: run["format"], **({BOXES: "json"} if run["boxes"] else {})}


def write_table(path: Path, labels: Sequence[str], rows: Sequence[Row]) -> None:
    """Write a table in the format of the file's extension."""
    values = [[None if p != p else p for p in row.probabilities] or [None] * len(labels) for row in rows]
    if path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow([*_KEYS, *labels])
            for row, known in zip(rows, values, strict=True):
                # nine digits are the precision of float32
                table.writerow([*row[:-1], *("" if p is None else f"{p:.9g}" for p in known)])
        return
    import pyarrow
    from pyarrow import parquet

    kinds = [pyarrow.string(), pyarrow.string(), pyarrow.int32(), pyarrow.int32(), pyarrow.string()]
    kinds += [pyarrow.float32()] * len(labels)
    columns = zip(*([*row[:-1], *known] for row, known in zip(rows, values, strict=True)), strict=True)
    arrays = [pyarrow.array(column, kind) for column, kind in zip(columns, kinds, strict=True)]
    parquet.write_table(pyarrow.table(arrays, names=[*_KEYS, *labels]), path)


class Output:
    """Files of one run of scoring or embedding.

    The manifest lists each file with a digest before the file appears. A file that is not listed is therefore foreign,
    and a listed file with another content is written again. Links count as absent, and are replaced.

    Parameters
    ----------
    folder : Path
        The output folder.
    files_of : callable
        From a run's settings to the kinds of its files, each with its extension; it raises KeyError, TypeError or
        ValueError for settings of another kind of run.
    job : str
        Contents of the folder, for messages.
    """

    def __init__(self, folder: Path, files_of: Callable[[Mapping[str, Any]], dict[str, str]], job: str) -> None:
        self.folder, self.files_of, self.job = folder, files_of, job
        self.kinds: dict[str, str] = {}
        self.parts = 0
        self._joined = folder / f"{BOXES}.json"

    @property
    def boxes(self) -> bool:
        """True if boxes are written, too."""
        return BOXES in self.kinds

    def _file(self, kind: str, number: int) -> Path:
        return self.folder / kind / f"{number:06d}.{self.kinds[kind]}"

    def begin(
        self,
        run: Mapping[str, Any],
        about: Mapping[str, Any],
        listing: Callable[[Path], tuple[int, str]],
        overwrite: bool,
    ) -> int:
        """Write the listing, and start or resume a run; return the number of images.

        Parameters
        ----------
        run : mapping
            Settings, which must be equal when a run is resumed.
        about : mapping
            Other content of the manifest.
        listing : callable
            Writes the listing to a file; returns the number of images and a digest.
        overwrite : bool
            Remove the files of an earlier run.

        Raises
        ------
        ValueError
            The folder holds another run, or foreign files.
        """
        self.kinds = self.files_of(run)
        for kind in {*self.kinds, BOXES}:
            if (self.folder / kind).is_symlink():
                raise ValueError(f"{self.folder / kind} is a link, which nothing is written through: {_REMEDY}")
        with replacing(self.folder / LISTING) as scratch:
            images, digest = listing(scratch)
            run = {**run, "listing": digest, "images": images}
            self.parts = -(-images // run["part_size"])
            with locked(self.folder, wait=True):
                manifest = self._manifest()
                if manifest is None:
                    self._check_empty()
                elif overwrite:
                    self._remove(manifest)
                    manifest = None
                else:
                    check_resumable(self.folder, manifest["run"], run, self.job, _WHY, remedy=_OVERWRITE)
                self._check_foreign({} if manifest is None else manifest)
                if manifest is None:
                    self._write_manifest({"complete": False, "run": run, **about, "parts": {}})
        return images

    def missing(self, numbers: Iterable[int]) -> list[int]:
        """Select the parts that are absent or have another content than was written."""
        manifest = self._known()
        missing = [number for number in numbers if not self._is_whole(manifest, number)]
        if missing and manifest["complete"]:
            self._record({})
        return missing

    def write(self, number: int, writers: Mapping[str, Callable[[Path], None]], failed: int) -> None:
        """Write a part: each kind of file by its writer; `failed` images of it have an error."""
        for kind in self.kinds:
            discard_scratch(self.folder / kind, f"{number:06d}")
        with ExitStack() as stack:
            scratch = {kind: stack.enter_context(replacing(self._file(kind, number))) for kind in self.kinds}
            for kind, path in scratch.items():
                writers[kind](path)
            self._record({str(number): {"failed": failed} | {kind: _digest(path) for kind, path in scratch.items()}})

    def finish(self) -> int | None:
        """Once all parts are there, join the boxes and return the number of failed images; else return None."""
        with locked(self.folder, wait=True):
            manifest = self._known()
            first = next(iter(self.kinds))
            if not all(_is_own(self._file(first, number)) for number in range(self.parts)):
                return None
            damaged = any(not self._is_whole(manifest, number) for number in range(self.parts))
            joined = not self.boxes or _is_as_written(self._joined, manifest.get("joined"))
            if manifest["complete"] and (damaged or not joined):
                manifest["complete"] = False
                self._write_manifest(manifest)
            if damaged:
                return None
            if not manifest["complete"]:
                for stem in (BOXES, Path(MANIFEST).stem):  # of processes that were killed here
                    discard_scratch(self.folder, stem)
                if self.boxes:
                    self._write_manifest(manifest | {"joined": None})  # from now on that file is not foreign
                    join_coco([self._file(BOXES, number) for number in range(self.parts)], self._joined)
                    manifest["joined"] = _digest(self._joined)
                failed = sum(manifest["parts"][str(number)]["failed"] for number in range(self.parts))
                manifest |= {"complete": True, "failed": failed}
                self._write_manifest(manifest)
            return int(manifest["failed"])

    def _manifest(self) -> dict[str, Any] | None:
        path = self.folder / MANIFEST
        if not _exists(path):
            return None
        try:
            content = read_json(path)
            run, parts = content["run"], content["parts"]
            numbers = [run["images"] + 0, run["part_size"] + 0, *map(int, parts)]
            numbers += [parts[key]["failed"] + 0 for key in parts]
            if min(numbers) < 0 or run["part_size"] < 1:
                raise ValueError("a number that no run has")
            _ = self.files_of(run), content["complete"]
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
            raise ValueError(f"{path} is damaged, or no manifest of {self.job} ({error}): {_REMEDY}") from error
        return dict(content)

    def _known(self) -> dict[str, Any]:
        manifest = self._manifest()
        if manifest is None:
            raise ValueError(f"{self.folder / MANIFEST} was removed while its {self.job} were written")
        return manifest

    def _write_manifest(self, content: Mapping[str, Any]) -> None:
        write_json(self.folder / MANIFEST, content, indent=1)

    def _record(self, parts: Mapping[str, Mapping[str, str | int]]) -> None:
        """Add parts to the manifest."""
        with locked(self.folder, wait=True):
            manifest = self._known()
            self._write_manifest({**manifest, "complete": False, "parts": {**manifest["parts"], **parts}})

    def _is_whole(self, manifest: Mapping[str, Any], number: int) -> bool:
        digests = manifest["parts"].get(str(number), {})
        return all(_is_as_written(self._file(kind, number), digests.get(kind)) for kind in self.kinds)

    def _check_empty(self) -> None:
        for name in (*self.kinds, *([self._joined.name] if self.boxes else []), LISTING):
            path = self.folder / name
            if any(path.iterdir()) if path.is_dir() else _exists(path):
                raise ValueError(f"{self.folder} holds {name}, but no {MANIFEST} that describes it: {_REMEDY}")

    def _check_foreign(self, manifest: Mapping[str, Any]) -> None:
        """Raise ValueError if a file that the manifest does not list would be replaced."""
        listed = manifest.get("parts", {})
        unlisted = (number for number in range(self.parts) if str(number) not in listed)
        paths = [self._file(kind, number) for number in unlisted for kind in self.kinds]
        if self.boxes and "joined" not in manifest:
            paths.append(self._joined)
        for path in filter(_exists, paths):
            raise ValueError(f"{path} is no file of this run, and would be replaced: {_REMEDY}")

    def _remove(self, manifest: Mapping[str, Any]) -> None:
        """Remove the files that a manifest lists, but not the manifest."""
        for number in map(int, manifest["parts"]):
            for kind, ending in self.files_of(manifest["run"]).items():
                (self.folder / kind / f"{number:06d}.{ending}").unlink(missing_ok=True)
        if "joined" in manifest:
            self._joined.unlink(missing_ok=True)


def writers_of_scores(
    labels: Sequence[str], rows: Sequence[Row], coco: Mapping[str, Any]
) -> dict[str, Callable[[Path], None]]:
    """Return the writers of a part's table, and of its boxes as COCO JSON."""
    return {
        SCORES: partial(write_table, labels=labels, rows=rows),
        BOXES: partial(_write_coco, coco=coco),
    }


def _write_coco(path: Path, coco: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(coco) + "\n", encoding="utf-8")


def _exists(path: Path) -> bool:
    """Return True if something other than a link is there."""
    return path.exists() and not path.is_symlink()


def _is_own(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _is_as_written(path: Path, digest: str | None) -> bool:
    return digest is not None and _is_own(path) and _digest(path) == digest


def _digest(path: Path) -> str:
    whole = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            whole.update(block)
    return whole.hexdigest()[:32]
