"""Scene graphs as the release has them: one JSON file an image, in a zip archive or unpacked."""

from __future__ import annotations

import hashlib
import json
import math
import os
import zipfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from thoraxlib.datasets.chest_imagenome.annotations import Annotations, Collector
from thoraxlib.datasets.files import progress_bar
from thoraxlib.utils.files import parse_json, read_regular, unzipping

_END = "_SceneGraph.json"
_CORNERS = ("original_x1", "original_y1", "original_x2", "original_y2")
_RELATIONS = {"yes": True, "no": False}
_LARGEST = 2**26  # bytes of a scene graph: far above any; an archive may promise more than the memory holds


class SceneGraphFiles:
    """The files ``<dicom_id>_SceneGraph.json`` of a release.

    Parameters
    ----------
    path : Path
        The archive, read in place, or a folder.

    Raises
    ------
    FileNotFoundError
        Neither, or no such file in it.
    ValueError
        A file that is no zip archive.
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
        """``silver_dataset/scene_graph.zip``, the folder ``silver_dataset/scene_graph``, or `root` itself."""
        places = (root / "silver_dataset/scene_graph.zip", root / "silver_dataset/scene_graph", root)
        return cls(next(place for place in places if place.exists()))

    def _listed(self) -> Iterator[tuple[str, tuple[str, int, int]]]:
        """(id, (name, bytes, a number that changes with the content)) of each file."""
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
            if name.endswith(_END) and not name.startswith("._"):  # those are a Mac's notes
                yield name.removesuffix(_END), (info.filename, info.file_size, info.CRC)

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, image: str) -> bool:
        return image in self._members

    def fingerprint(self) -> str:
        """Changes when a file is added, taken away or changed."""
        return hashlib.sha256(json.dumps(list(self._members.values())).encode()).hexdigest()

    def graph(self, image: str) -> dict[str, Any]:
        """The scene graph of one image.

        Raises
        ------
        ValueError
            Naming the file: it is no JSON object.
        """
        with self._archive() as archive:
            return self._graph(image, archive)

    def graphs(self, *, progress: bool) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """The id, where it is (for messages), and the scene graph of every image, in the order of ids."""
        with self._archive() as archive:
            for image in progress_bar(self._members, "scene graphs", shown=progress):
                yield image, self._where(image), self._graph(image, archive)

    def _archive(self) -> AbstractContextManager[zipfile.ZipFile | None]:
        return nullcontext(None) if self.path.is_dir() else zipfile.ZipFile(self.path)

    def _where(self, image: str) -> str:
        return f"{self.path}/{self._members[image][0]}"

    def _graph(self, image: str, archive: zipfile.ZipFile | None) -> dict[str, Any]:
        name, size, _ = self._members[image]
        with unzipping(f"{self._where(image)} is broken"):
            if size > _LARGEST:
                raise ValueError(f"a scene graph has at most {_LARGEST} bytes, this one {size}")
            content = read_regular(self.path / name) if archive is None else archive.read(name)
            graph = parse_json(content, "what it holds")
        if not isinstance(graph, dict):
            raise ValueError(f"{self._where(image)} holds a {type(graph).__name__}, not a scene graph")
        return graph


def parse(files: SceneGraphFiles, *, progress: bool) -> Annotations:
    """Read every scene graph.

    Raises
    ------
    ValueError
        Naming the file: no JSON, no list of objects or attributes, an object without corners.
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
    """``bbox_name``, or what follows the image in ``object_id``: image ids hold no underscore."""
    name = entry.get("bbox_name") or entry["object_id"].partition("_")[2]
    return str(name).strip().lower()


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _mentions(entry: dict[str, Any]) -> Iterator[tuple[str, str, bool]]:
    """Region, finding and whether it is affirmed, sentence by sentence."""
    region = _region(entry)
    for sentence in entry["attributes"]:
        for attribute in sentence:
            _, relation, finding = attribute.split("|", 2)
            if relation not in _RELATIONS:
                raise ValueError(f"{attribute!r}: yes or no is wanted in the middle")
            yield region, finding.strip().lower(), _RELATIONS[relation]
