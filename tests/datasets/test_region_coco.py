"""Regions to COCO files and back, and their statistics."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from thoraxlib import datasets
from thoraxlib import labels as label_sets

LABELS = ["pleural effusion", "lung opacity", "enlarged cardiac silhouette"]


@pytest.fixture(scope="module")
def synthetic() -> datasets.ChestDataset:
    return datasets.build("synthetic", size=64, length=12, balance=1.0, labels=LABELS, masks=False)


@pytest.fixture(scope="module")
def folder(synthetic: datasets.ChestDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Synthetic images as files, and their regions as COCO."""
    root = tmp_path_factory.mktemp("coco")
    for index in range(len(synthetic)):
        sample = synthetic[index]
        Image.fromarray(sample["image"][0].numpy()).save(root / f"{sample['id']}.png")
    datasets.save_coco(root / "regions.json", synthetic, split="train")
    return root


def test_there_and_back(synthetic: datasets.ChestDataset, folder: Path) -> None:
    images = datasets.build("region_coco", annotations=folder / "regions.json", images=folder)
    assert isinstance(images, datasets.ChestDataset)
    assert (images.ids, images.patient_ids) == (synthetic.ids, synthetic.patient_ids)
    assert (list(images.labels), images.region_names) == (LABELS, synthetic.region_names)
    assert images.region_targets[:, :, 1].isnan().all()
    for index in range(len(synthetic)):
        one, other = synthetic[index], images[index]
        assert torch.equal(one["image"], other["image"])
        assert torch.equal(one["present"], other["present"])
        assert (one["regions"] - other["regions"]).abs().max() < 1e-4
        for key in ("region_labels", "labels"):
            np.testing.assert_array_equal(one[key], other[key])


def test_other_regions_and_labels_by_name(folder: Path) -> None:
    whole = datasets.build("region_coco", annotations=folder / "regions.json", images=folder)
    part = datasets.build(
        "region_coco",
        annotations=folder / "regions.json",
        images=folder,
        regions=["trachea", "left lung"],
        labels=["Cardiomegaly", "Effusion"],
    )
    assert torch.equal(part.region_boxes, whole.region_boxes[:, [17, 7]])
    assert torch.equal(part.region_targets, whole.region_targets[:, [17, 7]][:, :, [2, 0]])
    assert part.region_targets[:, 1, 1].any()
    for argument, name in (("regions", "left lunge"), ("labels", "effusio")):
        with pytest.raises(ValueError, match=rf"{argument}: '{name}' not known to .*regions.json; did you mean"):
            datasets.build("region_coco", annotations=folder / "regions.json", images=folder, **{argument: [name]})


def test_the_content(synthetic: datasets.ChestDataset) -> None:
    content = datasets.to_coco(synthetic, split="valid", first_category=0)
    assert [image["split"] for image in content["images"]] == ["valid"] * len(synthetic)
    assert content["images"][1] | {"id": 0} == {
        "id": 0,
        "file_name": f"{synthetic.ids[1]}.png",
        "height": 64,
        "width": 64,
        "dicom_id": synthetic.ids[1],
        "patient_id": synthetic.patient_ids[1],
        "view": synthetic.views[1],
        "split": "valid",
    }
    ids = [each["id"] for each in content["annotations"]]
    assert sorted(set(ids)) == sorted(ids)
    assert content["info"]["attributes"] == LABELS
    assert [each["name"] for each in content["categories"]] == list(synthetic.region_names)
    assert [each["id"] for each in content["categories"]] == list(range(18))
    table = datasets.read_regions(synthetic)
    for each in content["annotations"]:
        image, region = each["image_id"] - 1, each["category_id"]
        x, y, w, h = each["bbox"]
        assert each["area"] == pytest.approx(w * h)
        assert each["iscrowd"] == 0
        assert each["object_id"] == f"{synthetic.ids[image]}_{synthetic.region_names[region]}"
        assert torch.allclose(table.boxes[image, region], torch.tensor([x, y, x + w, y + h]), atol=1e-4)
        wanted = [None if value != value else value for value in table.targets[image, region].tolist()]
        assert each["attributes"] == wanted
        assert each["attributes"][1] is None
    json.dumps(content, allow_nan=False)


def test_pycocotools_loads_it(folder: Path) -> None:
    coco_module = pytest.importorskip("pycocotools.coco")
    evaluation = pytest.importorskip("pycocotools.cocoeval")
    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco_module.COCO(str(folder / "regions.json"))
        detections = [{**each, "score": 0.9} for each in truth.dataset["annotations"]]
        result = evaluation.COCOeval(truth, truth.loadRes(detections), "bbox")
        result.evaluate()
        result.accumulate()
        result.summarize()
    assert result.stats[0] == pytest.approx(1)
    assert len(truth.getCatIds()) == 18


def test_a_data_set_with_files_is_not_decoded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = datasets.build(
        "region_coco", annotations=folder / "regions.json", images=folder, transform=lambda sample: {}
    )
    monkeypatch.setattr("thoraxlib.datasets.base.read", None)
    part = datasets.Subset(images, [3, 1])
    content = datasets.to_coco(part)
    assert [image["file_name"] for image in content["images"]] == [f"{images.ids[k]}.png" for k in (3, 1)]
    assert content["info"]["attributes"] == LABELS


def test_a_plain_coco_file(tmp_path: Path) -> None:
    """Without attributes, with files in folders, an image without objects, and dirt."""
    for name in ("a/x.png", "b/c/y.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (40, 30)).save(tmp_path / name)
    content = {
        "images": [
            {"id": 7, "file_name": "a/x.png", "height": 30, "width": 40},
            {"id": 3, "file_name": "b/c/y.png", "height": 30, "width": 40},
        ],
        "categories": [{"id": 5, "name": "heart"}, {"id": 1, "name": "spine"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 1, "bbox": [30, 5, 20, 10]},
            {"id": 2, "image_id": 7, "category_id": 1, "bbox": [1, 1, 5, 5]},
            {"id": 3, "image_id": 7, "category_id": 5, "bbox": [1, 1, 0, 5]},
        ],
    }
    path = tmp_path / "plain.json"

    def build(**options: Any) -> Any:
        path.write_text(json.dumps(content))
        return datasets.build("region_coco", annotations=path, images=tmp_path, **options)

    with pytest.warns(UserWarning, match="RegionCoco, left out or changed: 1 boxes without area, 1 boxes of a region"):
        images = build()
    assert images.region_names == ("heart", "spine")
    assert images.labels == ()
    assert (images.targets.shape, images.region_targets.shape) == ((2, 0), (2, 2, 0))
    assert images.region_present.tolist() == [[False, True], [False, False]]
    assert images[0]["regions"].tolist() == [[0, 0, 0, 0], [30, 5, 40, 15]]
    assert images.ids == images.patient_ids == ["a/x", "b/c/y"]

    for each in content["annotations"]:
        each["attributes"] = [1, None]
    with pytest.raises(ValueError, match=r"has 2 attributes without names; labels must say what they are"):
        build()
    with pytest.warns(UserWarning, match="left out"):
        assert build(labels=["a", "b"]).region_targets[0, 1].nan_to_num(9).tolist() == [1, 9]
    with pytest.raises(ValueError, match=r"annotations have 2 attributes, but there are 3 names"):
        build(labels=["a", "b", "c"])
    content["annotations"][0]["attributes"] = [1, 2]
    with pytest.raises(ValueError, match="attributes must be 0, 1 or null, got 2"):
        build(labels=["a", "b"])
    content["annotations"][0]["attributes"] = [1]
    with pytest.raises(ValueError, match=r"different numbers of attributes: \[1, 2\]"):
        build()
    content["images"][1]["file_name"] = "../z.png"
    del content["annotations"][:]
    with pytest.raises(ValueError, match=r"'../z.png' is no path below"):
        build()
    content["images"][1]["file_name"] = "a/x.png"
    with pytest.raises(ValueError, match="has the image a/x more than once"):
        build()
    content["images"][1]["file_name"] = "a/z.png"
    with pytest.raises(FileNotFoundError, match=r"1 of 2 images are missing.*a/z.png"):
        build()
    with pytest.warns(UserWarning, match="1 of 2 images"):
        assert build(missing="skip").ids == ["a/x"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no JSON file"),
        ("{}", "no COCO file of boxes"),
        ("3", "no COCO file of boxes"),
        ('[{"image_id": "x"}]', "neither a COCO file nor records.*annotations"),
        (
            '[{"image_id": "x", "file_name": "x.png", "annotations": '
            '[{"category_id": 18, "bbox": [1, 1, 2, 2], "attributes": [0,0,0,0,0,0,0,0,0]}]}]',
            "category_id that is not there, the first is 18",
        ),
    ],
)
def test_other_files(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        datasets.build("region_coco", annotations=tmp_path / "x.json", images=tmp_path)


def test_only_data_sets_with_regions() -> None:
    images = torch.utils.data.TensorDataset(torch.zeros(1))
    for verb in (datasets.to_coco, datasets.to_detectron2, datasets.region_statistics, datasets.read_regions):
        with pytest.raises(ValueError, match="dataset must have region_names, TensorDataset has none"):
            verb(images)


def test_statistics(synthetic: datasets.ChestDataset, folder: Path) -> None:
    images = datasets.build("region_coco", annotations=folder / "regions.json", images=folder)
    for each in (synthetic, images):
        counts = datasets.region_statistics(each)
        assert (counts.images, counts.complete) == (12, 12)
        assert counts.present.tolist() == [12] * 18
        assert counts.known[:, 1].sum() == 0
        assert counts.positives[16, 2] == synthetic.targets[:, 2].sum() > 0
        assert counts.by_label.tolist() == images.region_targets.nansum(dim=(0, 1)).tolist()
        assert counts.by_region.tolist() == images.region_targets.nansum(dim=(0, 2)).tolist()
        lines = str(counts).splitlines()
        assert lines[0] == "12 images, 12 with all 18 regions; positives:"
        assert lines[2].split() == ["right", "lung", "12", *map(str, counts.positives[0].tolist())]
        assert lines[-1].split()[2:] == [str(12 * 18), *map(str, counts.by_label.tolist())]
    images.region_present[0, 3] = False
    images.region_targets[0, 3] = torch.nan
    less = datasets.region_statistics(images)
    assert (less.complete, int(less.present[3]), int(less.known[3, 0])) == (11, 11, 11)
    assert less.labels == label_sets.resolve(LABELS)
