"""Boxes that no image can have, in every file of boxes: refused by the file's name, or left out with their number."""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))

from box_files import GOOD, READERS, annotation, image, of_coco, of_nih14, of_records, of_region_coco

from thoraxlib import datasets
from thoraxlib.datasets.nih14 import NIH14
from thoraxlib.datasets.regions import find_names

NAN, INF = float("nan"), float("inf")
EACH = [(read, name) for name, readers in READERS.items() for read in readers]
IDS = [read.__name__ for read, _ in EACH]


@pytest.mark.parametrize(("read", "name"), EACH, ids=IDS)
@pytest.mark.parametrize(
    "box",
    [[5, 5, -4, 3], [5, 5, 4, -3], [5, NAN, 4, 3], [5, 5, INF, 3], [-INF, 5, 4, 3], [5, 5, 4], [5, 5, 4, 1e300]],
    ids=str,
)
def test_what_is_no_box_is_refused(tmp_path: Path, read: Callable[..., Any], name: str, box: list[float]) -> None:
    with pytest.raises(ValueError, match=name):
        read(tmp_path, [GOOD, box])


@pytest.mark.parametrize(("read", "name"), EACH, ids=IDS)
@pytest.mark.parametrize(
    ("box", "told"),
    [
        ([5, 5, 0, 3], "1 boxes without area"),
        ([5, 5, 4, 0], "1 boxes without area"),
        ([50, 5, 4, 3], "1 boxes outside the image"),
        ([5, -9, 4, 3], "1 boxes outside the image"),
    ],
    ids=str,
)
def test_what_no_pixel_is_in_is_left_out(
    tmp_path: Path, read: Callable[..., Any], name: str, box: list[float], told: str
) -> None:
    with pytest.warns(UserWarning, match=told) as caught:
        assert read(tmp_path, [GOOD, box]) == [[2, 3, 22, 13]]
    assert len(caught) == 1


@pytest.mark.parametrize(("read", "name"), EACH, ids=IDS)
def test_what_leaves_the_image_is_cut_off(tmp_path: Path, read: Callable[..., Any], name: str) -> None:
    with pytest.warns(UserWarning, match="1 boxes cut off at the border"):
        assert read(tmp_path, [GOOD, [30, 20, 30, 5]])[1] == [30, 20, 40, 25]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read(tmp_path, [GOOD, [30, 20, 10, 5]]) == [[2, 3, 22, 13], [30, 20, 40, 25]]


@pytest.mark.parametrize(
    ("read", "changes", "message"),
    [
        (of_coco, {"image_id": 8}, r"x.json: .*1 annotations have a image_id that is not there, the first is 8"),
        (of_coco, {"category_id": 9}, r"x.json: .*1 annotations have a category_id that is not there, the first is 9"),
        (of_coco, {"image_id": None}, r"x.json: .*image_id that is not there, the first is None"),
        (of_region_coco, {"image_id": 8}, r"x.json: .*image_id that is not there, the first is 8"),
        (of_region_coco, {"category_id": "3"}, r"x.json: .*category_id that is not there, the first is '3'"),
        (of_records, {"category_id": 18}, r"x.json: .*category_id that is not there, the first is 18"),
        (of_records, {"category_id": -1}, r"x.json: .*category_id that is not there, the first is -1"),
        (of_nih14, {"finding": "Masses"}, r"bbox.csv:3: unknown label 'Masses'"),
    ],
)
def test_boxes_of_nothing_that_is_there(
    tmp_path: Path, read: Callable[..., Any], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        read(tmp_path, [GOOD, GOOD], **changes)


def test_boxes_of_images_that_the_table_lacks(tmp_path: Path) -> None:
    with pytest.warns(
        UserWarning, match=r"1 of 2 images of bbox.csv have no row in .*labels.csv, their boxes are left"
    ):
        assert of_nih14(tmp_path, [GOOD, GOOD], name="b.png") == [[2, 3, 22, 13]]
    text = (tmp_path / "bbox.csv").read_text()
    (tmp_path / "bbox.csv").write_text(text.replace("a.png", "c.png"))
    with pytest.raises(
        ValueError, match=r"labels.csv has a row for none of these images of bbox.csv; its ids are a.png"
    ):
        NIH14(root=tmp_path, split="all")


@pytest.mark.parametrize("value", [NAN, INF])
def test_features_with_boxes_that_are_none(tmp_path: Path, value: float) -> None:
    content = {
        "objects": ["trachea"],
        "features": [[1.0]] * 18,
        "bbox": [[1.0, 2.0, value, 5.0]],
        "target": [[0] * 9],
        "image_id": "a",
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"a.json is no feature file of AnaXNet: .*bbox: finite numbers"):
        datasets.read_anaxnet_features(tmp_path / "a.json")


# -- one image, however its path is written ---------------------------------------------------------------------------


def two_images(folder: Path, *names: str) -> Path:
    (folder / "x").mkdir(exist_ok=True)
    Image.new("L", (40, 30)).save(folder / "x/a.png")
    content = {
        "images": [
            {"id": k, "dicom_id": f"image{k}", "file_name": name, "height": 30, "width": 40}
            for k, name in enumerate(names)
        ],
        "categories": [{"id": 0, "name": "trachea"}],
        "annotations": [annotation(GOOD, image_id=0, category_id=0)],
    }
    (folder / "x.json").write_text(json.dumps(content))
    return folder / "x.json"


@pytest.mark.parametrize("spelling", ["x/a.png", "x/./a.png", "./x/a.png", "x//a.png", "x\\a.png", ".\\x\\a.png"])
def test_paths_of_one_image(tmp_path: Path, spelling: str) -> None:
    path = two_images(tmp_path, spelling)
    images = datasets.build("region_coco", annotations=path, images=tmp_path)
    assert images.file_names == ["x/a.png"]
    assert images[0]["image"].shape == (1, 30, 40)
    with pytest.raises(ValueError, match=r"x.json has the image x/a.png more than once"):
        datasets.build("region_coco", annotations=two_images(tmp_path, "x/a.png", spelling), images=tmp_path)


# -- many names --------------------------------------------------------------------------------------------------------


def test_many_images_of_a_coco_file(tmp_path: Path) -> None:
    """100,000 images of which the last two have one name: a search for each among all would take minutes."""
    n = 100_000
    path = two_images(tmp_path, *(f"x/{k}.png" for k in range(n)), "x/last.png", "x/last.png")
    begun = time.perf_counter()
    with pytest.raises(ValueError, match=r"has the image x/last.png more than once"):
        datasets.build("region_coco", annotations=path, images=tmp_path)
    assert time.perf_counter() - begun < 30


def test_many_regions() -> None:
    names = [f"region {k}" for k in range(100_000)]
    begun = time.perf_counter()
    assert find_names(names, names, "regions", "x.json") == list(range(len(names)))
    assert time.perf_counter() - begun < 30
    with pytest.raises(ValueError, match="'region 5', 'Region_5' are the same to x.json"):
        find_names(["region 5", "Region_5"], names, "regions", "x.json")


# -- parts that must be apart ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("split", "other"),
    [
        ("train", "val_list.txt"),
        ("train", "test_list.txt"),
        ("val", "train_list.txt"),
        ("test", "train_val_list.txt"),
        ("train_val", "test_list.txt"),
        ("train_1.txt", "test_1.txt"),
        ("binary_val", "binary_test.txt"),
    ],
)
def test_an_image_in_the_lists_of_two_parts(tmp_path: Path, split: str, other: str) -> None:
    image(tmp_path / "images")
    Image.new("L", (40, 30)).save(tmp_path / "images/b.png")
    rows = ["a.png,Mass,1,PA", "b.png,Mass,2,PA"]
    (tmp_path / "labels.csv").write_text("\n".join(["Image Index,Finding Labels,Patient ID,View Position", *rows]))
    own = tmp_path / (split if split.endswith(".txt") else f"{split}_list.txt")
    own = own if not split.startswith("binary") else tmp_path / f"{split}.txt"
    own.write_text("a.png\n")
    (tmp_path / other).write_text("b.png\n")
    assert NIH14(root=tmp_path, split=split).ids == ["a.png"]
    (tmp_path / other).write_text("b.png\nimages/a.png\n")
    with pytest.raises(ValueError, match=rf"1 images of .*{own.name} are in .*{other} as well, the first is a.png"):
        NIH14(root=tmp_path, split=split)


def test_parts_drawn_from_a_list_that_the_test_list_shares(tmp_path: Path) -> None:
    image(tmp_path / "images")
    (tmp_path / "labels.csv").write_text("Image Index,Finding Labels,Patient ID,View Position\na.png,Mass,1,PA\n")
    for name in ("train_val", "test"):
        (tmp_path / f"{name}_list.txt").write_text("a.png\n")
    with pytest.raises(ValueError, match=r"1 images of .*train_val_list.txt are in .*test_list.txt as well"):
        NIH14(root=tmp_path, split="train")


def test_boxes_that_a_detector_is_given(tmp_path: Path) -> None:
    from thoraxlib import detection
    from thoraxlib.detection.reading import batches

    detector = detection.build(
        "template", regions=["trachea", "carina"], backbone="resnet10t", in_chans=1, input_spec={"size": 32}
    )
    boxes = torch.tensor([[1.0, 2.0, 9.0, 8.0], [1.0, 2.0, NAN, 8.0]])
    sample = {"image": torch.zeros(1, 32, 32, dtype=torch.uint8), "labels": torch.zeros(0), "id": "x"}

    class Images:
        labels, region_names = (), ("trachea", "carina")

        def __init__(self, present: list[bool]) -> None:
            self.present = torch.tensor(present)

        def __len__(self) -> int:
            return 1

        def __getitem__(self, index: int) -> dict[str, Any]:
            return {**sample, "regions": boxes, "present": self.present}

    (read,) = batches(detector, Images([True, False]))
    assert read["present"].tolist() == [[True, False]]
    with pytest.raises(ValueError, match="image x: boxes of regions that are present must be finite"):
        list(batches(detector, Images([True, True])))
