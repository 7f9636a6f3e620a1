"""Chest ImaGenome's layout, written here in small."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import tv_tensors

from thoraxlib import datasets
from thoraxlib import labels as label_sets
from thoraxlib.datasets.chest_imagenome import scene_graphs
from thoraxlib.datasets.chest_imagenome.annotations import CONFLICTS, select_boxes, select_labels
from thoraxlib.datasets.chest_imagenome.scene_graphs import SceneGraphFiles, parse
from thoraxlib.images import transform_for
from thoraxlib.input_spec import InputSpec

REGIONS, FINDINGS = label_sets.build("regions18"), label_sets.build("imagenome9")
SIZE = (300, 200)  # H, W of the images
Sentence = Sequence[tuple[str, bool]]


def image(number: int) -> str:
    return f"{number:08x}-00000000-11111111-22222222-33333333"


def graph(
    number: int,
    boxes: dict[str, tuple[Any, ...]],
    sentences: dict[str, Sequence[Sentence]] | None = None,
    *,
    patient: int | None = None,
    view: str = "PA",
    relationships: Iterable[dict[str, Any]] = (),
) -> dict[str, Any]:
    """A scene graph: boxes and sentences by region."""
    image_id = image(number)
    corners = ("original_x1", "original_y1", "original_x2", "original_y2")
    return {
        "image_id": image_id,
        "viewpoint": view,
        "patient_id": 10_000_000 + (number if patient is None else patient),
        "study_id": 50_000_000 + number,
        "objects": [
            {"object_id": f"{image_id}_{name}", "bbox_name": name, **dict(zip(corners, box, strict=True))}
            for name, box in boxes.items()
        ],
        "attributes": [
            {
                "object_id": f"{image_id}_{name}",
                "bbox_name": name,
                "attributes": [
                    [f"anatomicalfinding|{'yes' if yes else 'no'}|{finding}" for finding, yes in sentence]
                    for sentence in said
                ],
            }
            for name, said in (sentences or {}).items()
        ],
        "relationships": list(relationships),
    }


def box_of(row: int) -> tuple[int, int, int, int]:
    return (10 + row, 20 + row, 60 + 2 * row, 90 + row)


ALL = {name: box_of(row) for row, name in enumerate(REGIONS)}


def write_graphs(root: Path, graphs: Sequence[dict[str, Any]], *, packed: bool = True) -> Path:
    silver = root / "silver_dataset"
    silver.mkdir(parents=True, exist_ok=True)
    files = {f"{each['image_id']}_SceneGraph.json": json.dumps(each) for each in graphs}
    if packed:
        with zipfile.ZipFile(silver / "scene_graph.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for name, text in files.items():
                archive.writestr(f"scene_graph/{name}", text)
            archive.writestr("__MACOSX/scene_graph/._x_SceneGraph.json", "not JSON")
    else:
        (silver / "scene_graph").mkdir()
        for name, text in files.items():
            (silver / "scene_graph" / name).write_text(text)
    return root


def write_images(folder: Path, graphs: Sequence[dict[str, Any]], *, tree: bool = False) -> Path:
    for each in graphs:
        patient, study = str(each["patient_id"]), str(each["study_id"])
        place = folder / f"files/p{patient[:2]}/p{patient}/s{study}" if tree else folder
        place.mkdir(parents=True, exist_ok=True)
        Image.new("L", SIZE[::-1], each["study_id"] % 200).save(place / f"{each['image_id']}.jpg")
    return folder


def write_list(root: Path, name: str, graphs: Sequence[dict[str, Any]]) -> None:
    rows = [
        f"{row},{each['patient_id']},{each['study_id']},{each['image_id']},files/x.dcm,{each['viewpoint']}"
        for row, each in enumerate(graphs)
    ]
    path = root / f"silver_dataset/splits/{name}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([",subject_id,study_id,dicom_id,path,ViewPosition", *rows]) + "\n")


def opened(root: Path, graphs: Sequence[dict[str, Any]], **options: Any) -> datasets.ChestDataset:
    """A data set of all these graphs, from nothing."""
    write_graphs(root, graphs)
    images = write_images(root / "jpg", graphs)
    return datasets.build("chest_imagenome", root=root, images=images, **{"split": "all", **options})


# -- samples -----------------------------------------------------------------------------------------------------------


def test_a_sample(tmp_path: Path) -> None:
    said = {
        "right lung": [[("lung opacity", True)], [("pneumothorax", False)]],
        "left lung": [[("pleural effusion", False)], [("pleural effusion", True), ("atelectasis", True)]],
        "left shoulder": [[("lung opacity", True)]],
        "trachea": [[("pneumonia", True)]],
    }
    some = {name: box for name, box in ALL.items() if name != "trachea"}
    images = opened(tmp_path, [graph(0, some, said, view="AP"), graph(1, ALL)])
    assert isinstance(images, datasets.ChestDataset)
    assert (images.labels, images.region_names, images.views) == (FINDINGS, REGIONS, ["AP", "PA"])
    assert images.patient_ids == ["10000000", "10000001"]
    assert images.report == {}
    sample = images[0]
    assert sample["id"] == image(0)
    assert isinstance(sample["regions"], tv_tensors.BoundingBoxes)
    assert sample["regions"].canvas_size == SIZE
    assert sample["regions"][:17].tolist() == [list(box) for box in list(ALL.values())[:17]]
    assert sample["regions"][17].tolist() == [0, 0, 0, 0]
    assert sample["present"].tolist() == [True] * 17 + [False]
    labels = sample["region_labels"]
    assert labels[17].isnan().all()
    assert [labels[:17].isnan().any(), labels[:17].sum()] == [False, 3]
    assert labels[0].nonzero().flatten().tolist() == [FINDINGS.index("lung opacity")]
    assert labels[7].nonzero().flatten().tolist() == [1, 2]
    # what is said of a region without a box is lost
    assert sample["labels"].tolist() == [1, 1, 1, 0, 0, 0, 0, 0, 0]
    assert torch.equal(images.region_targets[0].nan_to_num(9), labels.nan_to_num(9))
    assert torch.equal(images.region_present[0], sample["present"])
    batch = datasets.collate([images[0], images[1]])
    assert batch["region_labels"].shape == (2, 18, 9)
    assert batch["present"].dtype == torch.bool


@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
def test_boxes_follow_the_resized_image(tmp_path: Path, resize: str) -> None:
    """A bright block where a region is stays where its box is; lost and absent regions are not present."""
    each = graph(0, {"trachea": (40, 100, 120, 180), "mediastinum": (60, 0, 100, 8)}, {"trachea": []})
    write_graphs(tmp_path, [each])
    pixels = np.zeros(SIZE, np.uint8)
    pixels[100:180, 40:120] = 255
    (tmp_path / "png").mkdir()
    Image.fromarray(pixels).save(tmp_path / "png" / f"{image(0)}.png")
    spec = InputSpec(size=(60, 80), channels=1, mean=(0.0,), std=(1.0,), resize=resize)
    images = datasets.build(
        "chest_imagenome", root=tmp_path, images=tmp_path / "png", split="all", transform=transform_for(spec)
    )
    sample = images[0]
    row = REGIONS.index("trachea")
    bright = (sample["image"][0] > 0.5).nonzero()
    found = torch.cat([bright.amin(0).flip(0), bright.amax(0).flip(0) + 1])
    assert (sample["regions"][row] - found).abs().max() <= 1
    assert sample["present"].nonzero().flatten().tolist() == ([14, row] if resize != "crop" else [row])
    gone = ~sample["present"]
    assert not sample["regions"][gone].any()
    assert sample["region_labels"][gone].isnan().all()
    assert not sample["region_labels"][row].isnan().any()


# -- the parser against a plain one ------------------------------------------------------------------------------------


@st.composite
def worlds(draw: st.DrawFn) -> list[dict[str, Any]]:
    names = [*REGIONS[:4], "spine", "left arm"]
    findings = [*FINDINGS[:4], "scoliosis"]
    sentence = st.lists(st.tuples(st.sampled_from(findings), st.booleans()), max_size=3)
    said = st.dictionaries(st.sampled_from(names), st.lists(sentence, max_size=4))
    corner = st.integers(-20, 250)
    boxes = st.dictionaries(st.sampled_from(names), st.tuples(corner, corner, corner, corner))
    return [graph(k, draw(boxes), draw(said)) for k in range(draw(st.integers(1, 4)))]


def plainly(each: dict[str, Any], conflict: str) -> dict[tuple[str, str], float]:
    """Labels of one scene graph by region and finding, as one reads them."""
    mentions = defaultdict(list)
    for entry in each["attributes"]:
        for sentence in entry["attributes"]:
            for text in sentence:
                _, relation, finding = text.split("|")
                mentions[entry["bbox_name"], finding].append(relation == "yes")
    rule = {
        "last": lambda says: says[-1],
        "first": lambda says: says[0],
        "any": any,
        "majority": lambda says: says[-1] if 2 * sum(says) == len(says) else 2 * sum(says) > len(says),
    }[conflict]
    return {key: float(rule(says)) for key, says in mentions.items()}


@settings(max_examples=60, deadline=None)
@given(graphs=worlds(), conflict=st.sampled_from(CONFLICTS), shuffle=st.randoms(use_true_random=False))
def test_parser(tmp_path_factory: pytest.TempPathFactory, graphs: list[Any], conflict: str, shuffle: Any) -> None:
    asked_regions, asked_findings = ["spine", *REGIONS[:3]], ["scoliosis", *FINDINGS[:3]]

    def read(graphs: list[dict[str, Any]], packed: bool) -> tuple[Any, ...]:
        root = write_graphs(tmp_path_factory.mktemp("g"), graphs, packed=packed)
        found = parse(SceneGraphFiles.of_release(root), progress=False)
        assert found.ids == [image(k) for k in range(len(graphs))]
        places = [[names.index(n) if n in names else -1 for n in asked]
                  for names, asked in ((found.regions, asked_regions), (found.findings, asked_findings))]  # fmt: skip
        rows = np.arange(len(graphs))[::-1]
        labels = [
            select_labels(found, rows, *places, conflict=conflict, unmentioned=u) for u in ("negative", "missing")
        ]
        return (*select_boxes(found, rows, places[0]), *labels)

    boxes, listed, flat, doubled, negative, missing = read(graphs, packed=True)
    assert doubled == 0
    for each, box, there, zeros, unknown in zip(graphs[::-1], boxes, listed, negative, missing, strict=True):
        truth = plainly(each, conflict)
        given_boxes = {entry["bbox_name"]: [entry[f"original_{c}"] for c in ("x1", "y1", "x2", "y2")]
                       for entry in each["objects"]}  # fmt: skip
        for r, region in enumerate(asked_regions):
            x1, y1, x2, y2 = given_boxes.get(region, (0, 0, 0, 0))
            assert there[r] == (x2 > x1 and y2 > y1)
            assert box[r].tolist() == ([x1, y1, x2, y2] if there[r] else [0, 0, 0, 0])
            for k, finding in enumerate(asked_findings):
                assert zeros[r, k] == truth.get((region, finding), 0)
                assert unknown[r, k] == truth.get((region, finding), -1) or np.isnan(unknown[r, k])
                assert np.isnan(unknown[r, k]) == ((region, finding) not in truth)
    degenerate = sum(o["original_x2"] <= o["original_x1"] or o["original_y2"] <= o["original_y1"]
                     for each in graphs for o in each["objects"] if o["bbox_name"] in asked_regions)  # fmt: skip
    assert flat == degenerate

    # neither the order of entries and objects, nor the packing, nor the order of files matters
    again = [{**each, "attributes": shuffle.sample(each["attributes"], len(each["attributes"])),
              "objects": shuffle.sample(each["objects"], len(each["objects"]))} for each in graphs]  # fmt: skip
    shuffle.shuffle(again)
    for one, other in zip(read(graphs, packed=True), read(again, packed=False), strict=True):
        np.testing.assert_array_equal(one, other)


def test_labels_are_addressed_by_name(tmp_path: Path) -> None:
    """The order that is asked for is the order that comes: any shift of rows or columns would show."""
    said = {region: [[(FINDINGS[row % 9], True)]] for row, region in enumerate(REGIONS)}
    write_graphs(tmp_path, [graph(0, ALL, said)])
    images = write_images(tmp_path / "jpg", [graph(0, ALL)])
    whole = datasets.build("chest_imagenome", root=tmp_path, images=images, split="all")
    expected = torch.zeros(18, 9)
    expected[torch.arange(18), torch.arange(18) % 9] = 1
    assert torch.equal(whole.region_targets[0], expected)
    rows, columns = [5, 17, 0], [8, 2]
    part = datasets.build(
        "chest_imagenome",
        root=tmp_path,
        images=images,
        split="all",
        regions=[REGIONS[r] for r in rows],
        labels=[FINDINGS[k] for k in columns],
    )
    assert torch.equal(part.region_targets[0], expected[rows][:, columns])
    assert torch.equal(part.region_boxes[0], whole.region_boxes[0][rows])
    shifted = torch.roll(expected, 1, dims=1)
    assert not torch.equal(part.region_targets[0], shifted[rows][:, columns])


def test_other_sets_and_spellings(tmp_path: Path) -> None:
    names = label_sets.build("regions36")
    every = {name: box_of(row) for row, name in enumerate(names)}
    said = {"spine": [[("scoliosis", True)]], "aortic arch": [[("Tortuous Aorta", True)]]}
    write_graphs(tmp_path, [graph(0, every, said)])
    images = write_images(tmp_path / "jpg", [graph(0, every)])
    options = {"root": tmp_path, "images": images, "split": "all"}
    for name in ("regions29", "regions36"):
        pictures = datasets.build("chest_imagenome", **options, regions=name, labels=["scoliosis", "tortuous aorta"])
        assert pictures.region_present.all()
        assert pictures.region_boxes[0].tolist() == [list(every[region]) for region in pictures.region_names]
        hits = [pictures.region_names[r] for r in pictures.region_targets[0].sum(dim=1).nonzero().flatten().tolist()]
        assert sorted(hits) == ["aortic arch", "spine"]
    nih = datasets.build("chest_imagenome", **options, labels=["Effusion", "Cardiomegaly"])
    assert nih.region_targets.shape == (1, 18, 2)
    with pytest.raises(ValueError, match=r"'Effusion', 'pleural effusion' are the same"):
        datasets.build("chest_imagenome", **options, labels=["Effusion", "pleural effusion"])


def test_names_that_are_false_come_from_the_object_id(tmp_path: Path) -> None:
    each = graph(0, {"left lung": (1, 1, 50, 50)}, {"left lung": [[("pneumonia", True)]]})
    each["attributes"][0]["bbox_name"] = False
    images = opened(tmp_path, [each], regions=["left lung"], labels=["pneumonia"])
    assert images.region_targets.flatten().tolist() == [1]


# -- dirt --------------------------------------------------------------------------------------------------------------


def test_box_dirt_is_clipped_dropped_and_told(tmp_path: Path) -> None:
    height, width = SIZE
    boxes = {
        "right lung": (-12, 5, 40, 60),  # partly outside
        "left lung": (50, 5, width + 30, height + 1),
        "trachea": (10, 10, 10, 60),  # no area
        "mediastinum": (60, 60, 20, 20),  # inside out
        "right apical zone": (-40, 5, -2, 60),  # outside
        "left apical zone": (width, 5, width + 9, 60),
        "cardiac silhouette": (30, 30, None, 90),
        "upper mediastinum": (20, 20, 90, 90),
    }
    said = {name: [[("pneumonia", True)]] for name in boxes}
    each = graph(0, boxes, said)
    twice = dict(each["objects"][-1], original_x1=0)
    each["objects"].append(twice)
    with pytest.warns(UserWarning, match="ChestImaGenome, left out or changed: ") as caught:
        images = opened(tmp_path, [each])
    assert len(caught) == 1
    report = {
        "boxes without area": 3,
        "boxes of a region that has another": 1,
        "boxes cut off at the border": 2,
        "boxes outside the image": 2,
    }
    assert images.report == report
    assert all(f"{count} {reason}" in str(caught[0].message) for reason, count in report.items())
    found = {REGIONS[r]: images.region_boxes[0, r].tolist() for r in images.region_present[0].nonzero().flatten()}
    assert found == {
        "right lung": [0, 5, 40, 60],
        "left lung": [50, 5, width, height],
        "upper mediastinum": [20, 20, 90, 90],
    }
    assert images.region_targets[0].nansum() == 3
    assert (images.region_targets[0].isnan().all(dim=1) == ~images.region_present[0]).all()


def test_scene_graphs_without_boxes(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="1 without a box of these regions"):
        images = opened(tmp_path / "a", [graph(0, ALL), graph(1, {})])
    assert images.ids == [image(0)]
    with pytest.raises(ValueError, match=r"no image is left: .*'without a box of these regions': 1"):
        opened(tmp_path / "b", [graph(0, {"spine": (1, 1, 9, 9)})])
    broken = graph(0, ALL)
    del broken["objects"]
    with pytest.raises(ValueError, match=rf"{image(0)}_SceneGraph.json is no scene graph: KeyError: 'objects'"):
        opened(tmp_path / "c", [broken])


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"image_id": ', "is broken: "),
        ("[]", "holds a list, not a scene graph"),
        ("\udcff", "is broken: "),
        ('{"patient_id": 1, "study_id": 2, "viewpoint": "PA", "objects": [{}], "attributes": []}', "no scene graph"),
        (
            '{"patient_id": 1, "study_id": 2, "viewpoint": "PA", "objects": [], '
            '"attributes": [{"bbox_name": "spine", "attributes": [["disease|maybe|pneumonia"]]}]}',
            "'disease|maybe|pneumonia': yes or no is wanted",
        ),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, packed: bool, text: str, message: str) -> None:
    content, name = text.encode("utf-8", "surrogateescape"), f"{image(7)}_SceneGraph.json"
    root = write_graphs(tmp_path, [graph(0, ALL)], packed=packed)
    if packed:
        with zipfile.ZipFile(root / "silver_dataset/scene_graph.zip", "a") as archive:
            archive.writestr(name, content)
    else:
        (root / "silver_dataset/scene_graph" / name).write_bytes(content)
    images = write_images(tmp_path / "jpg", [graph(0, ALL)])
    with pytest.raises(ValueError) as error:
        datasets.build("chest_imagenome", root=root, images=images, split="all")
    assert name in str(error.value)
    assert message in str(error.value)
    assert not list(root.rglob("*.safetensors"))


def test_resized_copies_are_refused(tmp_path: Path) -> None:
    graphs = [graph(k, {name: tuple(10 * c for c in box) for name, box in ALL.items()}) for k in range(12)]
    with pytest.raises(ValueError, match="12 of 12 images have boxes that lie outside them: are the images resized"):
        opened(tmp_path, graphs)


def test_an_image_of_another_size_than_the_metadata(tmp_path: Path) -> None:
    graphs = [graph(0, ALL)]
    write_graphs(tmp_path, graphs)
    images = write_images(tmp_path / "jpg", graphs, tree=True)
    lines = ["dicom_id,Rows,Columns", f"{image(0)},{SIZE[0]},{SIZE[1]}"]
    (images / "mimic-cxr-2.0.0-metadata.csv").write_text("\n".join(lines))
    options = {"root": tmp_path, "images": images, "split": "all"}
    assert datasets.build("chest_imagenome", **options)[0]["present"].all()
    (images / "mimic-cxr-2.0.0-metadata.csv").write_text("\n".join(lines).replace("300", "3000"))
    with pytest.raises(ValueError, match=r"has 200 x 300 pixels, its boxes are for 200 x 3000"):
        datasets.build("chest_imagenome", **options)[0]
    (images / "mimic-cxr-2.0.0-metadata.csv").write_text("\n".join(lines).replace("300", ""))
    with pytest.raises(ValueError, match=r"metadata.csv: Rows and Columns must be numbers"):
        datasets.build("chest_imagenome", **options)
    (images / "mimic-cxr-2.0.0-metadata.csv").write_text("dicom_id,Rows,Columns\nx,1,1\n")
    with pytest.raises(ValueError, match=r"metadata.csv lacks 1 of 1 images, the first is 00000000-0"):
        datasets.build("chest_imagenome", **options)


# -- which images ------------------------------------------------------------------------------------------------------


def release(root: Path) -> list[dict[str, Any]]:
    """12 images of 12 patients: 6 train, 2 valid, 4 test; patient 0 is in the gold set."""
    graphs = [graph(k, ALL, {"right lung": [[("pneumonia", k % 2 == 0)]]}) for k in range(12)]
    write_graphs(root, graphs)
    for name, part in (("train", graphs[:6]), ("valid", graphs[6:8]), ("test", graphs[8:])):
        write_list(root, name, part)
    write_list(root, "images_to_avoid", [graphs[0], graph(99, {}, patient=8)])
    write_images(root / "mimic", graphs, tree=True)
    return graphs


def test_the_release_s_own_lists(tmp_path: Path) -> None:
    graphs = release(tmp_path)

    def ids(split: str) -> list[str]:
        return datasets.build("chest_imagenome", root=tmp_path, images=tmp_path / "mimic", split=split).ids

    with pytest.warns(UserWarning, match="1 of patients to avoid"):
        assert ids("train") == [image(k) for k in range(1, 6)]
    assert ids("val") == ids("valid") == [image(6), image(7)]
    assert ids("test") == [image(k) for k in range(8, 12)]  # the gold patients' images are for testing
    assert ids("all") == [image(k) for k in range(12)]
    (tmp_path / "silver_dataset/splits/images_to_avoid.csv").unlink()
    with pytest.warns(UserWarning, match="images_to_avoid.csv does not exist: the patients of the gold set may be"):
        assert len(ids("train")) == 6
    write_list(tmp_path, "images_to_avoid", graphs[:1])
    write_list(tmp_path, "valid", [*graphs[6:8], graph(50, ALL)])
    with pytest.warns(UserWarning, match="1 listed without a scene graph"):
        assert len(ids("valid")) == 2
    (tmp_path / "silver_dataset/splits/test.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"test.csv does not exist; split='all' needs no list"):
        ids("train")


@pytest.mark.parametrize("name", ["train", "images_to_avoid"])
@pytest.mark.filterwarnings("ignore:ChestImaGenome, left out")
def test_patients_of_a_list_are_those_of_the_scene_graphs(tmp_path: Path, name: str) -> None:
    """Else gold patients would be trained on, and no one told."""
    release(tmp_path)
    path = tmp_path / f"silver_dataset/splits/{name}.csv"
    options = {"root": tmp_path, "images": tmp_path / "mimic", "split": "train"}
    text = path.read_text()
    for written in ("10000000.0", "p10000000"):
        path.write_text(text.replace("10000000", written))
        assert datasets.build("chest_imagenome", **options).ids == [image(k) for k in range(1, 6)]
    path.write_text(text.replace("10000000", "7"))
    with pytest.raises(
        ValueError, match=rf"{name}.csv:2: {image(0)} belongs to patient 7 there, to 10000000 in its scene"
    ):
        datasets.build("chest_imagenome", **options)


@pytest.mark.filterwarnings("ignore:ChestImaGenome, left out")
def test_a_patient_is_in_one_part_only(tmp_path: Path) -> None:
    graphs = release(tmp_path)
    write_list(tmp_path, "test", [*graphs[8:], graphs[2], graphs[7]])
    options = {"root": tmp_path, "images": tmp_path / "mimic"}
    with pytest.warns(UserWarning, match=r"1 patients of train.csv are also in valid or test, e.g. 10000002"):
        train = datasets.build("chest_imagenome", **options, split="train")
    with pytest.warns(UserWarning, match=r"1 patients of valid.csv are also in test"):
        valid = datasets.build("chest_imagenome", **options, split="valid")
    test = datasets.build("chest_imagenome", **options, split="test")
    parts = [set(part.patient_ids) for part in (train, valid, test)]
    assert len(set.union(*parts)) == sum(map(len, parts)) == 11


def test_mimic_s_own_split(tmp_path: Path) -> None:
    graphs = release(tmp_path)
    parts = ["validate" if k == 11 else "test" if k < 3 else "train" for k in range(12)]
    lines = ["dicom_id,study_id,subject_id,split"]
    lines += [f"{g['image_id']},{g['study_id']},{g['patient_id']},{p}" for g, p in zip(graphs, parts, strict=True)]
    (tmp_path / "mimic/mimic-cxr-2.0.0-split.csv").write_text("\n".join(lines))
    options = {"root": tmp_path, "images": tmp_path / "mimic", "lists": "mimic"}
    found = {split: datasets.build("chest_imagenome", **options, split=split) for split in ("val", "test")}
    assert [found["val"].ids, found["test"].ids] == [[image(11)], [image(k) for k in range(3)]]
    with pytest.warns(UserWarning, match="1 of patients to avoid"):  # number 8
        train = datasets.build("chest_imagenome", **options, split="train")
    assert train.ids == [image(k) for k in range(3, 11) if k != 8]


def test_images_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = [graph(0, ALL)]
    write_graphs(tmp_path, graphs)
    monkeypatch.chdir(write_images(tmp_path / "jpg[1]", graphs))
    images = datasets.build("chest_imagenome", root="..", images=".", split="all")
    assert images.file_names == [f"{image(0)}.jpg"]
    assert images[0]["present"].all()


def test_views(tmp_path: Path) -> None:
    graphs = [graph(k, ALL, view=view) for k, view in enumerate(["PA", "AP", "LATERAL", "AP", ""])]
    with pytest.warns(UserWarning, match="1 of the view LATERAL, 1 of the view unknown"):
        frontal = opened(tmp_path, graphs)
    assert frontal.views == ["PA", "AP", "AP"]
    options = {"root": tmp_path, "images": tmp_path / "jpg", "split": "all"}
    assert len(datasets.build("chest_imagenome", **options, views=None)) == 5
    with pytest.warns(UserWarning, match="2 of the view AP"):
        assert datasets.build("chest_imagenome", **options, views=["PA"]).views == ["PA"]
    with pytest.raises(ValueError, match=r"views must name some of \['', 'AP', 'Frontal', 'LATERAL', 'PA'\], got 'LL'"):
        datasets.build("chest_imagenome", **options, views="LL")


def test_the_official_tree_and_missing_images(tmp_path: Path) -> None:
    graphs = release(tmp_path)
    options = {"root": tmp_path, "images": tmp_path / "mimic", "split": "test"}
    images = datasets.build("chest_imagenome", **options)
    assert images.file_names[0] == f"files/p10/p10000008/s50000008/{image(8)}.jpg"
    assert images[0]["image"].float().mean() == pytest.approx(graphs[8]["study_id"] % 200, abs=1)
    (tmp_path / "mimic" / images.file_names[1]).unlink()
    with pytest.raises(FileNotFoundError, match=rf"1 of 4 images are missing.*s50000009/{image(9)}"):
        datasets.build("chest_imagenome", **options)
    with pytest.warns(UserWarning, match="1 of 4 images"):
        assert datasets.build("chest_imagenome", **options, missing="skip").ids == [image(8), image(10), image(11)]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"regions": ["left lunge"]}, ValueError, "regions: 'left lunge' not known .*did you mean 'left lung'"),
        ({"labels": ["pneumothorx"]}, ValueError, "labels: 'pneumothorx' not known .*did you mean 'pneumothorax'"),
        ({"labels": ["xyz"]}, ValueError, "'xyz' not known to the annotations; known: pneumonia, lung opacity"),
        ({"conflict": "mean"}, ValueError, "conflict='mean': allowed are 'last', 'any', 'first', 'majority'"),
        ({"unmentioned": "zero"}, ValueError, "unmentioned='zero': allowed are 'negative', 'missing'"),
        ({"split": "dev"}, ValueError, "split='dev': allowed are 'train'"),
        ({"lists": "mine"}, ValueError, "lists='mine': allowed are 'imagenome', 'mimic'"),
        ({"annotations": "bronze"}, ValueError, "annotations='bronze': allowed are 'silver', 'gold'"),
        ({"annotations": "gold"}, ValueError, "the gold annotations have no parts"),
        ({"annotations": "gold", "split": "all"}, FileNotFoundError, "has no gold_dataset/gold_bbox"),
        ({"lists": "mimic"}, FileNotFoundError, r"none of mimic-cxr-\*-split.csv"),
        ({"images": "nowhere"}, FileNotFoundError, "images: no such folder"),
        ({"root": "src"}, FileNotFoundError, "holds no file .*_SceneGraph.json, nor silver_dataset/scene_graph.zip"),
    ],
)
def test_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "src").mkdir()
    release(tmp_path)
    with pytest.raises(error, match=message):
        datasets.build("chest_imagenome", **{"root": tmp_path, "images": tmp_path / "mimic", **options})


def test_a_damaged_archive(tmp_path: Path) -> None:
    release(tmp_path)
    path = tmp_path / "silver_dataset/scene_graph.zip"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match=r"scene_graph.zip is no zip archive, or is cut off"):
        datasets.build("chest_imagenome", root=tmp_path, images=tmp_path / "mimic", split="all")


# -- the cache ---------------------------------------------------------------------------------------------------------


def test_scene_graphs_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = release(tmp_path)
    read: list[int] = []

    def counted(files: SceneGraphFiles, *, progress: bool) -> Any:
        found = parse(files, progress=progress)
        read.append(len(found.ids))
        return found

    monkeypatch.setattr(scene_graphs, "parse", counted)

    def targets(**options: Any) -> torch.Tensor:
        return datasets.build(
            "chest_imagenome", root=tmp_path, images=tmp_path / "mimic", split="test", **options
        ).region_targets

    path = tmp_path / "silver_dataset/thoraxlib_scene_graphs.safetensors"
    first = targets()
    assert path.is_file()
    assert torch.equal(targets(), first)
    assert targets(regions="regions29", labels=["pneumonia"], conflict="any").shape == (4, 29, 1)
    assert read == [12]  # whatever the options
    assert torch.equal(targets(cache=tmp_path / "elsewhere" / "deep"), first)
    assert (tmp_path / "elsewhere/deep" / path.name).is_file()
    assert torch.equal(targets(cache=False), first)
    assert read == [12] * 3

    # cut off, of another program, of other scene graphs: read anew
    whole = path.read_bytes()
    for damaged in (whole[:100], whole[: len(whole) // 2], b"", b"x" * 500):
        path.write_bytes(damaged)
        assert torch.equal(targets(), first)
        assert torch.equal(targets(), first)
    assert read == [12] * 7
    for each in graphs:
        each["attributes"] = []
    write_graphs(tmp_path, graphs)
    assert not targets().any()
    assert read == [12] * 8


def test_an_interrupted_reading_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release(tmp_path)
    options = {"root": tmp_path, "images": tmp_path / "mimic", "split": "test"}

    def interrupted(*args: Any, **kwargs: Any) -> None:
        Path(args[1]).write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("safetensors.numpy.save_file", interrupted)
        with pytest.raises(KeyboardInterrupt):
            datasets.build("chest_imagenome", **options)
    left = sorted(path.name for path in (tmp_path / "silver_dataset").iterdir())
    assert left == ["scene_graph.zip", "splits"]
    assert len(datasets.build("chest_imagenome", **options)) == 4


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    release(tmp_path)
    (tmp_path / "file").write_text("no folder")
    with pytest.warns(UserWarning, match=r"safetensors cannot be written.*give a folder that can be written as cache"):
        images = datasets.build(
            "chest_imagenome", root=tmp_path, images=tmp_path / "mimic", split="test", cache=tmp_path / "file"
        )
    assert len(images) == 4


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs limits of processes")
def test_a_full_disk_costs_the_cache_alone(tmp_path: Path) -> None:
    import resource

    release(tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with pytest.warns(UserWarning, match=r"safetensors cannot be written"):
            images = datasets.build("chest_imagenome", root=tmp_path, images=tmp_path / "mimic", split="test")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert len(images) == 4
    assert sorted(path.name for path in (tmp_path / "silver_dataset").iterdir()) == ["scene_graph.zip", "splits"]


def test_a_changed_file_in_a_folder_is_noticed(tmp_path: Path) -> None:
    write_graphs(tmp_path, [graph(0, ALL)], packed=False)
    images = write_images(tmp_path / "jpg", [graph(0, ALL)])
    options = {"root": tmp_path, "images": images, "split": "all"}
    assert not datasets.build("chest_imagenome", **options).targets.any()
    path = tmp_path / f"silver_dataset/scene_graph/{image(0)}_SceneGraph.json"
    path.write_text(json.dumps(graph(0, ALL, {"trachea": [[("pneumonia", True)]]})))
    assert datasets.build("chest_imagenome", **options).targets.sum() == 1


# -- gold --------------------------------------------------------------------------------------------------------------


def gold(root: Path) -> None:
    (root / "gold_dataset").mkdir(parents=True)
    (root / "utils").mkdir()
    boxes = ["image_id,x1,y1,x2,y2,bbox_name,original_x1,original_x2,original_y1,original_y2"]
    boxes += [
        f"{image(k)}.dcm,1,2,3,4,{name},{x1},{x2},{y1},{y2}"
        for k in range(2)
        for name, (x1, y1, x2, y2) in ALL.items()
        if name != "mediastinum"
    ]
    (root / "gold_dataset/gold_bbox_coordinate_annotations_1000images.csv").write_text("\n".join(boxes))
    rows = [
        ("Left Lung", "1", "pneumonia", "no", 'He said "clear", mostly'),
        ("left lung", "1", "pneumonia", "yes", "Pneumonia."),
        ("right lung", "0", "lung opacity", "yes", "rejected"),
        ("trachea", "1", "lung opacity", "yes", "x"),
    ]
    head = "row_id\timage_id\tbbox\trelation\tcategoryID\tlabel_name\tcontext\tsentence"
    lines = [
        f'{k}\t{image(0)}.dcm\t{bbox}\t{relation}\tx\t{name}\t{context}\t"{sentence.replace(chr(34), chr(34) * 2)}"'
        for k, (bbox, relation, name, context, sentence) in enumerate(rows)
    ]
    path = root / "gold_dataset/gold_object_attribute_with_coordinates.txt"
    path.write_text("\n".join([head, *lines]))
    records = [f"10000005,5000000{k},{image(k)},files/x.dcm,PA" for k in range(3)]
    (root / "utils/cxr-record-list_view.csv").write_text(
        "\n".join(["subject_id,study_id,dicom_id,path,ViewPosition", *records])
    )


def test_gold(tmp_path: Path) -> None:
    gold(tmp_path)
    images = write_images(tmp_path / "jpg", [graph(0, ALL), graph(1, ALL)])
    options = {"root": tmp_path, "images": images, "split": "all", "annotations": "gold"}
    pictures = datasets.build("chest_imagenome", **options)
    assert pictures.patient_ids == ["10000005"] * 2
    assert pictures.study_ids == ["50000000", "50000001"]
    assert pictures.region_present.sum(dim=1).tolist() == [17, 17]
    assert not pictures.region_present[:, REGIONS.index("mediastinum")].any()
    assert pictures.region_boxes[1, 0].tolist() == list(ALL["right lung"])
    positive = pictures.region_targets[0].nan_to_num().nonzero().tolist()
    assert positive == [[7, FINDINGS.index("pneumonia")], [17, FINDINGS.index("lung opacity")]]
    assert pictures.region_targets[1].isnan().all()  # the second study has comparisons only
    assert pictures.targets[1].isnan().all()
    first = datasets.build("chest_imagenome", **options, conflict="first")
    assert first.region_targets[0, 7, FINDINGS.index("pneumonia")] == 0
    with pytest.raises(ValueError, match="gold annotations have no scene graphs"):
        pictures.scene_graph(0)

    def broken(name: str, old: str, new: str, message: str) -> None:
        path = tmp_path / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))
        with pytest.raises(ValueError, match=message):
            datasets.build("chest_imagenome", **options)
        path.write_text(text)

    table = "gold_dataset/gold_object_attribute_with_coordinates.txt"
    broken(table, "\tno\t", "\tmaybe\t", r"coordinates.txt:2: context must be yes or no, got 'maybe'")
    broken(table, "label_name", "label", "has no column 'label_name'")
    broken("utils/cxr-record-list_view.csv", image(1), "x", rf"lacks 1 of 2 gold images, the first is {image(1)}")
    broken(table, image(0), image(7), r"1000images.csv has a row for none of these images; its ids are")
    broken(
        "utils/cxr-record-list_view.csv", image(2), image(1), rf"view.csv:4: {image(1)} appears again, first in line 3"
    )
    boxes = "gold_dataset/gold_bbox_coordinate_annotations_1000images.csv"
    broken(boxes, "right lung,10", "right lung,ten", r"1000images.csv:2: could not convert")


def test_made_up_samples(tmp_path: Path) -> None:
    folder = os.environ.get("THORAXLIB_DATA")
    if folder is None:
        pytest.skip("needs THORAXLIB_DATA, the folder with samples/chest_imagenome_made_up")
    samples = sorted(Path(folder, "samples/chest_imagenome_made_up").glob("*.json"))
    names = [path.name.removesuffix("_SceneGraph.json") for path in samples]
    for name in names:
        Image.new("L", (2600, 3000)).save(tmp_path / f"{name}.png")
    images = datasets.build(
        "chest_imagenome", root=samples[0].parent, images=tmp_path, split="all", cache=tmp_path / "cache"
    )
    assert images.ids == names
    assert images.views == ["AP", "AP"]
    assert images.region_present.sum(dim=1).tolist() == [8, 8]
    zone, heart = REGIONS.index("left lower lung zone"), REGIONS.index("cardiac silhouette")
    assert images.region_targets[1].nan_to_num().nonzero().tolist() == [[zone, 0], [zone, 2], [heart, 3]]
    assert images.region_boxes[0, heart].tolist() == [945, 1528, 2036, 2510]
    assert [each.names for each in images.relations(1)] == [("worsened",)]
    packed = tmp_path / "packed/silver_dataset"
    packed.mkdir(parents=True)
    shutil.make_archive(str(packed / "scene_graph"), "zip", samples[0].parent)
    again = datasets.build("chest_imagenome", root=tmp_path / "packed", images=tmp_path, split="all")
    assert torch.equal(again.region_boxes, images.region_boxes)
    assert torch.equal(again.region_targets.nan_to_num(9), images.region_targets.nan_to_num(9))


def test_relations(tmp_path: Path) -> None:
    relation = {
        "relationship_names": ["comparison|yes|worsened", "comparison|no|improved"],
        "bbox_name": "left lung",
        "subject_id": f"{image(1)}_left lung",
        "object_id": f"{image(0)}_left lung",
        "phrase": "Worse.",
    }
    images = opened(tmp_path, [graph(0, ALL), graph(1, ALL, relationships=[relation])])
    assert images.relations(0) == []
    (found,) = images.relations(1)
    assert found == ("left lung", ("worsened",), image(0), "Worse.")
    assert images.scene_graph(1)["viewpoint"] == "PA"
