"""Parsed scene graphs in one file, so that 240,000 JSON files are read once."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from thoraxlib.datasets.chest_imagenome.annotations import Annotations
from thoraxlib.datasets.chest_imagenome.scene_graphs import SceneGraphFiles, parse
from thoraxlib.utils.files import parse_json, replacing

_VERSION = "1"  # of the tables: raise it when what is read of a scene graph changes
_NAME = "thoraxlib_scene_graphs.safetensors"


def cache_path(source: Path, folder: str | os.PathLike[str] | None) -> Path:
    """Where the tables of `source` are kept: in `folder`, or else beside an archive or in a folder of files."""
    beside = source if source.is_dir() else source.parent
    return (beside if folder is None else Path(folder)) / _NAME


def parsed(
    files: SceneGraphFiles, folder: str | os.PathLike[str] | Literal[False] | None, *, progress: bool
) -> Annotations:
    """The tables of some scene graphs: from the cache if it is of these very files, else read and kept.

    Parameters
    ----------
    files : SceneGraphFiles
        What is to be read.
    folder : path, False or None
        Of the cache; None for :func:`cache_path`'s default, False for no cache.
    progress : bool
        Show a progress bar while reading, on a terminal.

    Warns
    -----
    UserWarning
        The cache cannot be written.
    """
    from safetensors import SafetensorError

    if folder is False:
        return parse(files, progress=progress)
    path = cache_path(files.path, folder)
    mark = {"version": _VERSION, "fingerprint": files.fingerprint()}
    known = _load(path, mark)
    if known is not None:
        return known
    annotations = parse(files, progress=progress)
    try:
        _save(path, annotations, mark)
    except (OSError, SafetensorError) as error:  # the latter of a full disk
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
    """None where there is no such file, or it is damaged, or of other files."""
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
    """Whether tables from a file belong together: every position is one of what it counts."""
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
