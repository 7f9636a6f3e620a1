"""Data sets with regions as COCO JSON, and as the list of records that detectron2 takes."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor

from thoraxlib.datasets.base import ChestDataset
from thoraxlib.datasets.regions import RegionTable, read_regions
from thoraxlib.localization.boxes import Boxes
from thoraxlib.localization.coco import to_coco as boxes_to_coco
from thoraxlib.utils.files import write_json

_XYWH_ABS = 1  # detectron2's number for boxes of this kind


def to_coco(
    dataset: ChestDataset, *, split: str = "", first_category: int = 1, progress: bool = True
) -> dict[str, Any]:
    """Regions as objects, their findings as attributes: what the tools of object detection read.

    Parameters
    ----------
    dataset : ChestDataset
        With regions; see :func:`~thoraxlib.datasets.read_regions`. Where it has no ``file_names`` (the synthetic data
        set), an image's file is ``<id>.png``.
    split : str
        Written down with each image.
    first_category : int
        The number of the first region; the others follow.
    progress : bool
        Show a progress bar where images must be made, on a terminal.

    Returns
    -------
    dict
        ``images`` (id, file_name, height, width, dicom_id, patient_id, study_id, view, split), ``annotations`` (id,
        image_id, category_id, bbox as x y width height, area, iscrowd, ``attributes``: 1, 0 or None for each label, and
        ``object_id``: image and region), ``categories``, and ``info`` with the names of the attributes. Absent regions
        have no annotation.

    Raises
    ------
    ValueError
        The data set has no regions.
    """
    table = read_regions(dataset, progress=progress)
    image, region = table.present.nonzero(as_tuple=True)
    boxes = Boxes(table.boxes[image, region], image, region, torch.ones(len(image)))
    content = boxes_to_coco(boxes, table.region_names, _file_names(dataset), table.sizes)
    columns = {
        "dicom_id": dataset.ids,
        "patient_id": dataset.patient_ids,
        "study_id": getattr(dataset, "study_ids", None),
        "view": getattr(dataset, "views", None),
    }
    for row, about in enumerate(content["images"]):
        about |= {key: column[row] for key, column in columns.items() if column is not None} | {"split": split}
    attributes = _attributes(table, image, region)
    for annotation, i, r, values in zip(
        content["annotations"], image.tolist(), region.tolist(), attributes, strict=True
    ):
        del annotation["score"]  # of detections
        annotation["category_id"] = r + first_category
        annotation |= {"attributes": values, "object_id": f"{dataset.ids[i]}_{table.region_names[r]}"}
    categories = [
        {"id": r + first_category, "name": name, "supercategory": "region"} for r, name in enumerate(table.region_names)
    ]
    info = {"description": "regions of chest images and their findings", "attributes": list(table.labels)}
    return {**content, "categories": categories, "info": info}


def save_coco(
    path: str | os.PathLike[str],
    dataset: ChestDataset,
    *,
    split: str = "",
    first_category: int = 1,
    progress: bool = True,
) -> None:
    """Write :func:`to_coco` to a file, whole or not at all."""
    write_json(path, to_coco(dataset, split=split, first_category=first_category, progress=progress))


def to_detectron2(dataset: ChestDataset, *, progress: bool = True) -> list[dict[str, Any]]:
    """One record an image, as AnaXNet's converter writes them, with height and width, which its evaluation lacks.

    Categories count from 0. Unlike the original's, boxes are cut off at the image's border and none is repeated.

    Parameters
    ----------
    dataset : ChestDataset
        As for :func:`to_coco`.
    progress : bool
        As there.

    Raises
    ------
    ValueError
        As there.
    """
    content = to_coco(dataset, first_category=0, progress=progress)
    records = [
        {
            "image_id": image["dicom_id"],
            "file_name": image["file_name"],
            "height": image["height"],
            "width": image["width"],
            "annotations": [],
        }
        for image in content["images"]
    ]
    for each in content["annotations"]:
        record = records[each["image_id"] - 1]
        record["annotations"].append(
            {
                "id": each["object_id"],
                "category_id": each["category_id"],
                "iscrowd": 0,
                "bbox_mode": _XYWH_ABS,
                "image_id": record["image_id"],
                "attributes": each["attributes"],
                "bbox": each["bbox"],
            }
        )
    return records


def _file_names(dataset: ChestDataset) -> list[str]:
    names: list[str] | None = getattr(dataset, "file_names", None)
    return [f"{name}.png" for name in dataset.ids] if names is None else names


def _attributes(table: RegionTable, image: Tensor, region: Tensor) -> list[list[int | None]]:
    """1, 0 or None for each label of each box."""
    rows = table.targets[image, region].tolist()
    return [[None if value != value else int(value) for value in row] for row in rows]
