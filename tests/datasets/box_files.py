"""Files of boxes in small, one for each reader, for tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image

from thoraxlib import datasets, localization
from thoraxlib.datasets.nih14 import NIH14

GOOD = [2.0, 3.0, 20.0, 10.0]  # x y width height, in an image of 40 x 30 pixels


def image(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    Image.new("L", (40, 30)).save(folder / "a.png")


def annotation(box: Any, **changes: Any) -> dict[str, Any]:
    return {"id": 1, "image_id": 7, "category_id": 3, "bbox": box, **changes}


def coco(path: Path, boxes: list[Any], **changes: Any) -> Path:
    content = {
        "images": [{"id": 7, "file_name": "a.png", "height": 30, "width": 40}],
        "categories": [{"id": 3, "name": "right lung"}, {"id": 4, "name": "trachea"}],
        "annotations": [
            annotation(box, **{"id": k, "category_id": 3 + k, **(changes if k else {})}) for k, box in enumerate(boxes)
        ],
    }
    path.write_text(json.dumps(content))
    return path


def of_coco(folder: Path, boxes: list[Any], **changes: Any) -> list[list[float]]:
    return localization.read_coco(coco(folder / "x.json", boxes, **changes)).boxes.xyxy.tolist()


def of_region_coco(folder: Path, boxes: list[Any], **changes: Any) -> list[list[float]]:
    image(folder)
    path = coco(folder / "x.json", boxes, **changes)
    images = datasets.build("region_coco", annotations=path, images=folder, progress=False)
    return images.region_boxes[images.region_present].tolist()


def of_records(folder: Path, boxes: list[Any], **changes: Any) -> list[list[float]]:
    image(folder)
    found = [
        annotation(box, **{"category_id": k, "attributes": [1] * 9, **(changes if k else {})})
        for k, box in enumerate(boxes)
    ]
    record = {"image_id": "a", "file_name": "a.png", "annotations": found}
    (folder / "x.json").write_text(json.dumps([record]))
    images = datasets.build("region_coco", annotations=folder / "x.json", images=folder, progress=False)
    return images.region_boxes[images.region_present].tolist()


def of_nih14(folder: Path, boxes: list[Any], *, name: str = "a.png", finding: str = "Mass") -> list[list[float]]:
    image(folder / "images")
    (folder / "labels.csv").write_text("Image Index,Finding Labels,Patient ID,View Position\na.png,Mass,1,PA\n")
    frame = [1024 / 40, 1024 / 30] * 2  # the release's boxes are in pixels of 1024 x 1024
    lines = ["Image Index,Finding Label,Bbox [x,y,w,h],,,"]
    for k, box in enumerate(boxes):
        numbers = ",".join(str(value * scale) for value, scale in zip(box, frame, strict=False))
        lines.append(f"{name if k else 'a.png'},{finding if k else 'Mass'},{numbers}")
    (folder / "bbox.csv").write_text("\n".join(lines) + "\n")
    sample = NIH14(root=folder, split="all")[0]
    return [[round(value, 3) for value in box] for box in sample["boxes"].tolist()]


READERS = {"x.json": (of_coco, of_region_coco, of_records), "bbox.csv": (of_nih14,)}
