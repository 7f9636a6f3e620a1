"""Boxes in COCO JSON, the file format of object detection."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch

from thoraxlib.localization.boxes import Boxes, check_indices, from_xywh, within
from thoraxlib.utils.arrays import table
from thoraxlib.utils.files import read_json, replacing, write_json


class CocoBoxes(NamedTuple):
    """Content of a COCO file.

    Attributes
    ----------
    boxes : Boxes
        In each image's pixels; scores are 1 if the file has none.
    labels, ids : tuple of str
        Names of the categories, and file names of the images.
    sizes : tuple of (int, int)
        (H, W) of each image.
    """

    boxes: Boxes
    labels: tuple[str, ...]
    ids: tuple[str, ...]
    sizes: tuple[tuple[int, int], ...]


def to_coco(
    boxes: Boxes, labels: Sequence[str], ids: Sequence[str], sizes: Sequence[tuple[int, int]]
) -> dict[str, Any]:
    """Convert boxes to COCO's images, categories and annotations.

    ``["annotations"]`` alone is COCO's format of detections.

    Parameters
    ----------
    boxes : Boxes
        True or detected boxes, in each image's own pixels.
    labels : sequence of str
        Names of the labels; category k + 1 is label k.
    ids : sequence of str
        File name of each image.
    sizes : sequence of (int, int)
        (H, W) of each image.

    Raises
    ------
    ValueError
        `ids` and `sizes` of different lengths; an index beyond `ids` or `labels`; a box that leaves its image, or whose
        x2 < x1 or y2 < y1.
    """
    if len(ids) != len(sizes):
        raise ValueError(f"{len(ids)} ids, but {len(sizes)} sizes")
    check_indices("images of the boxes", boxes.image, len(ids))
    check_indices("labels of the boxes", boxes.label, len(labels))
    limit = torch.tensor([[w, h] for h, w in sizes], dtype=torch.float32).reshape(-1, 2)[boxes.image]
    low, high = boxes.xyxy[:, :2], boxes.xyxy[:, 2:]
    wrong = ((low < -0.5) | (high > limit + 0.5) | (high < low)).any(dim=1).nonzero().flatten().tolist()
    if wrong:
        image = int(boxes.image[wrong[0]])
        raise ValueError(
            f"{len(wrong)} boxes leave their image or have x2 < x1 or y2 < y1; the first is "
            f"{boxes.xyxy[wrong[0]].tolist()} in {ids[image]}, {sizes[image][0]} x {sizes[image][1]} pixels"
        )
    rows = zip(*(column.tolist() for column in boxes), strict=True)
    return {
        "images": [
            {"id": k + 1, "file_name": name, "height": h, "width": w}
            for k, (name, (h, w)) in enumerate(zip(ids, sizes, strict=True))
        ],
        "categories": [{"id": k + 1, "name": name} for k, name in enumerate(labels)],
        "annotations": [
            {
                "id": number + 1,
                "image_id": image + 1,
                "category_id": label + 1,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": (x2 - x1) * (y2 - y1),
                "iscrowd": 0,
                "score": score,
            }
            for number, ((x1, y1, x2, y2), image, label, score) in enumerate(rows)
        ],
    }


def save_coco(
    path: str | os.PathLike[str],
    boxes: Boxes,
    labels: Sequence[str],
    ids: Sequence[str],
    sizes: Sequence[tuple[int, int]],
) -> None:
    """Write :func:`to_coco` to a file, atomically."""
    write_json(path, to_coco(boxes, labels, ids, sizes))


def join_coco(parts: Sequence[str | os.PathLike[str]], path: str | os.PathLike[str]) -> None:
    """Join several files written by :func:`save_coco` with the same labels, with one of them in memory at a time."""

    def rows(key: str) -> Iterator[str]:
        images = boxes = 0
        for part in parts:
            content = read_json(part)
            for row in content[key]:
                moved = {"id": row["id"] + images} if key == "images" else {}
                if key == "annotations":
                    moved = {"id": row["id"] + boxes, "image_id": row["image_id"] + images}
                yield json.dumps({**row, **moved})
            images, boxes = images + len(content["images"]), boxes + len(content["annotations"])

    with replacing(path) as scratch, scratch.open("w", encoding="utf-8") as file:
        file.write(f'{{"categories": {json.dumps(read_json(parts[0])["categories"])}')
        for key in ("images", "annotations"):
            file.write(f',\n"{key}": [')
            for number, row in enumerate(rows(key)):
                file.write(f"{', ' if number else ''}{row}")
            file.write("]")
        file.write("}\n")


def read_coco(path: str | os.PathLike[str]) -> CocoBoxes:
    """Read boxes from a COCO file of true boxes, or of detections with their images.

    Raises
    ------
    FileNotFoundError
        No such file.
    ValueError
        Not JSON, or content that :func:`from_coco` refuses.

    Warns
    -----
    UserWarning
        As :func:`from_coco`.
    """
    return from_coco(read_json(path), str(path))


def from_coco(content: Any, source: str) -> CocoBoxes:
    """Read boxes from the content of a COCO file, e.g. the result of :func:`to_coco`; `source` is its name in messages.

    Raises
    ------
    ValueError
        An entry is missing or of another type, an annotation names an unknown image or category, an id is not unique,
        or a box is not finite or has a width or height below 0.

    Warns
    -----
    UserWarning
        Boxes without area or outside their image were dropped, or boxes that leave it by more than half a pixel were
        clipped; with their numbers.
    """
    coco = every_annotation(content, source)
    sizes = torch.tensor(coco.sizes, dtype=torch.float32).reshape(-1, 2)[coco.boxes.image]
    xyxy, kept = within(coco.boxes.xyxy, sizes, source)
    return coco._replace(boxes=coco.boxes.where(kept)._replace(xyxy=xyxy))


def every_annotation(content: Any, source: str) -> CocoBoxes:
    """Read the boxes of all annotations unchanged, also those without area or outside their image.

    Raises
    ------
    ValueError
        As :func:`from_coco`.
    """
    try:
        images, categories, annotations = (content[key] for key in ("images", "categories", "annotations"))
        position = {image["id"]: k for k, image in enumerate(images)}
        label = {category["id"]: k for k, category in enumerate(categories)}
        for key, known in (("image_id", position), ("category_id", label)):
            lost = [each[key] for each in annotations if each[key] not in known]
            if lost:
                raise ValueError(f"{len(lost)} annotations have a {key} that is not there, the first is {lost[0]!r}")
        boxes = Boxes(
            torch.from_numpy(table([each["bbox"] for each in annotations], 4, "bbox")),
            torch.tensor([position[each["image_id"]] for each in annotations], dtype=torch.long),
            torch.tensor([label[each["category_id"]] for each in annotations], dtype=torch.long),
            torch.from_numpy(table([[each.get("score", 1.0)] for each in annotations], 1, "score")).float()[:, 0],
        )
        sizes = tuple((int(image["height"]), int(image["width"])) for image in images)
        ids = tuple(str(image["file_name"]) for image in images)
        labels = tuple(str(category["name"]) for category in categories)
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise ValueError(f"{source}: no COCO file of boxes ({type(error).__name__}: {error})") from error
    for name, known, entries in (("images", position, images), ("categories", label, categories)):
        if len(known) < len(entries):
            raise ValueError(f"{source}: two {name} have one id")
    if not all(side > 0 for size in sizes for side in size):
        raise ValueError(f"{source}: height and width of an image must be above 0")
    return CocoBoxes(boxes._replace(xyxy=from_xywh(boxes.xyxy, source)), labels, ids, sizes)
