"""Gold tables: boxes and attributes of 1,000 images of 500 patients, checked by annotators."""

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
    """Read the gold annotations, and the set of images that have attributes: the first study of each patient.

    Patient, study and view of the images come from ``utils/cxr-record-list_view.csv``, or from the list of images to
    avoid. Rows of the attribute table with ``relation`` 0 were rejected by the annotators and are left out.

    Raises
    ------
    FileNotFoundError
        A table is missing.
    ValueError
        A table is wrong (the message names file and line), or an image has no record.
    """
    boxes = _boxes(Table(_existing(root, _BOXES)))
    mentions = _mentions(Table(_existing(root, _ATTRIBUTES), delimiter="\t"))
    about = _records(Table(_existing(root, *_RECORDS)), boxes)
    names, lost = list(mentions), "their findings are left out"
    check_joined(names, [image in boxes for image in names], list(boxes), root / _BOXES, "images", lost=lost)
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
    """Return regions and corners of each image."""
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
    """Return (region, finding, True if it is affirmed) for each image."""
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
    """Return patient, study and view of each image."""
    rows = table.rows_of([_image(name) for name in table.column("dicom_id")], list(images), "gold images")
    columns = (*patients_and_studies(table), table.column("ViewPosition"))
    patients, studies, views = ([column[row] for row in rows] for column in columns)
    return dict(zip(images, zip(patients, studies, views, strict=True), strict=True))


def _image(image: str) -> str:
    return image.removesuffix(".dcm")
