"""Images with regions from a COCO file, and from the record lists of AnaXNet's converter."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from thoraxlib import labels as label_sets
from thoraxlib.datasets.files import check_root, existing, image_size, index_named, plain, progress_bar
from thoraxlib.datasets.regions import RegionDataset, find_names
from thoraxlib.localization.boxes import from_xywh
from thoraxlib.localization.coco import every_annotation
from thoraxlib.utils.arrays import table
from thoraxlib.utils.files import read_json


class RegionCoco(RegionDataset):
    """Images with regions and their findings from a COCO file, such as :func:`~thoraxlib.datasets.save_coco` writes.

    Any COCO file with at most one object of a category in an image will do: categories are regions, and where
    annotations have ``attributes``, these are the labels of the region. Also the lists of detectron2 records of
    AnaXNet's converter (``xray_coco_train.json``), in which a box is repeated for every attribute entry of its image.

    Parameters
    ----------
    annotations : path
        The file.
    images : path
        The folder of the images; ``file_name`` is a path below it, or a bare name at any depth, with slashes of either
        kind.
    regions : str or sequence of str, optional
        Which regions, in this order; by default the file's categories. In the converter's lists they are those of
        "regions18", by number.
    labels : str or sequence of str, optional
        Which labels, in this order; by default all of the file. In the converter's lists they are "imagenome9". In a
        file that does not name its attributes (``info.attributes``) `labels` says what they are; without attributes
        there are none.
    missing : {"error", "skip"}
        What to do about absent images; "skip" also leaves out unreadable files and warns once.
    progress : bool
        Show a progress bar where the sizes of images must be read, on a terminal.
    transform : callable, optional
        From sample to sample, e.g. :func:`thoraxlib.images.transform_for`.

    Attributes
    ----------
    labels, targets, patient_ids, ids
        See :class:`~thoraxlib.datasets.ChestDataset`. An id is ``dicom_id``, or ``file_name`` without its extension; an
        image without ``patient_id`` is its own patient.
    region_names, region_targets, region_present, region_boxes, sizes, file_names, report
        See :class:`~thoraxlib.datasets.regions.RegionDataset`. Of several boxes of one region the first with an area
        counts.

    Raises
    ------
    FileNotFoundError, NotADirectoryError
        No such file, folder or images.
    ValueError
        The file is neither; it has other attributes than it names; an unknown region or label; an image twice; a box
        that is not finite, or has a width or height below 0.

    Warns
    -----
    UserWarning
        What the report says; no label of any image is known; images that ``missing="skip"`` left out.
    """

    def __init__(
        self,
        *,
        annotations: str | os.PathLike[str],
        images: str | os.PathLike[str],
        regions: str | Sequence[str] | None = None,
        labels: str | Sequence[str] | None = None,
        missing: str = "error",
        progress: bool = True,
        transform: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    ) -> None:
        path, self.images = Path(annotations), check_root(images, "images")
        self.transform, self.report = transform, {}
        listed = _read(path, labels)
        self.region_names = listed.regions if regions is None else label_sets.resolve(regions)
        self.labels = listed.labels if labels is None else label_sets.resolve(labels)
        rows = find_names(self.region_names, listed.regions, "regions", str(path))
        columns = find_names(self.labels, listed.labels, "labels", str(path))

        files = index_named(self.images, listed.files)
        kept = existing(listed.files, files, missing, self.images)
        self.ids = [listed.ids[k] for k in kept]
        self.patient_ids = [listed.patients[k] for k in kept]
        self.file_names = [listed.files[k] for k in kept]
        self._paths = [files[name] for name in self.file_names]
        if listed.sizes is None:
            bar = progress_bar(self._paths, "image sizes", shown=progress)
            self.sizes = [image_size(image) for image in bar]
        else:
            self.sizes = [listed.sizes[k] for k in kept]
        boxes, found, targets = self._dense(listed, np.array(kept), rows, columns)
        self._set_regions(torch.from_numpy(boxes), torch.from_numpy(found), torch.from_numpy(targets))

    def _dense(
        self, listed: _Listed, kept: NDArray[np.intp], rows: list[int], columns: list[int]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.float32]]:
        """(N, R, 4) boxes, (N, R) whether there is one, (N, R, K) labels: the first box with an area of each region."""
        place = np.full(len(listed.files), -1)
        place[kept] = np.arange(len(kept))
        row_of = np.full(len(listed.regions), -1)
        row_of[rows] = np.arange(len(rows))
        image, region = place[listed.image], row_of[listed.region]
        asked = np.flatnonzero((image >= 0) & (region >= 0))
        has_area = (listed.boxes[asked, 2:] > listed.boxes[asked, :2]).all(axis=1)
        self.report["boxes without area"] = int((~has_area).sum())
        asked = asked[has_area]
        cells, first = np.unique(image[asked] * len(rows) + region[asked], return_index=True)
        self.report["boxes of a region that has another"] = len(asked) - len(cells)
        shape = len(kept), len(rows)
        boxes = np.zeros((shape[0] * shape[1], 4), np.float32)
        found = np.zeros(len(boxes), np.bool_)
        targets = np.full((len(boxes), len(columns)), np.nan, np.float32)
        chosen = asked[first]
        boxes[cells], found[cells], targets[cells] = listed.boxes[chosen], True, listed.values[chosen][:, columns]
        return boxes.reshape(*shape, 4), found.reshape(shape), targets.reshape(*shape, len(columns))


class _Listed(NamedTuple):
    """What a file says: I images, M boxes."""

    files: list[str]
    ids: list[str]
    patients: list[str]
    sizes: list[tuple[int, int]] | None
    regions: tuple[str, ...]
    labels: tuple[str, ...]
    image: NDArray[np.int64]  # (M,), position in `files`
    region: NDArray[np.int64]  # (M,), position in `regions`
    boxes: NDArray[np.float32]  # (M, 4), x1 y1 x2 y2
    values: NDArray[np.float32]  # (M, K)


def _read(path: Path, labels: str | Sequence[str] | None) -> _Listed:
    """Whichever of the two formats a file has."""
    content = read_json(path)
    try:
        listed = _records(content, path) if isinstance(content, list) else _coco(content, path, labels)
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise ValueError(
            f"{path}: neither a COCO file nor records of AnaXNet's converter ({type(error).__name__}: {error})"
        ) from error
    for names in (listed.ids, listed.files):
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise ValueError(f"{path} has the image {twice[0]} more than once")
    wrong = listed.values[~np.isnan(listed.values) & (listed.values != 0) & (listed.values != 1)]
    if len(wrong):
        raise ValueError(f"{path}: attributes must be 0, 1 or null, got {wrong[0]}")
    return listed


def _coco(content: dict[str, Any], path: Path, labels: str | Sequence[str] | None) -> _Listed:
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
    return _Listed(
        files,
        ids,
        patients,
        list(coco.sizes),
        coco.labels,
        names,
        coco.boxes.image.numpy(),
        coco.boxes.label.numpy(),
        coco.boxes.xyxy.numpy(),
        table(values, len(names), f"{path}: attributes").astype(np.float32),
    )


def _records(content: list[dict[str, Any]], path: Path) -> _Listed:
    regions, labels = label_sets.build("regions18"), label_sets.build("imagenome9")
    boxes = [(image, each) for image, record in enumerate(content) for each in record["annotations"]]
    category = table([[each["category_id"]] for _, each in boxes], 1, f"{path}: category_id")[:, 0]
    if not np.isin(category, range(len(regions))).all():
        raise IndexError(f"category_id from {category.min():g} to {category.max():g}, of {len(regions)} regions")
    xywh = torch.from_numpy(table([each["bbox"] for _, each in boxes], 4, f"{path}: bbox"))
    ids = [str(record["image_id"]) for record in content]
    return _Listed(
        [plain(str(record["file_name"]), path) for record in content],
        ids,
        ids,
        None,
        regions,
        labels,
        np.array([image for image, _ in boxes], np.int64),
        category.astype(np.int64),
        from_xywh(xywh, path).numpy(),
        table([each["attributes"] for _, each in boxes], len(labels), f"{path}: attributes").astype(np.float32),
    )
