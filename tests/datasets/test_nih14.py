"""NIH ChestX-ray14: a miniature of the official layout, and the real images where they are at hand."""

from __future__ import annotations

import csv
import gzip
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from thoraxlib import InputSpec, datasets, images, labels
from thoraxlib.datasets.nih14 import NIH14

HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
ROWS = [
    "00000001_000.png,Cardiomegaly|Effusion,0,1,57,M,PA,2682,2749,0.143,0.143",
    "00000001_001.png,No Finding,1,1,58,M,AP,2894,2729,0.143,0.143",
    "00000002_000.png,Hernia,0,2,80,F,PA,2500,2048,0.171,0.171",
    "00000003_000.png,Infiltration|Pleural_Thickening,0,3,74,F,AP,2500,2048,0.168,0.168",
    "00000004_000.png,,0,4,74,,,2500,2048,0.168,0.168",
    "00000005_000.png,Mass,0,5,70,F,PA,2500,2048,0.168,0.168",
]
NAMES = [row.split(",")[0] for row in ROWS]
BOXES = [
    "Image Index,Finding Label,Bbox [x,y,w,h],,,",
    "00000003_000.png,Infiltrate,512.0,256.0,128.0,64.0",
    "00000001_000.png,Cardiomegaly,0,0,1024,1024",
    "00000001_000.png,Effusion,100,200,300,400",
]


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """The official layout: numbered image folders, Data_Entry, the two official lists, boxes."""
    root = tmp_path / "release"
    (root / "images_001" / "images").mkdir(parents=True)
    (root / "images_002" / "images").mkdir(parents=True)
    for number, name in enumerate(NAMES):
        pixels = np.full((32, 64), number * 10, np.uint8)
        Image.fromarray(pixels).save(root / f"images_00{1 + number % 2}" / "images" / name)
    (root / "Data_Entry_2017_v2020.csv").write_text("\n".join([HEADER, *ROWS]))
    (root / "train_val_list.txt").write_text("\n".join(NAMES[:4]))
    (root / "test_list.txt").write_text("\n".join(NAMES[4:]))
    (root / "BBox_List_2017.csv").write_text("\n".join(BOXES))
    return root


def edit(path: Path, change: Callable[[str], str]) -> None:
    path.write_text(change(path.read_text()))


# -- what is read -------------------------------------------------------------------------------------


def test_official_layout(release: Path) -> None:
    dataset = NIH14(root=release, split="train_val")
    assert isinstance(dataset, datasets.ChestDataset)
    assert dataset.labels == labels.build("nih14")
    assert dataset.ids == NAMES[:4]
    assert dataset.patient_ids == ["1", "1", "2", "3"]
    positive = [{dataset.labels[k] for k in row.nonzero().flatten()} for row in dataset.targets]
    assert positive == [{"Cardiomegaly", "Effusion"}, set(), {"Hernia"}, {"Infiltration", "Pleural_Thickening"}]
    for index, name in enumerate(NAMES[:4]):
        sample = dataset[index]
        assert sample["id"] == name
        assert sample["image"].dtype == torch.uint8
        assert sample["image"].unique().tolist() == [index * 10]
        assert torch.equal(sample["labels"], dataset.targets[index])


def test_a_sample_does_not_share_the_targets_memory(release: Path) -> None:
    dataset = NIH14(root=release, split="all")
    dataset[0]["labels"][:] = 9
    assert dataset.targets[0].max() == 1


def test_boxes_are_scaled_to_the_files_pixels(release: Path) -> None:
    dataset = NIH14(root=release, split="all")
    sample = dataset[3]
    assert sample["boxes"].tolist() == [[32, 8, 40, 10]]  # 64 x 32 pixels
    assert sample["boxes"].canvas_size == (32, 64)
    assert [dataset.labels[k] for k in sample["box_labels"]] == ["Infiltration"]
    assert [dataset.labels[k] for k in dataset[0]["box_labels"]] == ["Cardiomegaly", "Effusion"]
    assert dataset[1]["boxes"].shape == (0, 4)
    assert dataset[1]["box_labels"].dtype == torch.int64
    only = NIH14(root=release, split="all", labels=["Effusion"])
    assert only[0]["boxes"].shape == (1, 4)
    assert only[0]["box_labels"].tolist() == [0]
    assert only[3]["boxes"].shape == (0, 4)
    assert "boxes" not in NIH14(root=release, split="all", boxes=False)[0]
    (release / "BBox_List_2017.csv").unlink()
    assert "boxes" not in NIH14(root=release, split="all")[0]


def test_labels_of_other_sets_and_attributes(release: Path) -> None:
    nih15 = NIH14(root=release, split="all", labels="nih15")
    assert nih15.targets[:4, 14].tolist() == [0, 1, 0, 0]
    chexpert = NIH14(root=release, split="all", labels=["Pleural Effusion", "Fracture", "AP", "Male"])
    expected = torch.tensor(
        [[1, 0, 1], [0, 1, 1], [0, 0, 0], [0, 1, 0], [torch.nan] * 3, [0, 0, 0]],
    )
    torch.testing.assert_close(chexpert.targets[:, [0, 2, 3]], expected, equal_nan=True)
    assert chexpert.targets[:, 1].isnan().all()
    with pytest.raises(ValueError, match="none of.*Fracture.*Atelectasis"):
        NIH14(root=release, labels=["Fracture"])


def test_a_blank_field_is_unknown(release: Path) -> None:
    dataset = NIH14(root=release, split="all")
    assert dataset.targets[4].isnan().all()
    assert not dataset.targets[[0, 1, 2, 3, 5]].isnan().any()


def test_views(release: Path) -> None:
    assert NIH14(root=release, split="all", views="AP").ids == [NAMES[1], NAMES[3]]
    assert len(NIH14(root=release, split="all", views=("AP", "PA"))) == 5
    with pytest.raises(ValueError, match=r"views must name some of \['', 'AP', 'PA'\].*'LL'"):
        NIH14(root=release, split="all", views="LL")
    (release / "train_val_list.txt").unlink()  # has this image
    edit(release / "test_list.txt", lambda _: NAMES[2])
    with pytest.raises(ValueError, match="no image is left: split='test', views='AP'"):
        NIH14(root=release, split="test", views="AP")


def test_transform_and_loader(release: Path) -> None:
    dataset = NIH14(root=release, split="all", transform=images.transform_for(InputSpec(size=16), train="light"))
    loader = torch.utils.data.DataLoader(dataset, batch_size=3, collate_fn=datasets.collate, num_workers=1)
    batches = list(loader)
    assert [batch["image"].shape for batch in batches] == [(3, 3, 16, 16)] * 2
    assert [name for batch in batches for name in batch["id"]] == NAMES


# -- splits -------------------------------------------------------------------------------------------


def test_train_and_val_come_from_the_official_list(release: Path) -> None:
    with pytest.raises(ValueError, match="too few"):  # 3 patients do not make eighths
        NIH14(root=release, split="val")
    rows = [f"{p:08d}_{k:03d}.png,Mass,{k},{p},50,M,PA,1,1,1,1" for p in range(1, 41) for k in range(2)]
    names = [row.split(",")[0] for row in rows]
    for name in names:
        Image.new("L", (4, 4)).save(release / "images_001" / name)
    (release / "Data_Entry_2017_v2020.csv").write_text("\n".join([HEADER, *rows]))
    (release / "train_val_list.txt").write_text("\n".join(names[:64]))
    (release / "test_list.txt").write_text("\n".join(names[64:]))
    train, val, test = (NIH14(root=release, split=split) for split in ("train", "val", "test"))
    assert (len(train), len(val), len(test)) == (56, 8, 16)
    assert sorted(train.ids + val.ids) == names[:64]
    assert not set(train.patient_ids) & set(val.patient_ids)
    assert NIH14(root=release, split="val", seed=1).ids != val.ids

    for file in release.glob("*.txt"):
        file.unlink()
    parts = [NIH14(root=release, split=split) for split in ("train", "val", "test")]
    assert [len(part) for part in parts] == [56, 8, 16]
    assert sorted(name for part in parts for name in part.ids) == names


def test_the_lines_of_cxr_lka(release: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert NIH14(root=release, split="cxr_lka_train").ids == NAMES[:4]  # the list has fewer lines than 80,000
    with pytest.raises(ValueError, match="no image is left: split='cxr_lka_val'"):
        NIH14(root=release, split="cxr_lka_val")
    lines = {"cxr_lka_train": slice(None, 3), "cxr_lka_val": slice(3, None)}
    monkeypatch.setattr("thoraxlib.datasets.nih14._CXR_LKA", lines)
    (release / "train_val_list.txt").write_text("\n".join([NAMES[5], *NAMES[:4]]))
    (release / "test_list.txt").write_text(NAMES[4])
    assert NIH14(root=release, split="cxr_lka_train").ids == [NAMES[5], *NAMES[:2]]  # as listed, not as in the table
    assert NIH14(root=release, split="cxr_lka_val").ids == NAMES[2:4]
    (release / "train_val_list.txt").unlink()
    with pytest.raises(FileNotFoundError, match="no list 'cxr_lka_train'"):
        NIH14(root=release, split="cxr_lka_train")


def test_the_real_split_of_cxr_lka(real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with gzip.open(real_data / "nih14_labels/nih14_labels.csv.gz", "rt") as file:
        rows = list(csv.DictReader(file))
    findings = labels.build("nih14_alphabetical")
    lines = ["Image Index,Finding Labels,Patient ID,View Position"]
    parts: dict[str, list[str]] = {"train_val": [], "test": []}
    for row in rows:
        name = row["Image Index"]
        found = "|".join(finding for finding in findings if row[finding] == "1") or "No Finding"
        lines.append(f"{name},{found},{int(name[:8])},PA")
        parts[row["nih_list"]].append(name)
    (tmp_path / "Data_Entry_2017.csv").write_text("\n".join(lines))
    for part, names in parts.items():
        (tmp_path / f"{part}_list.txt").write_text("\n".join(names))
    files = {row["Image Index"]: tmp_path for row in rows}  # the images are not here, and not needed
    monkeypatch.setattr("thoraxlib.datasets.nih14.index_images", lambda root: files)

    train, val, test = (
        NIH14(root=tmp_path, split=split, labels="nih14_alphabetical")
        for split in ("cxr_lka_train", "cxr_lka_val", "test")
    )
    assert (len(train), len(val), len(test)) == (80_000, 6_524, 25_596)
    patients = [set(part.patient_ids) for part in (train, val, test)]
    assert [len(each) for each in patients] == [25_750, 2_258, 2_797]
    assert len(set.union(*patients)) == sum(map(len, patients))
    # the positives that the original's own loaders find
    assert train.targets.sum(dim=0).tolist() == [
        7523, 1493, 2583, 1268, 7823, 1286, 1204, 125, 12193, 3671, 4263, 2024, 794, 2337
    ]  # fmt: skip
    assert val.targets.sum(dim=0).tolist() == [757, 214, 269, 110, 836, 137, 47, 16, 1589, 363, 445, 218, 82, 300]


def test_lists_with_labels_replace_the_tables(release: Path, tmp_path: Path) -> None:
    folder = tmp_path / "chexnet"
    folder.mkdir()
    vector = ["0"] * 14
    vector[4] = "1"  # Mass
    unknown = ["0"] * 13 + ["nan"]
    lines = [f"images_006/{NAMES[2]} {' '.join(vector)}", f"{NAMES[0]} {' '.join(unknown)}"]
    (folder / "test_1.txt").write_text("\n".join(lines))
    dataset = NIH14(root=release, lists=folder, split="test", labels=["Mass", "Hernia", "No Finding", "AP"])
    assert dataset.ids == [NAMES[2], NAMES[0]]
    nan = torch.nan
    expected = torch.tensor([[1, 0, 0, 0], [0, nan, nan, 0]])
    torch.testing.assert_close(dataset.targets, expected, equal_nan=True)
    by_name = NIH14(root=release, lists=folder, split="test_1.txt")
    assert by_name.ids == dataset.ids


def test_bad_lists(release: Path) -> None:
    cases = {
        f"{NAMES[0]} 0 1\n": r"bad\.txt:1: 14 labels \(Atelectasis, .*got 2",
        f"{NAMES[0]}\n{NAMES[1]} {'0 ' * 14}\n": r"bad\.txt:2",
        f"{NAMES[0]} {'0 ' * 13}2\n": r"bad\.txt:1: labels must be 0, 1 or nan, got '2'",
        f"{NAMES[0]}\n\n{NAMES[0]}\n": r"bad\.txt:3: 00000001_000\.png is listed again, first in line 1",
        f"{NAMES[0]}\n00009999_000.png\n": r"lists 1 of 2 images that the table does not have: 00009999_000\.png",
        "\n": r"bad\.txt lists no image",
    }
    for text, message in cases.items():
        (release / "bad.txt").write_text(text)
        with pytest.raises(ValueError, match=message):
            NIH14(root=release, split="bad")
    with pytest.raises(
        FileNotFoundError, match=r"no list 'trian'.*found: bad\.txt, test_list\.txt, train_val_list\.txt"
    ):
        NIH14(root=release, split="trian")
    (release / "bare").mkdir()
    with pytest.raises(FileNotFoundError, match="no list 'train' in .*bare; found: none"):
        NIH14(root=release, lists=release / "bare")
    with pytest.raises(FileNotFoundError, match="lists: no such folder"):
        NIH14(root=release, lists=release / "nowhere")


# -- bad input ----------------------------------------------------------------------------------------


def test_bad_roots(tmp_path: Path, release: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such folder.*nowhere"):
        NIH14(root=tmp_path / "nowhere")
    with pytest.raises(NotADirectoryError, match="must be a folder"):
        NIH14(root=release / "test_list.txt")
    (tmp_path / "bare").mkdir()
    with pytest.raises(FileNotFoundError, match=r"bare holds none of Data_Entry_2017\*\.csv, labels\.csv"):
        NIH14(root=tmp_path / "bare")
    for file in release.rglob("*.png"):
        file.unlink()
    with pytest.raises(FileNotFoundError, match=r"no image \(\.png.*images\*"):
        NIH14(root=release, split="all")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.replace("Finding Labels", "Diagnosis"),
            "no column 'Finding Labels'; columns found: Image Index, Diag",
        ),
        (lambda t: t.replace("Hernia", "Hernai"), r"\.csv:4: unknown label 'Hernai'.*known: Atelectasis"),
        (lambda t: t + "\n00000009_000.png,Mass", r"\.csv:8: the row has 2 fields, 'Patient ID' is number 4"),
        (lambda t: t + "\n" + ROWS[1], r"\.csv:8: 00000001_001\.png appears again, first in line 3"),
        (lambda t: HEADER, "holds no rows"),
        (lambda t: "", "holds no rows"),
    ],
)
def test_bad_tables(release: Path, change: Callable[[str], str], message: str) -> None:
    edit(release / "Data_Entry_2017_v2020.csv", change)
    with pytest.raises(ValueError, match=message):
        NIH14(root=release, split="all")


def test_a_table_that_is_no_text(release: Path) -> None:
    (release / "Data_Entry_2017_v2020.csv").write_bytes(b"\xff\xfe\x00\x81" * 10)
    with pytest.raises(ValueError, match="no CSV text file"):
        NIH14(root=release, split="all")


def test_bad_boxes(release: Path) -> None:
    edit(release / "BBox_List_2017.csv", lambda t: t.replace("512.0", "half"))
    with pytest.raises(ValueError, match=r"BBox_List_2017\.csv:2: x, y, width, height wanted"):
        NIH14(root=release, split="all")
    edit(release / "BBox_List_2017.csv", lambda t: t.replace("half", "1").replace("Infiltrate", "Infiltrat"))
    with pytest.raises(ValueError, match=r"BBox_List_2017\.csv:2: unknown label 'Infiltrat'"):
        NIH14(root=release, split="all")


def test_missing_images(release: Path) -> None:
    (release / "images_001" / "images" / NAMES[0]).unlink()
    (release / "images_001" / "images" / NAMES[2]).unlink()
    with pytest.raises(
        FileNotFoundError, match=rf"2 of 6 images are missing.*{NAMES[0]}, {NAMES[2]}; pass missing='skip'"
    ):
        NIH14(root=release, split="all")
    assert len(NIH14(root=release, split="test")) == 2  # only what is asked for counts
    with pytest.warns(UserWarning, match="2 of 6 images") as caught:
        dataset = NIH14(root=release, split="all", missing="skip")
    assert len(caught) == 1
    assert dataset.ids == [NAMES[1], *NAMES[3:]]
    assert len(dataset.targets) == len(dataset.patient_ids) == 4
    assert dataset[0]["image"].unique().tolist() == [10]
    with pytest.raises(ValueError, match="missing='ignore': allowed are 'error', 'skip'"):
        NIH14(root=release, split="all", missing="ignore")


def test_nothing_left_after_skipping(release: Path) -> None:
    (release / "train_val_list.txt").unlink()  # has this image
    edit(release / "test_list.txt", lambda _: NAMES[0])
    (release / "images_001" / "images" / NAMES[0]).unlink()
    with pytest.warns(UserWarning, match="1 of 1"), pytest.raises(ValueError, match="no image is left: split='test'"):
        NIH14(root=release, split="test", missing="skip")


def test_truncated_images(release: Path) -> None:
    cut, empty = (release / "images_001" / "images" / NAMES[index] for index in (0, 2))
    cut.write_bytes(cut.read_bytes()[:-30])
    empty.write_bytes(b"")
    dataset = NIH14(root=release, split="all")
    for index in (0, 2):
        with pytest.raises(ValueError, match=NAMES[index]):
            dataset[index]
    with pytest.warns(UserWarning, match=rf"2 of 6 images.*cut off.*{NAMES[0]}, {NAMES[2]}"):
        dataset = NIH14(root=release, split="all", missing="skip")
    assert all(dataset[index]["image"].shape == (1, 32, 64) for index in range(len(dataset)))


def test_names_in_the_table_do_not_leave_the_folder(release: Path, tmp_path: Path) -> None:
    Image.new("L", (4, 4)).save(tmp_path / "outside.png")
    for name in ("../outside.png", str(tmp_path / "outside.png")):
        edit(release / "Data_Entry_2017_v2020.csv", lambda t, name=name: t.replace(NAMES[0], name))
        with pytest.raises(FileNotFoundError, match="1 of 6 images are missing"):
            NIH14(root=release, split="all")
        edit(release / "Data_Entry_2017_v2020.csv", lambda t, name=name: t.replace(name, NAMES[0]))


# -- scale and real data ------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_whole_release_is_indexed_in_seconds(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    rows = [f"{n:08d}_000.png,Mass|Nodule,0,{n // 4},50,M,PA,1,1,1,1" for n in range(112_120)]
    for row in rows:
        (tmp_path / "images" / row.partition(",")[0]).touch()
    (tmp_path / "Data_Entry_2017.csv").write_text("\n".join([HEADER, *rows]))
    start = time.process_time()
    dataset = NIH14(root=tmp_path, split="all")
    assert len(dataset) == 112_120
    assert time.process_time() - start < 10


@pytest.mark.parametrize("folder", ["nih_mini", "nih_tiny64"])
def test_real_images(real_data: Path, folder: str) -> None:
    root = real_data / folder
    with (root / "splits.csv").open(encoding="utf-8") as file:
        expected: dict[str, list[str]] = {}
        for row in csv.reader(file):
            expected.setdefault(row[1], []).append(row[0])
    expected.pop("split")
    for split, names in expected.items():
        assert sorted(NIH14(root=root, split=split).ids) == sorted(names)
    whole = datasets.build("nih14", root=root, split="all", labels="nih15")
    assert len(whole) == sum(map(len, expected.values()))
    side: Any = {"nih_mini": 320, "nih_tiny64": 64}[folder]
    boxed = [whole[index] for index in range(len(whole)) if index % 97 == 0 or whole.ids[index] in boxed_names(root)]
    assert all(sample["image"].shape == (1, side, side) for sample in boxed)
    boxes = torch.cat([sample["boxes"] for sample in boxed])
    assert len(boxes) == {"nih_mini": 19, "nih_tiny64": 8}[folder]
    assert boxes.min() >= 0
    assert boxes.max() <= side
    for sample in boxed:  # what is boxed is labelled
        assert (sample["labels"][sample["box_labels"]] == 1).all()


def boxed_names(root: Path) -> set[str]:
    with (root / "bbox.csv").open(encoding="utf-8") as file:
        return {row[0] for row in csv.reader(file)}


def test_real_views_and_sexes(real_data: Path) -> None:
    dataset = NIH14(root=real_data / "nih_mini", split="dev_multi", labels=["AP", "Male"])
    assert dataset.targets.sum(0).tolist() == [50, 161]  # the table of its README


def test_abnormal_is_any_finding(tmp_path: Path) -> None:
    from thoraxlib.datasets import build

    pictures = build("synthetic", size=32, length=50, labels="abnormal", masks=False)
    whole = build("synthetic", size=32, length=50, labels="nih15", masks=False)
    assert torch.equal(pictures.targets[:, 0], 1 - whole.targets[:, 14])
    assert torch.equal(pictures.targets[:, 0], (whole.targets[:, :14] == 1).any(dim=1).float())


def test_lists_of_alinstein_x_ray(tmp_path: Path) -> None:
    """CSV lists with a header and 14 labels, and text lists with one: normal or abnormal."""
    from PIL import Image

    from thoraxlib.labels import build as label_set

    (tmp_path / "images").mkdir()
    lines = ["Image Index,Finding Labels,Patient ID,View Position"]
    for k, finding in enumerate(["No Finding", "Mass", "Edema|Mass", "No Finding"]):
        Image.new("L", (8, 8)).save(tmp_path / "images" / f"{k}.png")
        lines.append(f"{k}.png,{finding},{k},PA")
    (tmp_path / "Data_Entry_2017.csv").write_text("\n".join(lines) + "\n")
    findings = label_set("nih14")
    marks = {name: ["1" if label == name else "0" for label in findings] for name in ("Mass", "Hernia", "")}
    header = "FileName," + ",".join(findings)
    rows = [f"1.png,{','.join(marks['Hernia'])}", f"0.png,{','.join(marks[''])}"]
    (tmp_path / "train_label.csv").write_text("\n".join([header, *rows]) + "\n")
    (tmp_path / "binary_val.txt").write_text("3.png 1\n2.png 0\n")

    listed = NIH14(root=tmp_path, split="train_label", labels=["Hernia", "Mass", "Abnormal", "No Finding"])
    assert listed.ids == ["1.png", "0.png"]
    assert listed.targets.tolist() == [[1, 0, 1, 0], [0, 0, 0, 1]]
    binary = NIH14(root=tmp_path, split="binary_val", labels=["Abnormal", "Mass"])
    assert binary.ids == ["3.png", "2.png"]
    assert binary.targets.tolist() == [[1, 0], [0, 1]]
    assert NIH14(root=tmp_path, split="all", labels="abnormal").targets[:, 0].tolist() == [0, 1, 1, 0]
    (tmp_path / "train_label.csv").write_text("FileName,Mass\n1.png,1\n")
    with pytest.raises(ValueError, match=r"train_label.csv:1: the header must be FileName, Atelectasis"):
        NIH14(root=tmp_path, split="train_label")
