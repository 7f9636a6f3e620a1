"""Data sets with regions as COCO files and lists of detectron2 records: reading and writing."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from thoraxlib import labels as label_sets
from thoraxlib.datasets.base import ChestDataset, Transform
from thoraxlib.datasets.files import StrPath, image_size, index_named, plain, progress_bar
from thoraxlib.datasets.regions import RegionDataset, dense_boxes, find_names, inverse, read_regions
from thoraxlib.localization.boxes import Boxes
from thoraxlib.localization.coco import every_annotation
from thoraxlib.localization.coco import to_coco as boxes_to_coco
from thoraxlib.utils.arguments import repeated
from thoraxlib.utils.arrays import table
from thoraxlib.utils.files import read_json, write_json

_XYWH_ABS = 1  # detectron2's BoxMode for x y width height in pixels


class RegionCoco(RegionDataset):
    """Images with regions and their findings from a COCO file, such as :func:`~thoraxlib.datasets.save_coco` writes.

    Categories are regions, and ``attributes`` of the annotations, if there are any, are labels of the regions. The
    file may be any COCO file with at most one object of each category in an image, or a list of detectron2 records of
    AnaXNet's converter (``xray_coco_train.json``), in which a box is repeated for every attribute entry of its image.

    Parameters
    ----------
    annotations : path
        The file.
    images : path
        The folder of the images; ``file_name`` is a path below it, or a bare name at any depth, with slashes of either
        kind.
    regions : str or sequence of str, optional
        Regions to use, in this order; by default the file's categories. The converter's lists have those of
        "regions18", by number.
    labels : str or sequence of str, optional
        Labels to use, in this order; by default all of the file. The converter's lists have "imagenome9". For a file
        that does not name its attributes (``info.attributes``), `labels` names them.
    missing : {"error", "skip"}
        For absent images: raise an error, or leave them out, together with unreadable files, with one warning.
    progress : bool
        Show a progress bar, on a terminal, if sizes must be read from the images.
    transform : callable, optional
        From sample to sample, e.g. :func:`thoraxlib.images.transform_for`.

    Attributes
    ----------
    labels, targets, patient_ids, ids
        See :class:`~thoraxlib.datasets.ChestDataset`. An id is ``dicom_id``, or ``file_name`` without its extension; an
        image without ``patient_id`` is its own patient.
    region_names, region_targets, region_present, region_boxes, sizes, file_names, report
        See :class:`~thoraxlib.datasets.regions.RegionDataset`. Of several boxes of one region, the first with an area
        is used.

    Raises
    ------
    FileNotFoundError, NotADirectoryError
        The file, the folder or the images are missing.
    ValueError
        The file has neither format, other attributes than it names, an image twice, or a wrong box; or a region or
        label is unknown.

    Warns
    -----
    UserWarning
        The report is not empty; no label of any image is known; images are left out by ``missing="skip"``.
    """

    def __init__(
        self,
        *,
        annotations: StrPath,
        images: StrPath,
        regions: str | Sequence[str] | None = None,
        labels: str | Sequence[str] | None = None,
        missing: str = "error",
        progress: bool = True,
        transform: Transform | None = None,
    ) -> None:
        super().__init__(images, None, transform, "images")
        path = Path(annotations)
        listed = _read(path, labels)
        self.region_names = listed.regions if regions is None else label_sets.resolve(regions)
        self.labels = listed.labels if labels is None else label_sets.resolve(labels)
        region_rows = find_names(self.region_names, listed.regions, "regions", str(path))
        labelled = find_names(self.labels, listed.labels, "labels", str(path))
        files = index_named(self.root, listed.files)
        columns = {"ids": listed.ids, "patient_ids": listed.patients, "file_names": listed.files}
        rows = self._keep(np.arange(len(listed.files)), columns, files, missing, {}, names=listed.files)
        if listed.sizes is None:
            self.sizes = [image_size(image) for image in progress_bar(self._paths, "image sizes", shown=progress)]
        else:
            self.sizes = [listed.sizes[row] for row in rows]
        image = inverse(rows.tolist(), len(listed.files))[listed.boxes.image.numpy()]
        region = inverse(region_rows, len(listed.regions))[listed.boxes.label.numpy()]
        xyxy, shape = listed.boxes.xyxy.numpy(), (len(rows), len(region_rows))
        boxes, source, flat, doubled = dense_boxes(xyxy, image, region, shape)
        self.report = {"boxes without area": flat, "boxes of a region that has another": doubled}
        unknown = np.full((1, len(labelled)), np.nan, np.float32)
        self._set_regions(boxes, source >= 0, np.concatenate([listed.values[:, labelled], unknown])[source])


class _Listed(NamedTuple):
    """Content of a file: I images, M boxes."""

    files: list[str]
    ids: list[str]
    patients: list[str]
    sizes: Sequence[tuple[int, int]] | None
    regions: tuple[str, ...]
    labels: tuple[str, ...]
    boxes: Boxes  # positions in `files` and `regions`
    values: NDArray[np.float32]  # (M, K)


def _read(path: Path, labels: str | Sequence[str] | None) -> _Listed:
    """Read a file of either format."""
    content = read_json(path)
    try:
        if isinstance(content, list):
            listed = _parse(_as_coco(content), path, labels)._replace(sizes=None)
        else:
            listed = _parse(content, path, labels)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path}: neither a COCO file nor records of AnaXNet's converter ({type(error).__name__}: {error})"
        ) from error
    for names in (listed.ids, listed.files):
        if repeated(names):
            raise ValueError(f"{path} has the image {repeated(names)[0]} more than once")
    wrong = listed.values[~np.isnan(listed.values) & (listed.values != 0) & (listed.values != 1)]
    if len(wrong):
        raise ValueError(f"{path}: attributes must be 0, 1 or null, got {wrong[0]}")
    return listed


def _parse(content: dict[str, Any], path: Path, labels: str | Sequence[str] | None) -> _Listed:
    coco = every_annotation(content, str(path))
    annotations, images = content["annotations"], content["images"]
    values = [each.get("attributes", []) for each in annotations]
    widths = {len(row) for row in values}
    if len(widths) > 1:
        raise ValueError(f"{path}: annotations have different numbers of attributes: {sorted(widths)}")
    width = widths.pop() if widths else 0
    names = tuple(str(name) for name in content.get("info", {}).get("attributes", ()))
    if not names and width:
        if labels is None:
            raise ValueError(f"{path} has {width} attributes without names; labels must say what they are")
        names = label_sets.resolve(labels)
    if values and len(names) != width:
        raise ValueError(f"{path}: annotations have {width} attributes, but there are {len(names)} names: {names}")
    files = [plain(name, path) for name in coco.ids]
    ids = [str(image.get("dicom_id", os.path.splitext(name)[0])) for image, name in zip(images, files, strict=True)]
    patients = [str(image.get("patient_id", own)) for image, own in zip(images, ids, strict=True)]
    attributes = table(values, len(names), f"{path}: attributes").astype(np.float32)
    return _Listed(files, ids, patients, coco.sizes, coco.labels, names, coco.boxes, attributes)


def _as_coco(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Convert records of AnaXNet's converter, which have no sizes, to a COCO file with images of 1 x 1 pixels."""
    return {
        "annotations": [{**each, "image_id": k} for k, record in enumerate(records) for each in record["annotations"]],
        "images": [
            {"id": k, "dicom_id": record["image_id"], "file_name": record["file_name"], "height": 1, "width": 1}
            for k, record in enumerate(records)
        ],
        "categories": [{"id": k, "name": name} for k, name in enumerate(label_sets.build("regions18"))],
        "info": {"attributes": label_sets.build("imagenome9")},
    }


def to_coco(
    dataset: ChestDataset, *, split: str = "", first_category: int = 1, progress: bool = True
) -> dict[str, Any]:
    """Convert the regions to objects with their findings as attributes, for object detection tools.

    Parameters
    ----------
    dataset : ChestDataset
        A data set with regions; see :func:`~thoraxlib.datasets.read_regions`. If it has no ``file_names`` (the
        synthetic data set), the file of an image is ``<id>.png``.
    split : str
        Name of the split, recorded with each image.
    first_category : int
        Number of the first region; the others follow.
    progress : bool
        Show a progress bar, on a terminal, if images must be made.

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
    regions = read_regions(dataset, progress=progress)
    image, region = regions.present.nonzero(as_tuple=True)
    boxes = Boxes(regions.boxes[image, region], image, region, torch.ones(len(image)))
    files: list[str] = getattr(dataset, "file_names", None) or [f"{name}.png" for name in dataset.ids]
    content = boxes_to_coco(boxes, regions.region_names, files, regions.sizes)
    columns = {
        "dicom_id": dataset.ids,
        "patient_id": dataset.patient_ids,
        "study_id": getattr(dataset, "study_ids", None),
        "view": getattr(dataset, "views", None),
    }
    for row, entry in enumerate(content["images"]):
        entry |= {key: column[row] for key, column in columns.items() if column is not None} | {"split": split}
    values = regions.targets[image, region].tolist()
    for entry, i, r, row in zip(content["annotations"], image.tolist(), region.tolist(), values, strict=True):
        del entry["score"]  # true boxes have none
        entry["category_id"] = r + first_category
        entry["attributes"] = [None if value != value else int(value) for value in row]
        entry["object_id"] = f"{dataset.ids[i]}_{regions.region_names[r]}"
    categories = [
        {"id": r + first_category, "name": name, "supercategory": "region"}
        for r, name in enumerate(regions.region_names)
    ]
    info = {"description": "regions of chest images and their findings", "attributes": list(regions.labels)}
    return {**content, "categories": categories, "info": info}


def save_coco(
    path: str | os.PathLike[str],
    dataset: ChestDataset,
    *,
    split: str = "",
    first_category: int = 1,
    progress: bool = True,
) -> None:
    """Write the result of :func:`to_coco` to a file, whole or not at all."""
    write_json(path, to_coco(dataset, split=split, first_category=first_category, progress=progress))


def to_detectron2(dataset: ChestDataset, *, progress: bool = True) -> list[dict[str, Any]]:
    """Convert the regions to detectron2 records, one per image, as AnaXNet's converter writes them.

    Records also have height and width, which AnaXNet's evaluation lacks. Categories count from 0. Unlike in the
    original, boxes are cut off at the image's border and none is repeated.

    Parameters
    ----------
    dataset, progress
        See :func:`to_coco`.

    Raises
    ------
    ValueError
        The data set has no regions.
    """
    content = to_coco(dataset, first_category=0, progress=progress)
    records = [
        {
            "image_id": image["dicom_id"],
            **{key: image[key] for key in ("file_name", "height", "width")},
            "annotations": [],
        }
        for image in content["images"]
    ]
    for entry in content["annotations"]:
        record = records[entry["image_id"] - 1]
        fields = {key: entry[key] for key in ("category_id", "iscrowd", "attributes", "bbox")}
        record["annotations"].append(
            {"id": entry["object_id"], "image_id": record["image_id"], "bbox_mode": _XYWH_ABS, **fields}
        )
    return records
