"""The gold tables: boxes and attributes that people checked, of 1,000 images of 500 patients."""

from __future__ import annotations

import math
from pathlib import Path

from thoraxlib.datasets.chest_imagenome.annotations import Annotations, Collector
from thoraxlib.datasets.mimic_cxr import patients_and_studies
from thoraxlib.datasets.tables import Table, check_joined, is_blank

_BOXES = "gold_dataset/gold_bbox_coordinate_annotations_1000images.csv"
_ATTRIBUTES = "gold_dataset/gold_object_attribute_with_coordinates.txt"
_RECORDS = ("utils/cxr-record-list_view.csv", "silver_dataset/splits/images_to_avoid.csv")
_CORNERS = ("original_x1", "original_y1", "original_x2", "original_y2")


def read_gold(root: Path) -> tuple[Annotations, set[str]]:
    """The gold annotations, and which images have attributes: the first study of each patient.

    Whose images they are and how they were taken is told by ``utils/cxr-record-list_view.csv``, or by the list of
    images to avoid. A row of the attribute table with ``relation`` 0 was rejected by the annotators and is left out.

    Raises
    ------
    FileNotFoundError
        A table is lacking.
    ValueError
        Naming file and line: a column or number that is lacking, a context that is neither yes nor no, an image without
        a record.
    """
    boxes = _boxes(Table(_existing(root, _BOXES)))
    mentions = _mentions(Table(_existing(root, _ATTRIBUTES), delimiter="\t"))
    about = _records(Table(_existing(root, *_RECORDS)), boxes)
    told = list(mentions)
    check_joined(
        told,
        [image in boxes for image in told],
        list(boxes),
        root / _BOXES,
        "images",
        lost="their findings are left out",
    )
    collector = Collector()
    for image, found in boxes.items():
        collector.add((image, *about[image]), found, mentions.get(image, ()))
    return collector.result(), set(mentions)


def _existing(root: Path, *names: str) -> Path:
    for name in names:
        if (root / name).is_file():
            return root / name
    raise FileNotFoundError(f"{root} has no {' or '.join(names)}, which the gold annotations need")


def _boxes(table: Table) -> dict[str, list[tuple[str, list[float]]]]:
    """For each image its regions and corners."""
    corners = [table.column(name) for name in _CORNERS]
    found: dict[str, list[tuple[str, list[float]]]] = {}
    for row, (image, region) in enumerate(zip(table.column("image_id"), table.column("bbox_name"), strict=True)):
        try:
            box = [math.nan if is_blank(column[row]) else float(column[row]) for column in corners]
        except ValueError as error:
            raise ValueError(f"{table.where(row)}: {error}") from error
        found.setdefault(_image(image), []).append((region.lower(), box))
    return found


def _mentions(table: Table) -> dict[str, list[tuple[str, str, bool]]]:
    """For each image its regions, findings, and whether they are affirmed."""
    names = [table.column(name) for name in ("image_id", "bbox", "label_name", "context")]
    relations = table.column("relation") if "relation" in table.columns else ["1"] * len(table.rows)
    found: dict[str, list[tuple[str, str, bool]]] = {}
    for row, (image, region, finding, context) in enumerate(zip(*names, strict=True)):
        mentions = found.setdefault(_image(image), [])
        if context not in ("yes", "no"):
            raise ValueError(f"{table.where(row)}: context must be yes or no, got {context!r}")
        if relations[row] not in ("0", "0.0"):
            mentions.append((region.lower(), finding.lower(), context == "yes"))
    return found


def _records(table: Table, images: dict[str, list[tuple[str, list[float]]]]) -> dict[str, tuple[str, str, str]]:
    """Patient, study and view of each image."""
    pictures = [_image(name) for name in table.column("dicom_id")]
    table.check_unique(pictures)
    rows = zip(pictures, *patients_and_studies(table), table.column("ViewPosition"), strict=True)
    about = {picture: (patient, study, view) for picture, patient, study, view in rows if picture in images}
    lacking = [image for image in images if image not in about]
    if lacking:
        raise ValueError(f"{table.path} lacks {len(lacking)} of {len(images)} gold images, the first is {lacking[0]}")
    return about


def _image(image: str) -> str:
    return image.removesuffix(".dcm")
