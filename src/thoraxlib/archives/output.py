"""Folder of scores: which parts of it are done, and which files are no work of ours."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from thoraxlib.archives import tables
from thoraxlib.archives.tables import Row
from thoraxlib.localization.coco import join_coco
from thoraxlib.utils.files import check_resumable, discard_scratch, locked, read_json, replacing, write_json

MANIFEST, LISTING, SCORES, BOXES = "manifest.json", "listing.jsonl", "scores", "boxes"
_WHY = {
    "fingerprint": "another model, or this one with other weights or options",
    "listing": "other images, or some of them have changed since",
}
_OVERWRITE = "choose another folder, or overwrite=True, which removes what was written"
_REMEDY = "choose another folder, or remove it yourself"


class Output:
    """Files of one run of scoring, each of which its manifest lists with a digest before it appears.

    So a file that is not listed is somebody else's, and a listed one that is not as it was written is written again.
    Links are nobody's: they count as absent, and are replaced.

    Parameters
    ----------
    folder : Path
        Where it is.
    format : str
        Of the tables.
    boxes : bool
        There are boxes, too.
    """

    def __init__(self, folder: Path, format: str, boxes: bool) -> None:
        self.folder, self.boxes = folder, boxes
        self.kinds = {SCORES: format, BOXES: "json"} if boxes else {SCORES: format}
        self.parts = 0

    def _file(self, kind: str, number: int) -> Path:
        return self.folder / kind / f"{number:06d}.{self.kinds[kind]}"

    def _joined(self) -> Path:
        return self.folder / f"{BOXES}.json"

    def begin(
        self,
        run: Mapping[str, Any],
        about: Mapping[str, Any],
        listing: Callable[[Path], tuple[int, str]],
        *,
        overwrite: bool = False,
    ) -> int:
        """Write the listing, and see that a run that was begun here is of the same; how many images there are.

        Parameters
        ----------
        run : mapping
            Settings, which must be equal when a run goes on.
        about : mapping
            Whatever else the manifest says.
        listing : callable
            Writes it to a file; how many images it has, and its digest.
        overwrite : bool
            Remove what an earlier run wrote.

        Raises
        ------
        ValueError
            The folder holds another run, or files that no run wrote.
        """
        self._check_folders()
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
                    check_resumable(self.folder, manifest["run"], run, "scores", _WHY, remedy=_OVERWRITE)
                self._check_foreign({} if manifest is None else manifest)
                if manifest is None:
                    self._describe({"complete": False, "run": run, **about, "parts": {}})
        return images

    def missing(self, numbers: Iterable[int]) -> list[int]:
        """Those of the parts that are not there as they were written."""
        manifest = self._known()
        missing = [number for number in numbers if not self._is_whole(manifest, number)]
        if missing and manifest["complete"]:
            self._record({})
        return missing

    def write(self, number: int, labels: Sequence[str], rows: Sequence[Row], coco: Mapping[str, Any]) -> None:
        """Write a part: `rows`, and where there are boxes the content of a COCO file."""
        for kind in self.kinds:
            discard_scratch(self.folder / kind, f"{number:06d}")
        with ExitStack() as stack:
            scratch = {kind: stack.enter_context(replacing(self._file(kind, number))) for kind in self.kinds}
            tables.write(scratch[SCORES], labels, rows)
            if self.boxes:
                scratch[BOXES].write_text(json.dumps(coco) + "\n", encoding="utf-8")
            self._record({str(number): {kind: _digest(path) for kind, path in scratch.items()}})

    def finish(self) -> int | None:
        """Join the boxes, and write how many images failed, once all parts are there: that number, and else None."""
        with locked(self.folder, wait=True):
            manifest = self._known()
            files = [self._file(SCORES, number) for number in range(self.parts)]
            if not all(_is_own(file) for file in files):
                return None
            damaged = any(not self._is_whole(manifest, number) for number in range(self.parts))
            joined = not self.boxes or _is_as_written(self._joined(), manifest.get("joined"))
            if manifest["complete"] and (damaged or not joined):
                manifest["complete"] = False
                self._describe(manifest)
            if damaged:
                return None
            if not manifest["complete"]:
                for of in (BOXES, Path(MANIFEST).stem):  # of processes that were killed here
                    discard_scratch(self.folder, of)
                if self.boxes:
                    self._describe(manifest | {"joined": None})  # from now on that file is ours
                    join_coco([self._file(BOXES, number) for number in range(self.parts)], self._joined())
                    manifest["joined"] = _digest(self._joined())
                manifest |= {"complete": True, "failed": sum(map(tables.failures, files))}
                self._describe(manifest)
            return int(manifest["failed"])

    def _manifest(self) -> dict[str, Any] | None:
        path = self.folder / MANIFEST
        if not _exists(path):
            return None
        try:
            content = read_json(path)
            run, parts = content["run"], content["parts"]
            numbers = [run["images"] + 0, run["part_size"] + 0, *map(int, parts)]
            if min(numbers) < 0 or run["part_size"] < 1 or run["format"] not in tables.FORMATS:
                raise ValueError("a number or format that no run has")
            _ = run["boxes"], content["complete"], [parts[key].items() for key in parts]
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
            raise ValueError(f"{path} is damaged, or no manifest of scores ({error}): {_REMEDY}") from error
        return dict(content)

    def _known(self) -> dict[str, Any]:
        manifest = self._manifest()
        if manifest is None:
            raise ValueError(f"{self.folder / MANIFEST} was removed while its scores were written")
        return manifest

    def _describe(self, content: Mapping[str, Any]) -> None:
        write_json(self.folder / MANIFEST, content, indent=1)

    def _record(self, parts: Mapping[str, Mapping[str, str]]) -> None:
        """List parts that appear now."""
        with locked(self.folder, wait=True):
            manifest = self._known()
            self._describe({**manifest, "complete": False, "parts": {**manifest["parts"], **parts}})

    def _is_whole(self, manifest: Mapping[str, Any], number: int) -> bool:
        digests = manifest["parts"].get(str(number), {})
        return all(_is_as_written(self._file(kind, number), digests.get(kind)) for kind in self.kinds)

    def _check_folders(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for kind in (SCORES, BOXES):
            if (self.folder / kind).is_symlink():
                raise ValueError(f"{self.folder / kind} is a link, which nothing is written through: {_REMEDY}")

    def _check_empty(self) -> None:
        for name in (*self.kinds, *([self._joined().name] if self.boxes else []), LISTING):
            path = self.folder / name
            if any(path.iterdir()) if path.is_dir() else _exists(path):
                raise ValueError(f"{self.folder} holds {name}, but no {MANIFEST} that says of what: {_REMEDY}")

    def _check_foreign(self, manifest: Mapping[str, Any]) -> None:
        """Refuse to replace what the manifest does not list, whoever wrote it."""
        listed = manifest.get("parts", {})
        unlisted = (number for number in range(self.parts) if str(number) not in listed)
        paths = [self._file(kind, number) for number in unlisted for kind in self.kinds]
        if self.boxes and "joined" not in manifest:
            paths.append(self._joined())
        for path in filter(_exists, paths):
            raise ValueError(f"{path} is no file of this run, and would be replaced: {_REMEDY}")

    def _remove(self, manifest: Mapping[str, Any]) -> None:
        """Remove what a manifest lists, which stays itself."""
        kinds = {SCORES: manifest["run"]["format"]} | ({BOXES: "json"} if manifest["run"]["boxes"] else {})
        for number in map(int, manifest["parts"]):
            for kind, ending in kinds.items():
                (self.folder / kind / f"{number:06d}.{ending}").unlink(missing_ok=True)
        if "joined" in manifest:
            self._joined().unlink(missing_ok=True)


def _exists(path: Path) -> bool:
    """Whether something other than a link is there."""
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
