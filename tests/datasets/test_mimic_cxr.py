"""MIMIC-CXR-JPG's official layout, written here in small."""

from __future__ import annotations

import gzip
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import thoraxlib
from thoraxlib import datasets
from thoraxlib import labels as label_sets
from thoraxlib.datasets.mimic_cxr import MIMICCXR
from thoraxlib.input_spec import InputSpec

pytestmark = pytest.mark.filterwarnings("ignore:1 of .* studies have no row")

# as the release has them: alphabetical, unlike the label set
COLUMNS = sorted(label_sets.build("mimic14"))
VALUES = ("1.0", "0.0", "-1.0", "")
POSITIONS = ("PA", "LATERAL", "AP", "LL", "")


def write(root: Path, name: str, lines: list[str], packed: bool) -> Path:
    path = root / f"mimic-cxr-2.0.0-{name}.csv{'.gz' if packed else ''}"
    text = "\n".join(lines) + "\n"
    with gzip.open(path, "wt") if packed else path.open("w") as file:
        file.write(text)
    return path


def release(root: Path, packed: bool = False) -> Path:
    """20 patients with a study of two images each; Edema is 1, 0, -1 and blank in turn; the last has no labels."""
    metadata = ["dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,Rows"]
    split = ["dicom_id,study_id,subject_id,split"]
    mined = [f"subject_id,study_id,{','.join(COLUMNS)}"]
    for k in range(20):
        patient, study = 10_000_032 + k * 500_000, 50_000_000 + k
        part = "test" if k < 4 else "validate" if k < 6 else "train"
        for view in range(2):
            image = f"{k:08x}-{view:08x}"
            path = root / f"files/p{patient // 10**6}/p{patient}/s{study}/{image}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((20, 30), 10 * k + view, np.uint8)).save(path)
            metadata.append(f'{image},{patient},{study},"CHEST (PA, LAT)",{POSITIONS[(2 * k + view) % 5]},20')
            split.append(f"{image},{study},{patient},{part}")
        values = {"Edema": VALUES[k % 4], "Pneumonia": "-1.0", "No Finding": "0.0"}
        if k < 19:
            mined.append(f"{patient},{study},{','.join(values.get(name, '') for name in COLUMNS)}")
    for name, lines in (("metadata", metadata), ("split", split), ("chexpert", mined)):
        write(root, name, lines, packed)
    return root


@pytest.mark.parametrize("place", [".", "files", "files/p10"])
def test_training_copies_in_place_of_folders(place: str, tmp_path: Path) -> None:
    root = release(tmp_path / "release")
    data = MIMICCXR(root=root, split="all")
    whole = [sample["image"].shape[-2:] for sample in data]
    assert set(whole) == {(20, 30)}
    thoraxlib.prepare(root / place, tmp_path / "copy", spec=InputSpec(size=8), num_workers=0, progress=False)
    if place == ".":
        shutil.copytree(tmp_path / "copy", root, dirs_exist_ok=True)
        shutil.rmtree(root / "files")
    else:
        shutil.rmtree(root / place)
        (tmp_path / "copy").rename(root / place)
    copied = MIMICCXR(root=root, split="all")
    assert copied.ids == data.ids
    assert [sample["image"].shape[-2:] for sample in copied] == [
        (8, 8) if place != "files/p10" or patient.startswith("10") else (20, 30) for patient in data.patient_ids
    ]


@pytest.mark.parametrize("packed", [False, True])
def test_the_official_layout(tmp_path: Path, packed: bool) -> None:
    root = release(tmp_path, packed)
    everything = datasets.build("mimic_cxr", root=root, split="all")
    assert isinstance(everything, datasets.ChestDataset)
    assert (len(everything), everything.labels) == (40, label_sets.build("mimic14"))
    assert everything.ids[3] == "00000001-00000001"
    assert everything.patient_ids[2:4] == ["10500032"] * 2
    assert everything.study_ids[2:4] == ["50000001"] * 2
    assert everything.views[:5] == list(POSITIONS)
    sample = everything[3]
    assert sample["image"].shape == (1, 20, 30)
    assert sample["image"].float().mean().item() == pytest.approx(11, abs=1)
    assert sample["id"] == everything.ids[3]
    assert torch.equal(sample["labels"].nan_to_num(9), everything.targets[3].nan_to_num(9))
    parts = {split: MIMICCXR(root=root, split=split) for split in ("train", "val", "validate", "test")}
    assert {split: len(part) for split, part in parts.items()} == {"train": 28, "val": 4, "validate": 4, "test": 8}
    assert parts["val"].ids == parts["validate"].ids == everything.ids[8:12]
    patients = [set(parts[split].patient_ids) for split in ("train", "val", "test")]
    assert len(set.union(*patients)) == sum(map(len, patients)) == 20


def test_labels_are_those_of_the_study(tmp_path: Path) -> None:
    root = release(tmp_path)
    pictures = MIMICCXR(root=root, split="all", labels=["Pulmonary Edema", "Pneumonia", "Hernia"])
    nan = np.nan
    expected = np.repeat([[1, nan, nan], [0, nan, nan], [nan, nan, nan], [0, nan, nan]], 2, axis=0)
    np.testing.assert_array_equal(pictures.targets[:8], expected)
    assert pictures.targets[38:].isnan().all()  # no row in the label table
    assert MIMICCXR(root=root, split="all", blank="ignore", labels=["Edema"]).targets[6].isnan()
    ones = MIMICCXR(root=root, split="all", uncertain={"Edema": "ones"}, labels=["Edema", "Pneumonia"])
    np.testing.assert_array_equal(ones.targets[4:6], [[1, nan]] * 2)
    order = MIMICCXR(root=root, split="all", uncertain="ones")
    assert order.targets[0].tolist() == [float(name in ("Edema", "Pneumonia")) for name in order.labels]
    smooth = MIMICCXR(root=root, split="all", labels=["Pneumonia"], uncertain="lsr_ones")
    assert ((smooth.targets[:38] >= 0.55) & (smooth.targets[:38] <= 0.85)).all()
    test = MIMICCXR(root=root, split="test", labels=["Pneumonia"], uncertain="lsr_ones")
    assert torch.equal(test.targets, smooth.targets[:8])


def test_views(tmp_path: Path) -> None:
    root = release(tmp_path)

    def count(views: Any) -> int:
        return len(MIMICCXR(root=root, split="all", views=views))

    assert [count(view) for view in ("PA", "Frontal", "Lateral", "LL", "")] == [8, 16, 16, 8, 8]
    assert count(["AP", "Lateral"]) == 24
    with pytest.raises(ValueError, match=r"views must name some of \['', 'AP', 'Frontal'.*'AP AXIAL'"):
        count("AP AXIAL")
    with pytest.raises(ValueError, match="views must name some of"):
        count([])


def test_missing_files(tmp_path: Path) -> None:
    root = release(tmp_path)
    shutil.rmtree(root / "files/p10/p10000032/s50000000")
    with pytest.raises(FileNotFoundError, match=r"2 of 8 images are missing.*files/p10/p10000032/s50000000/00000000-0"):
        MIMICCXR(root=root, split="test")
    with pytest.warns(UserWarning, match="2 of 8 images"):
        pictures = MIMICCXR(root=root, split="test", missing="skip")
    assert pictures.study_ids == ["50000001"] * 2 + ["50000002"] * 2 + ["50000003"] * 2
    assert len(MIMICCXR(root=root, split="train")) == 28  # only what is asked for counts
    shutil.rmtree(root / "files")
    with pytest.raises(
        FileNotFoundError, match=r"no image.*files/p10/p10000032, files/p10/p10500032,.*\.\.\. \(20 in all\) of"
    ):
        MIMICCXR(root=root, split="all")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"split": "dev"}, ValueError, "split='dev': allowed are 'train', 'val', 'validate', 'test', 'all'"),
        ({"blank": "ones"}, ValueError, "blank='ones': allowed"),
        ({"uncertain": "one"}, ValueError, "uncertain='one': allowed are 'ones'"),
        ({"labels": ["Hernia"]}, ValueError, "none of .'Hernia'. is known to MIMIC-CXR-JPG"),
        ({"root": "nowhere"}, FileNotFoundError, "no such folder"),
        ({"views": "AP", "split": "val"}, ValueError, "no image is left: split='val', views='AP'"),
    ],
)
def test_errors(tmp_path: Path, options: dict[str, Any], error: type[Exception], message: str) -> None:
    root = release(tmp_path)
    with pytest.raises(error, match=message):
        MIMICCXR(**{"root": root, **options})


def test_wrong_tables_are_named(tmp_path: Path) -> None:
    root = release(tmp_path)

    def broken(name: str, old: str, new: str, message: str, error: type[Exception] = ValueError) -> None:
        path = root / f"mimic-cxr-2.0.0-{name}.csv"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))
        with pytest.raises(error, match=message):
            MIMICCXR(root=root, split="test")
        path.write_text(text)

    broken("metadata", "ViewPosition", "View", r"metadata.csv has no column 'ViewPosition'")
    broken("metadata", "00000000-00000001,", "00000000-00000000,", r"metadata.csv:3: .* appears again, first in line 2")
    broken("metadata", ",10000032,", ",../../etc,", r"metadata.csv:2: subject_id and study_id must be numbers")
    broken("split", "00000013-00000001,", "x,", r"split.csv lacks 1 of 40 images, the first is 00000013-00000001")
    broken("chexpert", "-1.0", "2", r"chexpert.csv:4: Edema must be 1, 0, -1 or blank, got '2'")
    broken("chexpert", ",50000001,", ",50000000,", r"chexpert.csv:3: 50000000 appears again, first in line 2")
    (root / "mimic-cxr-2.0.0-split.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"none of mimic-cxr-\*-split.csv, mimic-cxr-\*-split.csv.gz"):
        MIMICCXR(root=root, split="test")
    assert len(MIMICCXR(root=root, split="all")) == 40


def test_a_packed_table_that_is_damaged(tmp_path: Path) -> None:
    root = release(tmp_path, packed=True)
    path = root / "mimic-cxr-2.0.0-chexpert.csv.gz"
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"subject_id,study_id\n", whole[:30] + b"\0" * 20 + whole[50:]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"chexpert.csv.gz is no CSV text file"):
            MIMICCXR(root=root, split="all")


def test_made_up_samples_of_the_official_format(tmp_path: Path) -> None:
    folder = os.environ.get("THORAXLIB_DATA")
    if folder is None:
        pytest.skip("needs THORAXLIB_DATA, the folder with samples/csv_made_up")
    for table in Path(folder, "samples/csv_made_up").glob("mimic-cxr-2.0.0-*.csv"):
        shutil.copy(table, tmp_path)
    places = ["p19999991/s59999991", "p19999991/s59999991", "p19999991/s59999992", "p19999992/s59999993"]
    for number, place in enumerate(places, start=1):
        path = tmp_path / "files/p19" / place / f"00000000-00000000-00000000-00000000-{number:08d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4)).save(path)
    pictures = MIMICCXR(root=tmp_path, split="all", labels=["No Finding", "Atelectasis", "Pleural Effusion"])
    np.testing.assert_array_equal(pictures.targets, [[1, 0, 0], [1, 0, 0], [0, np.nan, 1], [0, 0, 0]])
    assert pictures.views == ["PA", "LATERAL", "AP", ""]
    assert [len(MIMICCXR(root=tmp_path, split=split)) for split in ("train", "test")] == [3, 1]
