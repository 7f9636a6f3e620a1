"""The region features that AnaXNet's extractor writes, one JSON file an image."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from thoraxlib import labels as label_sets
from thoraxlib.datasets.regions import find_names
from thoraxlib.metrics.studies import image_level
from thoraxlib.utils.arrays import table
from thoraxlib.utils.files import read_json


def read_anaxnet_features(
    path: str | os.PathLike[str],
    *,
    regions: str | Sequence[str] = "regions18",
    labels: str | Sequence[str] = "imagenome9",
) -> dict[str, Any]:
    """One file of ``FeatureData``, with labels and boxes brought to the rows of their regions.

    In these files features are in the order of regions, zeros for those that were not detected, but boxes, names
    (``objects``) and labels (``target``) in the order of the detections' scores, which is how the original trains on
    them. Of two detections of one region the first, with the higher score, counts.

    Parameters
    ----------
    path : path
        ``<image_id>.json``.
    regions : str or sequence of str
        R names, in the order of the features.
    labels : str or sequence of str
        K names, in the order of the labels.

    Returns
    -------
    dict
        ``features`` (float32 (R, D)), ``present`` (bool (R,)), ``regions`` (float32 (R, 4), x1 y1 x2 y2 as detectron2
        gives them, 0 0 0 0 for an absent region), ``scores`` (float32 (R,): NaN, the file has none), ``region_labels``
        (float32 (R, K), NaN for absent regions), ``labels`` (float32 (K,)) and ``id``.

    Raises
    ------
    FileNotFoundError
        No such file.
    ValueError
        Naming the file: no JSON, a part that is lacking or has another number of rows or columns, or an unknown region.
    """
    names, findings = label_sets.resolve(regions), label_sets.resolve(labels)
    path = Path(path)
    try:
        content = read_json(path)
        objects = [str(name) for name in content["objects"]]
        width = len(content["features"][0]) if content["features"] else 0
        features = _rows(content["features"], len(names), width, "features")
        boxes = _rows(content["bbox"], len(objects), 4, "bbox")
        if not bool(boxes.isfinite().all()):
            raise ValueError("bbox: finite numbers are wanted")
        targets = _rows(content["target"], len(objects), len(findings), "target")
        image = str(content["image_id"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no feature file of AnaXNet: {type(error).__name__}: {error}") from error
    first = {name: row for row, name in reversed(list(enumerate(objects)))}
    rows = torch.tensor(find_names(list(first), names, "objects", str(path)), dtype=torch.long)
    source = torch.tensor(list(first.values()), dtype=torch.long)
    present = torch.zeros(len(names), dtype=torch.bool).index_fill(0, rows, True)
    region_labels = torch.full((len(names), len(findings)), torch.nan).index_copy(0, rows, targets[source])
    return {
        "features": features,
        "present": present,
        "regions": torch.zeros(len(names), 4).index_copy(0, rows, boxes[source]),
        "scores": torch.full((len(names),), torch.nan),
        "region_labels": region_labels,
        "labels": image_level(region_labels),
        "id": image,
    }


def _rows(values: list[list[float]], rows: int, columns: int, part: str) -> Tensor:
    """Values as (rows, columns)."""
    if len(values) != rows:
        raise ValueError(f"{part}: {rows} rows are wanted, got {len(values)}")
    return torch.from_numpy(table(values, columns, part)).float()
