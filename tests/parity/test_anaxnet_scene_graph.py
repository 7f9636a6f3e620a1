"""Scene graphs to records as AnaXNet's converter makes them, and its own file with its repeated annotations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from formulas import load_record
from PIL import Image

from thoraxlib import datasets
from thoraxlib.datasets.chest_imagenome.scene_graphs import SceneGraphFiles, parse

RECORD = load_record("anaxnet_scene_graph.json")
EXPECTED: list[dict[str, Any]] = RECORD["outputs"]["deduplicated/annotations"]
SIZE = (3000, 2600)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for name, content in RECORD["input"]["files"].items():
        (tmp_path / name).write_text(json.dumps(content))
    Image.new("L", SIZE[::-1]).save(tmp_path / f"{EXPECTED[0]['image_id']}.jpg")
    return tmp_path


def test_boxes_are_read_as_they_are(images: Path) -> None:
    read = parse(SceneGraphFiles(images), progress=False)
    boxes = {read.regions[region]: box for region, box in zip(read.box_region, read.boxes, strict=True)}
    for each in EXPECTED:
        x1, y1, x2, y2 = boxes[each["id"].partition("_")[2]].tolist()
        assert [x1, y1, x2 - x1, y2 - y1] == each["bbox"]
    assert set(boxes) - {each["id"].partition("_")[2] for each in EXPECTED} == {"spine"}


@pytest.mark.filterwarnings("ignore:ChestImaGenome, left out")
def test_records_are_the_converter_s(images: Path) -> None:
    pictures = datasets.build("chest_imagenome", root=images, images=images, split="all", cache=False)
    (record,) = datasets.to_detectron2(pictures)
    assert record["file_name"] == f"{record['image_id']}.jpg"
    assert (record["height"], record["width"]) == SIZE
    found = {each["id"]: each for each in record["annotations"]}
    assert len(found) == len(record["annotations"]) == len(EXPECTED)
    for each in EXPECTED:
        ours = found[each["id"]]
        assert ours.keys() == each.keys()
        if each["bbox"][0] < 0:  # the converter does not cut boxes off
            x, y, w, h = each["bbox"]
            each = {**each, "bbox": [0, y, w + x, h]}
        assert ours == each


@pytest.mark.filterwarnings("ignore:RegionCoco, left out")
@pytest.mark.filterwarnings("ignore:ChestImaGenome, left out")
def test_the_converter_s_own_file_is_read(images: Path) -> None:
    original: list[dict[str, Any]] = RECORD["outputs"]["original/xray_coco_train.json"]
    copies = RECORD["outputs"]["original/copies_of_each_annotation"]
    plain = [{**original[0], "annotations": EXPECTED}]
    for name, content in (("copies", original), ("plain", plain)):
        (images / f"{name}.json").write_text(json.dumps(content))
    pictures = datasets.build("chest_imagenome", root=images, images=images, split="all", cache=False)
    read = {name: datasets.build("region_coco", annotations=images / f"{name}.json", images=images)
            for name in ("copies", "plain")}  # fmt: skip
    assert read["copies"].report["boxes of a region that has another"] == (copies - 1) * len(EXPECTED)
    assert read["plain"].report == {"boxes cut off at the border": 1}
    for each in read.values():
        assert (each.ids, each.sizes, each.region_names, each.labels) == (
            pictures.ids, pictures.sizes, pictures.region_names, pictures.labels)  # fmt: skip
        assert torch.equal(each.region_boxes, pictures.region_boxes)
        np.testing.assert_array_equal(each.region_targets, pictures.region_targets)
