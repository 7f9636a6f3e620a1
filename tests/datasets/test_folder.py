"""A user's own images in folders by class."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from thoraxlib import datasets


def folders(root: Path, names: list[str]) -> Path:
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (6, 4), number).save(root / name)
    return root


NAMES = ["NORMAL/IM-1-a.png", "NORMAL/deep/IM-2.png", "PNEUMONIA/person1_x.jpeg", "PNEUMONIA/person1_y.png"]
PATIENT = r"person(\d+)|IM-(\d+)"


def test_one_label_for_each_folder(tmp_path: Path) -> None:
    root = folders(tmp_path, [*NAMES, "TB/person3.png", "__MACOSX/TB/._person3.png"])
    data = datasets.build("folder", root=root, patient=PATIENT)
    assert isinstance(data, datasets.ChestDataset)
    assert data.labels == ("NORMAL", "PNEUMONIA", "TB")
    assert data.ids == sorted([*NAMES, "TB/person3.png"])
    assert data.targets.tolist() == [[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 1, 0], [0, 0, 1]]
    assert data.patient_ids == ["/1", "/2", "1/", "1/", "3/"]
    assert data[0]["image"].shape == (1, 4, 6)
    some = datasets.build("folder", root=root, patient=PATIENT, labels=["tb", "normal"])
    assert some.labels == ("tb", "normal")
    assert some.targets[:, 0].tolist() == [0, 0, 0, 0, 1]


def test_negative_folder(tmp_path: Path) -> None:
    data = datasets.build("folder", root=folders(tmp_path, NAMES), negative="NORMAL", patient=r"^[A-Za-z]+-?\d+")
    assert data.labels == ("PNEUMONIA",)
    assert data.targets[:, 0].tolist() == [0, 0, 1, 1]
    assert data.patient_ids == ["IM-1", "IM-2", "person1", "person1"]
    with pytest.raises(ValueError, match="negative='HEALTHY': some of the classes are needed, NORMAL, PNEUMONIA"):
        datasets.build("folder", root=tmp_path, negative="HEALTHY")
    with pytest.raises(ValueError, match="two classes or more"):
        datasets.build("folder", root=tmp_path, negative=["NORMAL", "PNEUMONIA"])


def test_folders_of_parts(tmp_path: Path) -> None:
    names = [f"{part}/{name}" for part, name in zip(("train", "Validation", "train", "test"), NAMES, strict=True)]
    root = folders(tmp_path, names)
    parts = {}
    for part in ("train", "val", "test", "all"):
        with pytest.warns(UserWarning, match=r"1 patients are in several parts.*1/ \(test, train\)"):
            parts[part] = datasets.build("folder", root=root, split=part, patient=PATIENT)
    assert {part: len(data) for part, data in parts.items()} == {"train": 2, "val": 1, "test": 1, "all": 4}
    assert all(data.labels == ("NORMAL", "PNEUMONIA") for data in parts.values())
    with pytest.raises(ValueError, match="split='dev': allowed are 'all', 'test', 'train', 'val'"):
        datasets.build("folder", root=root, split="dev", patient="(.*)")
    folders(root, ["train/stray.png"])
    with pytest.raises(ValueError, match="1 images in no folder of a class: train/stray.png"):
        datasets.build("folder", root=root)
    folders(root, ["extra/A/stray.png"])
    with pytest.raises(ValueError, match="1 images beside the folders of parts: extra/A/stray.png"):
        datasets.build("folder", root=root)
    found = datasets.check(root=root, patient=PATIENT)
    assert found.errors["images beside the folders of parts"] == ["extra/A/stray.png"]
    assert found.parts == {"test": 1, "train": 2, "val": 1}


def test_splits_and_folds(tmp_path: Path) -> None:
    root = folders(tmp_path, [f"{'A' if k % 4 else 'B'}/p{k // 2}_{k}.png" for k in range(80)])
    given = {"root": root, "patient": r"p(\d+)_"}
    parts = [datasets.build("folder", split=part, **given) for part in ("train", "val", "test")]
    assert sum(map(len, parts)) == 80
    assert sum(len(set(part.patient_ids)) for part in parts) == 40
    assert [float(part.targets[:, 1].mean()) for part in parts] == pytest.approx([0.25] * 3, abs=0.1)
    vals = [datasets.build("folder", split="val", fold=(k, 4), **given).ids for k in range(4)]
    assert sorted(name for val in vals for name in val) == datasets.build("folder", **given).ids
    assert datasets.build("folder", split="val", fold=(0, 4), seed=1, **given).ids != vals[0]


def test_wrong_folders(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no image"):
        datasets.build("folder", root=tmp_path)
    root = folders(tmp_path, NAMES)
    with pytest.warns(UserWarning, match=r"a patient of its own \(patient= takes a regular expression"):
        assert datasets.build("folder", root=root).patient_ids == sorted(NAMES)
    with pytest.raises(ValueError, match=r"2 names do not match patient='person\(.*IM-1-a.png.*check\(root="):
        datasets.build("folder", root=root, patient=r"person(\d+)")
    with pytest.raises(ValueError, match=r"patient='\(' is no regular expression"):
        datasets.build("folder", root=root, patient="(")
    with pytest.raises(ValueError, match="two classes or more are needed, a folder for each; found: deep"):
        datasets.build("folder", root=folders(tmp_path / "one", ["deep/a.png"]))
    folders(root, ["stray.png"])
    with pytest.raises(ValueError, match="1 images in no folder of a class: stray.png"):
        datasets.build("folder", root=root)


@pytest.mark.filterwarnings("ignore:.*patient of its own")
def test_unreadable_files_and_masks(tmp_path: Path) -> None:
    root = folders(tmp_path / "images", NAMES)
    (root / NAMES[0]).write_bytes(b"no image")
    with pytest.warns(UserWarning, match=f"skipped: {NAMES[0]}"):
        assert len(datasets.build("folder", root=root, missing="skip")) == 3
    folders(tmp_path / "masks", [name.replace(".jpeg", ".png") for name in NAMES])
    data = datasets.build("folder", root=root, masks=tmp_path / "masks")
    assert data[2]["organ_mask"].dtype == torch.uint8
    (tmp_path / "masks" / NAMES[1]).unlink()
    with pytest.raises(FileNotFoundError, match="1 of 4 images have no mask"):
        datasets.build("folder", root=root, masks=tmp_path / "masks")


def test_check(tmp_path: Path) -> None:
    root = folders(tmp_path, [*NAMES, "stray.png"])
    (root / NAMES[3]).write_bytes((root / NAMES[0]).read_bytes())
    found = datasets.check(root=root, patient=r"person(\d+)", negative="NORMAL")
    assert found.errors == {
        "images in no folder of a class": ["stray.png"],
        "names without a patient": [NAMES[0], NAMES[1]],
    }
    assert found.warnings == {"equal files of different patients": [f"{NAMES[0]} = {NAMES[3]}"]}
    assert (found.rows, found.images, found.files) == (0, 4, 5)
    assert "4 images of 3 patients; 5 image files" in str(found)
    assert datasets.check(root=root).warnings == {"equal files": [f"{NAMES[0]} = {NAMES[3]}"]}
