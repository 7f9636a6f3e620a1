"""Scene graphs of a release, one JSON file per image in a zip archive or a folder, and a cache of their content."""

from __future__ import annotations

import hashlib
import json
import math
import os
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from thoraxlib.datasets.chest_imagenome.annotations import Annotations, Collector
from thoraxlib.datasets.files import StrPath, progress_bar
from thoraxlib.utils.files import parse_json, read_regular, replacing, unzipping

_VERSION = "1"  # of the cache: increase it when other content of a scene graph is read
_NAME = "thoraxlib_scene_graphs.safetensors"
_END = "_SceneGraph.json"
_CORNERS = ("original_x1", "original_y1", "original_x2", "original_y2")
_RELATIONS = {"yes": True, "no": False}
_LARGEST = 2**26  # bytes of a scene graph, far above any; an archive may claim more than fits in memory


class SceneGraphFiles:
    """The files ``<dicom_id>_SceneGraph.json`` of a release.

    Parameters
    ----------
    path : Path
        A zip archive, read in place, or a folder.

    Raises
    ------
    FileNotFoundError
        `path` does not exist, or holds no scene graph.
    ValueError
        `path` is a file, but no zip archive.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.exists():
            raise FileNotFoundError(f"no scene graphs: {path} does not exist")
        self._members = dict(sorted(self._listed()))
        if not self._members:
            raise FileNotFoundError(f"{path} holds no file *{_END}, nor silver_dataset/scene_graph.zip")

    @classmethod
    def of_release(cls, root: Path) -> SceneGraphFiles:
        """Open ``silver_dataset/scene_graph.zip``, the folder ``silver_dataset/scene_graph``, or `root` itself."""
        places = (root / "silver_dataset/scene_graph.zip", root / "silver_dataset/scene_graph", root)
        return cls(next(place for place in places if place.exists()))

    def _listed(self) -> Iterator[tuple[str, tuple[str, int, int]]]:
        """Yield id, and (name, bytes, a number that changes with the content), of each file."""
        if self.path.is_dir():
            with os.scandir(self.path) as entries:
                for entry in entries:
                    if entry.name.endswith(_END):
                        stat = entry.stat()
                        yield entry.name.removesuffix(_END), (entry.name, stat.st_size, stat.st_mtime_ns)
            return
        with unzipping(f"{self.path} is no zip archive, or is cut off"), zipfile.ZipFile(self.path) as archive:
            members = archive.infolist()
        for info in members:
            name = info.filename.rpartition("/")[2]
            if name.endswith(_END) and not name.startswith("._"):  # macOS metadata files
                yield name.removesuffix(_END), (info.filename, info.file_size, info.CRC)

    def fingerprint(self) -> str:
        """Return a hash that changes when a file is added, removed or changed."""
        return hashlib.sha256(json.dumps(list(self._members.values())).encode()).hexdigest()

    def graphs(self, *, progress: bool) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """Yield id, path (for messages) and scene graph of every image, in the order of ids.

        Raises
        ------
        ValueError
            A file is no JSON object; the message names it.
        """
        with self._archive() as archive:
            for image in progress_bar(self._members, "scene graphs", shown=progress):
                yield image, f"{self.path}/{self._members[image][0]}", self._graph(image, archive)

    def graph(self, image: str) -> dict[str, Any]:
        """Read the scene graph of one image; errors are those of :meth:`graphs`."""
        with self._archive() as archive:
            return self._graph(image, archive)

    def _archive(self) -> AbstractContextManager[zipfile.ZipFile | None]:
        return nullcontext(None) if self.path.is_dir() else zipfile.ZipFile(self.path)

    def _graph(self, image: str, archive: zipfile.ZipFile | None) -> dict[str, Any]:
        name, size, _ = self._members[image]
        where = f"{self.path}/{name}"
        with unzipping(f"{where} is broken"):
            if size > _LARGEST:
                raise ValueError(f"a scene graph has at most {_LARGEST} bytes, this one {size}")
            content = read_regular(self.path / name) if archive is None else archive.read(name)
            graph = parse_json(content, "what it holds")
        if not isinstance(graph, dict):
            raise ValueError(f"{where} holds a {type(graph).__name__}, not a scene graph")
        return graph


def parse(files: SceneGraphFiles, *, progress: bool) -> Annotations:
    """Read every scene graph.

    Raises
    ------
    ValueError
        A file is no JSON, has no list of objects or attributes, or an object without corners; the message names it.
    """
    collector = Collector()
    for image, where, graph in files.graphs(progress=progress):
        try:
            about = tuple(str(graph[key]) for key in ("patient_id", "study_id", "viewpoint"))
            boxes = [(_region(each), [_number(each[corner]) for corner in _CORNERS]) for each in graph["objects"]]
            mentions = [mention for each in graph["attributes"] for mention in _mentions(each)]
            collector.add((image, about[0], about[1], about[2]), boxes, mentions)
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
            raise ValueError(f"{where} is no scene graph: {type(error).__name__}: {error}") from error
    return collector.result()


def _region(entry: dict[str, Any]) -> str:
    """Return ``bbox_name``, or the part of ``object_id`` after the image's id, which has no underscore."""
    name = entry.get("bbox_name") or entry["object_id"].partition("_")[2]
    return str(name).strip().lower()


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _mentions(entry: dict[str, Any]) -> Iterator[tuple[str, str, bool]]:
    """Yield region, finding and True if it is affirmed, sentence by sentence."""
    region = _region(entry)
    for sentence in entry["attributes"]:
        for attribute in sentence:
            _, relation, finding = attribute.split("|", 2)
            if relation not in _RELATIONS:
                raise ValueError(f"{attribute!r}: yes or no is wanted in the middle")
            yield region, finding.strip().lower(), _RELATIONS[relation]


def parsed(files: SceneGraphFiles, folder: StrPath | Literal[False] | None, *, progress: bool) -> Annotations:
    """Return the annotations of some scene graphs, from the cache if it was made from these files.

    Parameters
    ----------
    files : SceneGraphFiles
        The scene graphs.
    folder : path, False or None
        The folder of the cache; by default the folder of the files or of the archive; False for no cache.
    progress : bool
        Show a progress bar, on a terminal.

    Warns
    -----
    UserWarning
        The cache cannot be written.
    """
    from safetensors import SafetensorError

    if folder is False:
        return parse(files, progress=progress)
    beside = files.path if files.path.is_dir() else files.path.parent
    path = (beside if folder is None else Path(folder)) / _NAME
    mark = {"version": _VERSION, "fingerprint": files.fingerprint()}
    known = _load(path, mark)
    if known is not None:
        return known
    annotations = parse(files, progress=progress)
    try:
        _save(path, annotations, mark)
    except (OSError, SafetensorError) as error:  # SafetensorError: the disk is full
        warnings.warn(
            f"{path} cannot be written ({error}), so the scene graphs will be read again next time; give a folder "
            "that can be written as cache",
            stacklevel=4,
        )
    return annotations


def _save(path: Path, annotations: Annotations, mark: dict[str, str]) -> None:
    from safetensors.numpy import save_file

    with replacing(path) as scratch:
        save_file(
            {
                name: np.ascontiguousarray(value) if isinstance(value, np.ndarray) else _packed(value)
                for name, value in annotations._asdict().items()
            },
            scratch,
            metadata=mark,
        )


def _load(path: Path, mark: dict[str, str]) -> Annotations | None:
    """Read a cache; return None if it does not exist, is damaged, or was made from other files."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            if file.metadata() != mark:
                return None
            columns = {name: file.get_tensor(name) for name in Annotations._fields}
        for name in ("ids", "patients", "studies", "views", "regions", "findings"):
            columns[name] = parse_json(columns[name].tobytes(), path)
    except (OSError, ValueError, SafetensorError):
        return None
    known = Annotations(**columns)._replace(regions=tuple(columns["regions"]), findings=tuple(columns["findings"]))
    return known if _fits(known) else None


def _fits(tables: Annotations) -> bool:
    """Return True if the tables of a file agree in length, and all positions in them exist."""
    images, regions, findings = len(tables.ids), len(tables.regions), len(tables.findings)
    boxes, mentions = len(tables.box_region), len(tables.mention_region)
    return (
        all(len(column) == images for column in (tables.patients, tables.studies, tables.views))
        and tables.boxes.shape == (boxes, 4)
        and len(tables.mention_finding) == len(tables.mention_yes) == mentions
        and all(
            len(starts) == images + 1
            and starts[0] == 0
            and starts[-1] == entries
            and bool((np.diff(starts) >= 0).all())
            for starts, entries in ((tables.box_starts, boxes), (tables.mention_starts, mentions))
        )
        and all(
            not len(column) or 0 <= column.min() <= column.max() < known
            for column, known in (
                (tables.box_region, regions),
                (tables.mention_region, regions),
                (tables.mention_finding, findings),
            )
        )
    )


def _packed(names: list[str] | tuple[str, ...]) -> NDArray[np.uint8]:
    return np.frombuffer(json.dumps(names).encode(), np.uint8)
