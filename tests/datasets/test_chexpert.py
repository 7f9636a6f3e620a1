"""CheXpert's official layout, written here in small."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from thoraxlib import datasets
from thoraxlib import labels as label_sets
from thoraxlib.datasets.chexpert import CheXpert

FINDINGS = label_sets.build("chexpert14")
HEAD = "Path,Sex,Age,Frontal/Lateral,AP/PA," + ",".join(FINDINGS)


def row(path: str, view: str = "Frontal", position: str = "AP", **values: str) -> str:
    cells = [values.get(name.replace(" ", "_"), "") for name in FINDINGS]
    return ",".join([path, "Male", "60", view, position, *cells])


def release(root: Path, prefix: str = "CheXpert-v1.0-small/", slash: str = "/", underscores: bool = False) -> Path:
    """40 patients of one study with a frontal and a lateral image; values -1, 0, 1 and blank in turn."""
    lines = [HEAD.replace(" ", "_") if underscores else HEAD]
    for k in range(40):
        study = f"train/patient{k:05d}/study1"
        value = ("1.0", "0.0", "-1.0", "")[k % 4]
        for view, position in (("frontal", ("AP", "PA")[k % 2]), ("lateral", "")):
            path = root / study / f"view1_{view}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((20, 30), k, np.uint8)).save(path)
            name = f"{prefix}{study}/view1_{view}.jpg".replace("/", slash)
            lines.append(row(name, view.title(), position, Edema=value, Consolidation=value, Atelectasis=value))
    (root / "train.csv").write_text("\n".join(lines) + "\n")
    valid = root / "valid/patient90000/study1/view1_frontal.jpg"
    valid.parent.mkdir(parents=True)
    Image.fromarray(np.zeros((20, 30), np.uint8)).save(valid)
    line = row(f"{prefix}valid/patient90000/study1/view1_frontal.jpg", Cardiomegaly="1.0", Pleural_Effusion="0.0")
    (root / "valid.csv").write_text(f"{HEAD}\n{line}\n")
    return root


@pytest.mark.parametrize(
    ("prefix", "slash", "underscores"),
    [("CheXpert-v1.0-small/", "/", False), ("CheXpert-v1.0/", "\\", True), ("", "/", False)],
)
def test_the_official_layout(tmp_path: Path, prefix: str, slash: str, underscores: bool) -> None:
    root = release(tmp_path, prefix, slash, underscores)
    everything = CheXpert(root=root, split="train_val")
    assert len(everything) == 80
    assert everything.ids[1] == "train/patient00000/study1/view1_lateral.jpg"
    assert everything.patient_ids[:3] == ["patient00000", "patient00000", "patient00001"]
    assert everything.study_ids[1] == "train/patient00000/study1"
    assert everything.targets.shape == (80, 14)
    sample = everything[4]
    assert sample["image"].shape == (1, 20, 30)
    assert int(sample["image"].float().mean().round()) == 2
    assert sample["id"] == everything.ids[4]
    assert isinstance(everything, datasets.ChestDataset)
    train, val = (CheXpert(root=root, split=split) for split in ("train", "val"))
    assert not set(train.patient_ids) & set(val.patient_ids)
    assert len(train) + len(val) == 80
    assert len(val) == 4
    valid = datasets.build("chexpert", root=root, split="valid", labels="chexpert5")
    assert valid.targets.tolist() == [[1, 0, 0, 0, 0]]


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("ones", [1, 1, 1]),
        ("zeros", [0, 0, 0]),
        ("ignore", [np.nan] * 3),
        ("jf", [1, 0, 1]),
        ({"Edema": "ones", "Consolidation": "zeros"}, [1, 0, np.nan]),
    ],
)
def test_uncertain_labels(tmp_path: Path, policy: Any, expected: list[float]) -> None:
    labels = ["Edema", "Consolidation", "Atelectasis"]
    images = CheXpert(root=release(tmp_path), split="train_val", labels=labels, uncertain=policy, views="Frontal")
    np.testing.assert_array_equal(images.targets[2], np.array(expected, np.float32))
    np.testing.assert_array_equal(images.targets[:4:3], np.array([[1, 1, 1], [0, 0, 0]], np.float32))
    unknown = CheXpert(root=tmp_path, split="train_val", labels=labels, uncertain=policy, blank="ignore")
    assert unknown.targets[6].isnan().all()


def test_jf_knows_labels_in_any_spelling(tmp_path: Path) -> None:
    root, labels = release(tmp_path), ["pulmonary edema", "consolidation", "atelectasis"]
    images = CheXpert(root=root, split="train_val", labels=labels, uncertain="jf", views="Frontal")
    assert images.targets[2].tolist() == [1, 0, 1]


def test_smoothed_labels(tmp_path: Path) -> None:
    root = release(tmp_path)
    options = {"root": root, "labels": ["Edema", "Atelectasis"], "uncertain": "lsr_ones"}
    images = CheXpert(split="train_val", **options)
    unsure = images.targets[4::8]
    assert ((unsure >= 0.55) & (unsure <= 0.85)).all()
    assert unsure.unique().numel() > 10
    assert torch.equal(images.targets, CheXpert(split="train_val", **options).targets)
    assert not torch.equal(images.targets, CheXpert(split="train_val", seed=1, **options).targets)
    # an image's label does not depend on the other images that are asked for
    val = CheXpert(split="val", **options)
    assert torch.equal(val.targets, images.targets[[images.ids.index(name) for name in val.ids]])
    low = CheXpert(split="train_val", **{**options, "uncertain": "lsr_zeros"}).targets[4::8]
    assert ((low >= 0) & (low <= 0.3)).all()


def test_views(tmp_path: Path) -> None:
    root = release(tmp_path)
    count = {
        view: len(CheXpert(root=root, split="train_val", views=view)) for view in ("Frontal", "Lateral", "PA", "AP")
    }
    assert count == {"Frontal": 40, "Lateral": 40, "PA": 20, "AP": 20}
    assert len(CheXpert(root=root, split="train_val", views=["PA", "Lateral"])) == 60


def test_labels_of_other_data_sets(tmp_path: Path) -> None:
    images = CheXpert(root=release(tmp_path), split="valid", labels=["Effusion", "Hernia", "Cardiomegaly"])
    np.testing.assert_array_equal(images.targets, [[0, np.nan, 1]])


def test_missing_files(tmp_path: Path) -> None:
    root = release(tmp_path)
    (root / "train/patient00003/study1/view1_lateral.jpg").unlink()
    with pytest.raises(FileNotFoundError, match="1 of 80 images are missing.*patient00003/study1/view1_lateral"):
        CheXpert(root=root, split="train_val")
    with pytest.warns(UserWarning, match="1 of 80 images"):
        assert len(CheXpert(root=root, split="train_val", missing="skip")) == 79


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"split": "dev"}, ValueError, "split='dev': allowed are 'train_val'"),
        ({"split": "test"}, FileNotFoundError, "has no test.csv"),
        ({"blank": "ones"}, ValueError, "blank='ones': allowed"),
        ({"uncertain": "one"}, ValueError, "uncertain='one': allowed are 'ones'"),
        ({"uncertain": {"Hernia": "ones"}}, ValueError, r"uncertain names \['Hernia'\]"),
        ({"views": "LL"}, ValueError, "views='LL': allowed"),
        ({"labels": ["Hernia"]}, ValueError, "none of .'Hernia'. is known to CheXpert"),
        ({"root": "nowhere"}, FileNotFoundError, "no such folder"),
        ({"views": "PA", "split": "valid"}, ValueError, "no image is left: split=.valid., views=.PA."),
    ],
)
def test_errors(tmp_path: Path, options: dict[str, Any], error: type[Exception], message: str) -> None:
    root = release(tmp_path)
    with pytest.raises(error, match=message):
        CheXpert(**{"root": root, "split": "train_val", **options})


def test_a_wrong_table_names_file_line_and_value(tmp_path: Path) -> None:
    root = release(tmp_path)
    (root / "valid.csv").write_text(f"{HEAD}\n{row('valid/patient1/study1/a.jpg', Edema='2')}\n")
    with pytest.raises(ValueError, match=r"valid.csv:2: Edema must be 1, 0, -1 or blank, got '2'"):
        CheXpert(root=root, split="valid")
    (root / "valid.csv").write_text(f"{HEAD}\n{row('../secret/a.jpg')}\n")
    with pytest.raises(ValueError, match=r"valid.csv:2: '../secret/a.jpg' is no path below"):
        CheXpert(root=root, split="valid")
    (root / "valid.csv").write_text("Path,Edema\nvalid/patient90000/study1/view1_frontal.jpg,1.0\n")
    assert CheXpert(root=root, split="valid", labels=["Edema"], views="Frontal").targets.tolist() == [[1]]
    with pytest.raises(ValueError, match="no column 'Atelectasis'"):
        CheXpert(root=root, split="valid", labels=["Atelectasis"])


def test_oversampling() -> None:
    images = datasets.build("synthetic", size=32, length=200, labels="nih8", masks=False)
    more = datasets.oversample(images, ["Mass", "Nodule"], times=2)
    positive = (images.targets[:, 4:6] == 1).any(dim=1)
    assert len(more) == 200 + 2 * int(positive.sum())
    assert torch.equal(more.targets[:200], images.targets)
    assert (more.targets[200:, 4:6] == 1).any(dim=1).all()
    assert more.boxed[200:].all()
    assert len(datasets.oversample(images, ["Mass"], times=0)) == 200
    for labels in (["mass"], [], "Mass"):
        with pytest.raises(ValueError, match="some of the data set's are needed"):
            datasets.oversample(images, labels)
    with pytest.raises(ValueError, match="times=-1"):
        datasets.oversample(images, ["Mass"], times=-1)


def test_made_up_samples_of_the_official_format() -> None:
    folder = os.environ.get("THORAXLIB_DATA")
    if folder is None:
        pytest.skip("needs THORAXLIB_DATA, the folder with samples/csv_made_up")
    from thoraxlib.datasets.chexpert import _below_release
    from thoraxlib.datasets.tables import Table
    from thoraxlib.datasets.uncertain import mined_targets

    table = Table(Path(folder, "samples/csv_made_up/chexpert_train.csv"))
    assert _below_release(table.column("Path")[0], table, 0) == "train/patient99901/study1/view1_frontal.jpg"
    targets = mined_targets(
        table, label_sets.build("chexpert5"), "jf", "zeros", 0, findings=FINDINGS, source="CheXpert"
    )
    np.testing.assert_array_equal(targets[1], [0, 1, 0, 1, 0])


BATCHES = ("CheXpert-v1.0 batch 2 (train 1)", "CheXpert-v1.0 batch 3 (train 2)")
FIRST_BATCH = "CheXpert-v1.0 batch 1 (validate & csv)"


def in_batches(root: Path, *, nested: bool = False, tables: str = FIRST_BATCH) -> Path:
    """The full release as it is handed out: patients in numbered parts, tables and valid images in the first."""
    (root / FIRST_BATCH).mkdir()
    for k, patient in enumerate(sorted((root / "train").iterdir())):
        folder = root / BATCHES[k % 2] / ("train" if nested else "")
        folder.mkdir(parents=True, exist_ok=True)
        patient.rename(folder / patient.name)
    (root / "train").rmdir()
    (root / "valid").rename(root / FIRST_BATCH / "valid")
    for name in ("train.csv", "valid.csv"):
        (root / name).rename(root / tables / name)
    return root


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("tables", [FIRST_BATCH, "."])
def test_the_full_release_as_it_is_handed_out(tmp_path: Path, nested: bool, tables: str) -> None:
    whole = CheXpert(root=release(tmp_path / "whole", "CheXpert-v1.0/"), split="train_val")
    root = in_batches(release(tmp_path / "parts", "CheXpert-v1.0/"), nested=nested, tables=tables)
    images = CheXpert(root=root, split="train_val")
    assert images.ids == whole.ids
    assert images.patient_ids == whole.patient_ids
    assert torch.equal(images[7]["image"], whole[7]["image"])
    assert CheXpert(root=root, split="valid").ids == ["valid/patient90000/study1/view1_frontal.jpg"]


@pytest.mark.parametrize("folder", ["CheXpert-v1.0", "CheXpert-v1.0-small"])
def test_the_folder_that_holds_the_release(tmp_path: Path, folder: str) -> None:
    root = release(tmp_path / folder, f"{folder}/")
    images = CheXpert(root=tmp_path, split="train_val")
    assert images.ids == CheXpert(root=root, split="train_val").ids
    for name in ("train.csv", "valid.csv"):  # tables beside the folder, as their paths have it
        (root / name).rename(tmp_path / name)
    assert CheXpert(root=tmp_path, split="train_val").ids == images.ids
    assert len(CheXpert(root=tmp_path, split="valid")) == 1


def test_two_releases_in_one_folder(tmp_path: Path) -> None:
    for name in ("CheXpert-v1.0", "CheXpert-v1.0-small"):
        release(tmp_path / name, f"{name}/")
    with pytest.raises(ValueError, match=r"several releases, give the folder of one: .*CheXpert-v1.0/train.csv"):
        CheXpert(root=tmp_path, split="train_val")
    (tmp_path / "CheXpert-v1.0/train.csv").rename(tmp_path / "train.csv")
    (tmp_path / "CheXpert-v1.0/valid.csv").unlink()
    with pytest.raises(ValueError, match=r"are one image: give the folder of one release"):
        CheXpert(root=tmp_path, split="train_val")


def test_labels_of_the_test_set_by_their_own_name(tmp_path: Path) -> None:
    root, path = release(tmp_path), "test/patient64741/study1/view1_frontal.jpg"
    with pytest.raises(FileNotFoundError, match=r"has no test.csv or test_labels.csv, which split 'test' is"):
        CheXpert(root=root, split="test")
    (root / path).parent.mkdir(parents=True)
    Image.new("L", (8, 8)).save(root / path)
    (root / "test_labels.csv").write_text(f"Path,Edema,Fracture\n{path},1.0,0.0\n")
    images = CheXpert(root=root, split="test", labels=["Edema", "Fracture"], views="Frontal")
    assert (images.ids, images.targets.tolist()) == ([path], [[1, 0]])


@pytest.mark.parametrize("spelling", ["{}", "./{}", "CheXpert-v1.0/{}", "\\", "//"])
def test_an_image_listed_twice(tmp_path: Path, spelling: str) -> None:
    root, path = release(tmp_path), "train/patient00000/study1/view1_frontal.jpg"
    again = spelling.format(path) if "{}" in spelling else path.replace("/", spelling)
    with (root / "train.csv").open("a") as file:
        file.write(row(again, Edema="0.0") + "\n")
    with pytest.raises(ValueError, match=rf"train.csv:82: {path} appears again, first in line 2"):
        CheXpert(root=root, split="train_val")


@pytest.mark.parametrize("split", ["train", "val", "train_val", "valid"])
def test_an_image_in_two_parts(tmp_path: Path, split: str) -> None:
    root = release(tmp_path)
    listed = {"valid": "valid/patient90000/study1/view1_frontal.jpg"}
    path = listed.get(split, "train/patient00003/study1/view1_frontal.jpg")
    (root / "test.csv").write_text(f"{HEAD}\n{row(path)}\n")
    with pytest.raises(ValueError, match=rf"1 images of .* are in .*test.csv as well, the first is {path}"):
        CheXpert(root=root, split=split)


def test_labels_that_are_all_unknown(tmp_path: Path) -> None:
    root = release(tmp_path)
    with pytest.warns(UserWarning, match=r"CheXpert: all labels of the 80 images are unknown.*blank='ignore'"):
        CheXpert(root=root, split="train_val", labels=["Fracture", "Hernia"], blank="ignore")
