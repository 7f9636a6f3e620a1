"""A user's own images with a table: every option and message, the check, folds."""

from __future__ import annotations

import gzip
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import thoraxlib
from thoraxlib import datasets
from thoraxlib.datasets import columns
from thoraxlib.registry import OptionError

NAN = math.nan


def pictures(root: Path, names: Sequence[str], size: tuple[int, int] = (20, 10)) -> None:
    """Write an image of (width, height) for each name, with another grey each."""
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", size, number % 256).save(path)


def table(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def rows(data: Any) -> dict[str, list[float]]:
    return {name: [round(x, 3) for x in row] for name, row in zip(data.ids, data.targets.tolist(), strict=True)}


def same(found: dict[str, list[float]], wanted: dict[str, list[float]]) -> bool:
    return list(found) == list(wanted) and all(
        np.array_equal(found[name], wanted[name], equal_nan=True) for name in wanted
    )


BASIC = "file,pid,Mass,Edema,note\na.png,1,1,0,ok\nb.png,1,no,yes,\nc.png,2,,TRUE,x\nd.png,3,-1,0.0,x\n"


@pytest.fixture
def basic(tmp_path: Path) -> dict[str, Any]:
    pictures(tmp_path / "images", ["a.png", "b.png", "c.png", "d.png"])
    path = table(tmp_path / "labels.csv", BASIC)
    return {"table": path, "root": tmp_path / "images", "image": "file", "patient": "pid"}


# -- reading -----------------------------------------------------------------------------------------------------------


def test_one_column_for_each_label(basic: dict[str, Any]) -> None:
    data = datasets.build("csv", **basic)
    assert isinstance(data, datasets.ChestDataset)
    assert data.labels == ("Mass", "Edema")
    wanted = {"a.png": [1.0, 0.0], "b.png": [0.0, 1.0], "c.png": [NAN, 1.0], "d.png": [NAN, 0.0]}
    assert same(rows(data), wanted)
    assert data.patient_ids == ["1", "1", "2", "3"]
    sample = data[3]
    assert sample["id"] == "d.png"
    assert sample["image"].shape == (1, 10, 20)
    assert sample["image"].unique().tolist() == [3]
    assert "boxes" not in sample
    assert not hasattr(data, "boxed")


def test_labels_are_chosen_in_any_spelling(basic: dict[str, Any]) -> None:
    basic["table"].write_text(BASIC.replace("Mass,Edema", "Pleural_Effusion,Edema"))
    with pytest.warns(UserWarning, match="unknown for all images: Hernia"):
        data = datasets.build("csv", labels=["Edema", "effusion", "Hernia"], **basic)
    assert data.labels == ("Edema", "effusion", "Hernia")
    assert np.array_equal(data.targets[0].tolist(), [0, 1, NAN], equal_nan=True)
    with pytest.raises(
        ValueError, match=r"none of \['Hernia'\] is a column of .*columns left: Pleural_Effusion, Edema"
    ):
        datasets.build("csv", labels=["Hernia"], **basic)


def test_transform(basic: dict[str, Any]) -> None:
    spec = thoraxlib.input_spec.InputSpec(size=(16, 16))
    data = datasets.build("csv", transform=thoraxlib.images.transform_for(spec), **basic)
    assert data[0]["image"].shape == (3, 16, 16)


def test_unknown_values(basic: dict[str, Any]) -> None:
    basic["table"].write_text("file,pid,Mass\na.png,1,u\nb.png,1,?\nc.png,2,1\nd.png,3,NA\n")
    data = datasets.build("csv", unknown=["?", "U"], **basic)
    assert np.array_equal(data.targets[:, 0].tolist(), [NAN, NAN, 1, NAN], equal_nan=True)
    with pytest.raises(ValueError, match=r"labels.csv:2: Mass is 'u'.*check\('.*labels.csv', ...\) lists all faults"):
        datasets.build("csv", labels=["Mass"], **basic)
    with pytest.raises(ValueError, match="unknown must be a sequence of texts, got '-1'"):
        datasets.build("csv", unknown="-1", **basic)


def test_columns_without_labels_are_left_out_or_refused(basic: dict[str, Any]) -> None:
    text = "file,pid,Mass,grade,Unnamed: 0,blank\n" + "".join(
        f"{name}.png,1,1,{g},1,\n" for g, name in enumerate("abcd")
    )
    basic["table"].write_text(text)
    assert datasets.build("csv", **basic).labels == ("Mass",)
    pictures(basic["root"], [f"x{k}.png" for k in range(40)])
    many = "".join(f"x{k}.png,1,{k % 2 if k != 30 else 'maybe'}\n" for k in range(40))
    basic["table"].write_text("file,pid,Mass\n" + many)
    with pytest.raises(ValueError, match=r"nearly all cells of the column 'Mass'.*labels.csv:32: Mass is 'maybe'"):
        datasets.build("csv", **basic)
    basic["table"].write_text("file,pid,grade\na.png,1,mild\n")
    with pytest.raises(ValueError, match=r"no column of labels \(0, 1, true.*-1\).*grade is 'mild'"):
        datasets.build("csv", **basic)


LISTED = "file,pid,finding\na.png,1,Mass|Edema\nb.png,1,No Finding\nc.png,2,\nd.png,3, edema | ?\n"


def test_labels_in_one_column(basic: dict[str, Any]) -> None:
    basic["table"].write_text(LISTED)
    listed = {"labels_column": "finding", "unknown": ["?"], **basic}
    data = datasets.build("csv", **listed)
    assert data.labels == ("Edema", "Mass")
    wanted = {"a.png": [1, 1], "b.png": [0, 0], "c.png": [NAN, NAN], "d.png": [1, NAN]}
    assert same(rows(data), wanted)
    data = datasets.build("csv", labels=["Mass", "No Finding"], **listed)
    assert same(rows(data), {"a.png": [1, 0], "b.png": [0, 1], "c.png": [NAN, NAN], "d.png": [NAN, NAN]})
    data = datasets.build("csv", labels=["Mass"], negative=["Edema", "No Finding"], **listed)
    assert data.targets[0].tolist() == [1]
    with pytest.raises(ValueError, match=r"the column 'finding' has none of the labels \['Hernia'\], but 'Mass|Edema'"):
        datasets.build("csv", labels=["Hernia"], **listed)
    with pytest.warns(UserWarning, match="unknown for all images: Hernia"):
        assert datasets.build("csv", labels=["Hernia", "Mass"], **listed).targets[:, 0].isnan().all()


def test_separators(basic: dict[str, Any]) -> None:
    basic["table"].write_text("file,pid,finding\na.png,1,Mass|Edema\nb.png,1,normal\n")
    basic["labels_column"] = "finding"
    assert datasets.build("csv", separator=None, **basic).labels == ("Mass|Edema",)
    basic["table"].write_text("file,pid,finding\na.png,1,Mass; Edema\nb.png,1,normal\n")
    assert datasets.build("csv", separator=";", **basic).labels == ("Edema", "Mass")
    basic["table"].write_text("file,pid,finding\na.png,1,healthy\nb.png,1,normal\n")
    with pytest.raises(ValueError, match="the column 'finding' has no label, but 'healthy', 'normal'"):
        datasets.build("csv", **basic)


@pytest.mark.parametrize("kind", ["tsv", "semicolon", "gz", "gz and large", "large", "parquet", "typed parquet"])
def test_forms_of_the_table(kind: str, basic: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = datasets.build("csv", **basic)
    path = basic["table"]
    if "large" in kind:  # read by pyarrow
        pytest.importorskip("pyarrow")
        monkeypatch.setattr(columns, "_SMALL", 0)
    if kind == "tsv":
        path = table(path.with_suffix(".tsv"), BASIC.replace(",", "\t"))
    elif kind == "semicolon":
        path = table(path, "\ufeff" + BASIC.replace(",", ";"))
    elif "gz" in kind:
        path = path.with_suffix(".csv.gz")
        path.write_bytes(gzip.compress(BASIC.encode()))
    elif kind == "large":
        path = table(path, BASIC.replace(",ok", ',"two\nlines"').replace("b.png", " b.png ") + ",,,,\n")
    elif "parquet" in kind:
        pyarrow = pytest.importorskip("pyarrow")
        cells = [line.split(",") for line in BASIC.splitlines()]
        made = {name: list(column) for name, *column in zip(*cells, strict=True)}
        if kind == "typed parquet":
            made |= {"pid": [1, 1, 2, 3], "Mass": [1.0, 0.0, None, -1.0], "Edema": [False, True, True, False]}
        path = path.with_suffix(".parquet")
        columns_ = {k: pyarrow.array(v) for k, v in made.items()}
        columns_["file"] = columns_["file"].dictionary_encode()
        __import__("pyarrow.parquet").parquet.write_table(pyarrow.table(columns_), path)
    data = datasets.build("csv", **{**basic, "table": path})
    assert same(rows(data), rows(wanted))
    assert data.patient_ids == wanted.patient_ids
    assert data.labels == wanted.labels


def test_large_tables_name_their_lines_too(basic: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyarrow")
    monkeypatch.setattr(columns, "_SMALL", 0)
    basic["table"].write_text('file,pid,Mass,note\na.png,1,1,"two\nlines"\n,,,\nb.png,2,maybe,x\n')
    with pytest.raises(ValueError, match=r"labels.csv:5: Mass is 'maybe'"):
        datasets.build("csv", labels=["Mass"], **basic)
    # pyarrow refuses this row, and the standard library reads it
    basic["table"].write_text("file,pid,Mass\na.png,1,1,more\nb.png,2,0\n")
    assert len(datasets.build("csv", **basic)) == 2


def test_no_table(basic: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match="table: no such file"):
        datasets.build("csv", **{**basic, "table": tmp_path / "nothing.csv"})
    empty = table(tmp_path / "empty.csv", "file,pid\n")
    with pytest.raises(ValueError, match="holds no rows"):
        datasets.build("csv", **{**basic, "table": empty})
    (tmp_path / "bad.csv.gz").write_bytes(b"no gzip")
    with pytest.raises(ValueError, match="no CSV text file"):
        datasets.build("csv", **{**basic, "table": tmp_path / "bad.csv.gz"})
    pytest.importorskip("pyarrow")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(ValueError, match="is no Parquet file"):
        datasets.build("csv", **{**basic, "table": tmp_path / "bad.parquet"})
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"reading Parquet needs pyarrow: pip install \"thoraxlib\[archive\]\""):
        datasets.build("csv", **{**basic, "table": tmp_path / "bad.parquet"})


def test_odd_columns(basic: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no column 'nothing'; columns found: file, pid, Mass, Edema, note"):
        datasets.build("csv", **{**basic, "image": "nothing"})
    with pytest.raises(ValueError, match="'file' is given for two options"):
        datasets.build("csv", **{**basic, "patient": "file"})
    table(basic["table"], "file,pid,pid,Mass\na.png,1,1,1\n")
    with pytest.raises(ValueError, match="2 columns 'pid': one is wanted"):
        datasets.build("csv", **basic)
    pyarrow = pytest.importorskip("pyarrow")
    made = pyarrow.table({"file": ["a.png"], "pid": ["1"], "Mass": [1], "lists": [[1, 2]]})
    __import__("pyarrow.parquet").parquet.write_table(made, tmp_path / "lists.parquet")
    with pytest.raises(ValueError, match="'lists' has the type list<.*text or numbers are needed"):
        datasets.build("csv", **{**basic, "table": tmp_path / "lists.parquet", "patient": "lists"})


# -- images ------------------------------------------------------------------------------------------------------------


def test_names_of_images(tmp_path: Path) -> None:
    pictures(tmp_path / "images", ["x/1.png", "x/2.jpg", "y/z/3.tif", "4.jpeg"])
    names = ["x/1.png", "2.jpg", "3", "4", ".\\x\\1.png"]
    for name in names[:4]:
        path = table(tmp_path / "labels.csv", f"image,pid,Mass\n{name},1,1\n")
        data = datasets.build("csv", table=path, root=tmp_path / "images", patient="pid")
        assert data[0]["image"].unique().item() <= 3
        assert data.ids == [name]
    for name in (str(tmp_path / "images" / "x" / "1.png"), names[4]):
        path = table(tmp_path / "labels.csv", f"image,pid,Mass\n{name},1,1\n")
        assert datasets.build("csv", table=path, root=tmp_path / "images", patient="pid")[0]["image"].max() == 0
    pictures(tmp_path / "images", ["y/1.png"])
    path = table(tmp_path / "labels.csv", "image,pid,Mass\n1,1,1\n")
    with pytest.raises(ValueError, match=r"1 names fit several files, paths are needed: 1 \(.*x/1.png"):
        datasets.build("csv", table=path, root=tmp_path / "images", patient="pid")


def test_dicom_and_default_root(tmp_path: Path) -> None:
    pydicom_data = pytest.importorskip("pydicom.data")
    content = Path(pydicom_data.get_testdata_file("CT_small.dcm")).read_bytes()
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "1.2.3.dcm").write_bytes(content)
    path = table(tmp_path / "labels.csv", "image,pid,Mass\n1.2.3,1,1\n")
    assert datasets.build("csv", table=path, patient="pid")[0]["image"].shape == (1, 128, 128)


def test_missing_images(basic: dict[str, Any]) -> None:
    (basic["root"] / "b.png").unlink()
    (basic["root"] / "c.png").write_bytes(b"no image")
    with pytest.raises(FileNotFoundError, match=r"1 of 4 images are missing.*b.png.*missing='skip'.*check\("):
        datasets.build("csv", **basic)
    with pytest.warns(UserWarning, match="2 of 4 images.*missing or cut off.*b.png, c.png"):
        data = datasets.build("csv", missing="skip", **basic)
    assert data.ids == ["a.png", "d.png"]
    assert data.targets[:, 1].tolist() == [0, 0]
    with pytest.raises(ValueError, match="missing='drop': allowed are"):
        datasets.build("csv", missing="drop", **basic)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        datasets.build("csv", **{**basic, "root": basic["root"] / "nothing"})


def test_training_copy_stands_for_the_folder(basic: dict[str, Any], tmp_path: Path) -> None:
    spec = thoraxlib.input_spec.InputSpec(size=(8, 8))
    thoraxlib.prepare(basic["root"], tmp_path / "copy", spec=spec, num_workers=0, progress=False)
    boxes = table(tmp_path / "boxes.csv", "file,label,x1,y1,x2,y2\nb.png,Mass,10,5,20,10\n")
    given_ = {**basic, "root": tmp_path / "copy", "boxes": boxes, "box_label": "label"}
    sample = datasets.build("csv", **given_)[1]
    assert sample["image"].shape == (1, 8, 8)
    assert sample["boxes"].tolist() == [[4, 4, 8, 8]]


def test_rows_twice_and_without_name(basic: dict[str, Any]) -> None:
    basic["table"].write_text("file,pid,Mass\na.png,1,1\nb.png,1,0\na.png,1,1\n")
    with pytest.raises(ValueError, match=r"1 rows of an image that came before: .*labels.csv:4: a.png, first .*csv:2"):
        datasets.build("csv", **basic)
    basic["table"].write_text("file,pid,Mass\na.png,1,1\n,1,0\n")
    with pytest.raises(ValueError, match=r"1 rows without an image's name: .*labels.csv:3"):
        datasets.build("csv", **basic)
    basic["table"].write_text("file,pid,Mass\na.png,1,1\nb.png,nan,0\n")
    with pytest.raises(ValueError, match=r"1 images without a patient: .*labels.csv:3"):
        datasets.build("csv", **basic)
    basic["table"].write_text("file,pid,Mass\n,1,1\n")
    with pytest.raises(ValueError, match="without an image's name"):
        datasets.build("csv", **basic)


# -- attributes and parts ----------------------------------------------------------------------------------------------

ATTRIBUTES = """file,pid,study,view,age,sex,hospital,Mass
a.png,1,s1,PA,061Y,female,north,1
b.png,1,s2,AP,61.5,M,north,0
c.png,2,s3,PA,006M,x,south,0
d.png,3,s4,L,,F,,1
"""


def test_attributes(basic: dict[str, Any]) -> None:
    basic["table"].write_text(ATTRIBUTES)
    given_ = {**basic, "study": "study", "view": "view", "age": "age", "sex": "sex", "site": "hospital"}
    data = datasets.build("csv", **given_)
    assert data.study_ids == ["s1", "s2", "s3", "s4"]
    assert data.views == ["PA", "AP", "PA", "L"]
    assert np.allclose(data.ages, [61, 61.5, 0.5, NAN], equal_nan=True)
    assert data.sexes == ["F", "M", "x", "F"]
    assert data.sites == ["north", "north", "south", ""]
    part = datasets.build("csv", views=["AP", "L"], **given_)
    assert part.ids == ["b.png", "d.png"]
    assert part.sexes == ["M", "F"]
    assert datasets.Subset(part, [1]).sites == [""]
    with pytest.raises(ValueError, match=r"views must name some of \['AP', 'L', 'PA'\].*got 'lateral'"):
        datasets.build("csv", views="lateral", **given_)
    with pytest.raises(ValueError, match="views='PA' needs view="):
        datasets.build("csv", views="PA", **basic)
    basic["table"].write_text(ATTRIBUTES.replace("061Y", "old"))
    with pytest.warns(UserWarning, match="1 values of 'age' that are no age.*old"):
        assert math.isnan(datasets.build("csv", **given_).ages[0])


def test_without_patients(basic: dict[str, Any]) -> None:
    del basic["patient"]
    basic["table"].write_text("file,Mass\na.png,1\nb.png,0\n")
    with pytest.warns(UserWarning, match=r"every image counts as a patient of its own \(patient= names their column"):
        assert datasets.build("csv", **basic).patient_ids == ["a.png", "b.png"]


def many(tmp_path: Path, *, parts: bool = False) -> dict[str, Any]:
    """Write 120 images of 60 patients."""
    rng = np.random.default_rng(0)
    values = rng.random((120, 2)) < 0.3
    head = "image,pid,Mass,Edema" + (",part" if parts else "")
    lines = [
        f"{k}.png,p{k // 2},{int(mass)},{int(edema)}" + (f",{('train', 'train', 'test')[k // 2 % 3]}" if parts else "")
        for k, (mass, edema) in enumerate(values.tolist())
    ]
    pictures(tmp_path / "images", [f"{k}.png" for k in range(120)], (4, 4))
    path = table(tmp_path / "labels.csv", "\n".join([head, *lines]) + "\n")
    return {"table": path, "root": tmp_path / "images", "patient": "pid"}


def test_split_by_patient(tmp_path: Path) -> None:
    given_ = many(tmp_path)
    parts = {name: datasets.build("csv", split=name, **given_) for name in ("train", "val", "test")}
    assert [len(part) for part in parts.values()] == pytest.approx([84, 12, 24], abs=4)
    everything = datasets.build("csv", **given_)
    assert sorted(name for part in parts.values() for name in part.ids) == sorted(everything.ids)
    owners = [set(part.patient_ids) for part in parts.values()]
    assert sum(map(len, owners)) == len(set.union(*owners))
    assert {name: part.ids for name, part in datasets.stratified_split(everything).items()} == {
        name: part.ids for name, part in parts.items()
    }
    # the split does not depend on the labels that are asked for
    assert datasets.build("csv", split="test", labels=["Edema"], **given_).ids == parts["test"].ids
    assert datasets.build("csv", split="test", seed=1, **given_).ids != parts["test"].ids
    with pytest.raises(ValueError, match="split='valid': allowed are 'all', 'train', 'val', 'test'; split_column="):
        datasets.build("csv", split="valid", **given_)


def test_split_column(tmp_path: Path) -> None:
    given_ = many(tmp_path, parts=True) | {"split_column": "part"}
    assert len(datasets.build("csv", split="train", **given_)) == 80
    assert len(datasets.build("csv", split="test", **given_)) == 40
    assert len(datasets.build("csv", **given_)) == 120
    with pytest.raises(ValueError, match="split='val': allowed are 'all', 'test', 'train'"):
        datasets.build("csv", split="val", **given_)
    with pytest.raises(ValueError, match="fold= divides all images, but the parts are given"):
        datasets.build("csv", split="val", fold=(0, 2), **given_)
    path = given_["table"]
    path.write_text(path.read_text().replace("0.png,p0,0,1,train", "0.png,p0,0,1,test"))
    assert "0.png,p0,0,1,test" in path.read_text()
    with pytest.warns(UserWarning, match=r"1 patients are in several parts.*p0 \(test, train\)"):
        datasets.build("csv", split="train", **given_)


def test_folds(tmp_path: Path) -> None:
    given_ = many(tmp_path)
    everything = datasets.build("csv", **given_)
    whole = datasets.folds(everything, 4, seed=3)
    assert len(whole) == 4
    assert sorted(name for _, val in whole for name in val.ids) == sorted(everything.ids)
    prevalence = everything.targets.mean(dim=0)
    for number, (train, val) in enumerate(whole):
        assert not set(train.patient_ids) & set(val.patient_ids)
        assert sorted([*train.ids, *val.ids]) == sorted(everything.ids)
        assert torch.allclose(val.targets.mean(dim=0), prevalence, atol=0.08)
        for split, part in (("train", train), ("val", val)):
            assert datasets.build("csv", split=split, fold=(number, 4), seed=3, **given_).ids == part.ids
    with pytest.raises(ValueError, match="k=1: a number of folds"):
        datasets.folds(everything, 1)
    with pytest.raises(ValueError, match="60 patients are too few"):
        datasets.folds(everything, 61)
    with pytest.raises(ValueError, match="split='test': allowed are 'train', 'val' with fold"):
        datasets.build("csv", split="test", fold=(0, 4), **given_)
    for fold in ((4, 4), (0,), 3, (0.5, 2)):
        with pytest.raises(ValueError, match="the number of a fold"):
            datasets.build("csv", split="val", fold=fold, **given_)


# -- boxes and masks ---------------------------------------------------------------------------------------------------


def test_boxes_in_their_own_table(basic: dict[str, Any], tmp_path: Path) -> None:
    boxes = table(
        tmp_path / "boxes.csv",
        "file,what,x,y,width,height\na.png,Mass,2,1,4,3\nd.png,Edema,0,0,20,10\na.png,Edema,1,1,2,2\n"
        "a.png,Hernia,1,1,2,2\nb.png,,,,,\n",
    )
    data = datasets.build("csv", boxes=boxes, box_label="what", **basic)
    assert data.boxed.tolist() == [True, False, False, True]
    assert data[0]["boxes"].tolist() == [[2, 1, 6, 4], [1, 1, 3, 3]]
    assert data[0]["boxes"].canvas_size == (10, 20)
    assert data[0]["box_labels"].tolist() == [0, 1]
    assert data[1]["boxes"].shape == (0, 4)
    assert data[-1]["boxes"].tolist() == [[0, 0, 20, 10]]
    one = datasets.build("csv", boxes=boxes, box_label="what", labels=["edema"], **basic)
    assert one[0]["boxes"].tolist() == [[1, 1, 3, 3]]
    assert datasets.build("csv", boxes=boxes, labels=["Edema"], **basic)[0]["boxes"].shape == (3, 4)
    half = datasets.build("csv", boxes=boxes, box_label="what", box_size=(20, 40), **basic)
    assert half[0]["boxes"].tolist() == [[1, 0.5, 3, 2], [0.5, 0.5, 1.5, 1.5]]
    with pytest.raises(ValueError, match="box_label must name the column of .*boxes.csv"):
        datasets.build("csv", boxes=boxes, **basic)
    boxes.write_text("file,what,x,y,width,height\na.png,Nodule,2,1,4,3\n")
    with pytest.raises(ValueError, match="no box has one of the labels Mass, Edema; labels of boxes: Nodule"):
        datasets.build("csv", boxes=boxes, box_label="what", **basic)
    boxes.write_text("file,what,x,y,width,height\na.png,Mass,2,1,4,3\nz.png,Mass,2,1,4,3\n")
    with pytest.warns(UserWarning, match="1 images have boxes, but no row in the table: z.png"):
        datasets.build("csv", boxes=boxes, box_label="what", **basic)
    boxes.write_text("file,what,x,y,width,height\nz.png,Mass,2,1,4,3\n")
    with pytest.raises(ValueError, match=r"boxes.csv has boxes of none of the images, only of z.png"):
        datasets.build("csv", boxes=boxes, box_label="what", **basic)


def test_boxes_in_the_table(basic: dict[str, Any]) -> None:
    text = "file,pid,finding,x_min,y_min,x_max,y_max\n"
    text += "a.png,1,Mass,2,1,6,4\na.png,1,Edema,0,0,5,5\nb.png,1,No finding,,,,\n"
    basic["table"].write_text(text)
    data = datasets.build("csv", labels_column="finding", boxes=True, **basic)
    assert data.ids == ["a.png", "b.png"]
    assert same(rows(data), {"a.png": [1, 1], "b.png": [0, 0]})
    assert data[0]["boxes"].tolist() == [[2, 1, 6, 4], [0, 0, 5, 5]]
    assert [data.labels[k] for k in data[0]["box_labels"].tolist()] == ["Mass", "Edema"]
    with pytest.raises(ValueError, match="boxes=True joins the rows of an image"):
        datasets.build("csv", labels_column="finding", **basic)
    basic["table"].write_text(text.replace("a.png,1,Edema", "a.png,2,Edema"))
    with pytest.raises(ValueError, match=r"1 rows that disagree in 'pid' with the first of their image: .*csv:3"):
        datasets.build("csv", labels_column="finding", boxes=True, **basic)
    # a label column, as in RSNA's table
    basic["table"].write_text("file,pid,x,y,width,height,Target\na.png,1,2,1,4,3,1\na.png,1,8,1,4,3,1\nb.png,2,,,,,0\n")
    data = datasets.build("csv", labels=["Target"], boxes=True, **basic)
    assert data.targets.tolist() == [[1], [0]]
    assert data[0]["boxes"].tolist() == [[2, 1, 6, 4], [8, 1, 12, 4]]


def test_joined_rows_know_what_one_of_them_knows(basic: dict[str, Any]) -> None:
    head = "file,pid,Mass,Edema,x1,y1,x2,y2,of\n"
    basic["table"].write_text(head + "b.png,1,0,,,,,,\na.png,1,,0,1,1,2,2,Mass\na.png,1,1,,,,,,\na.png,1,0,,,,,,\n")
    data = datasets.build("csv", boxes=True, box_label="of", **basic)
    assert same(rows(data), {"b.png": [0, NAN], "a.png": [1, 0]})
    assert data.boxed.tolist() == [False, True]


@pytest.mark.parametrize("cells", ["2,1,x,3", "2,1,,3", "2,1,2,3", "2,1,inf,3"])
def test_wrong_boxes(cells: str, basic: dict[str, Any], tmp_path: Path) -> None:
    boxes = table(tmp_path / "boxes.csv", f"file,l,t,r,b\na.png,{cells}\n")
    given_ = {**basic, "labels": ["Mass"], "boxes": boxes, "box_columns": ["l", "t", "r", "b"]}
    with pytest.raises(ValueError, match=r"not four numbers \(l, t, r, b\) with an area: .*boxes.csv:2"):
        datasets.build("csv", **given_)
    boxes.write_text("file,l,t,r,b\na.png,2,1,4,3\n")
    assert datasets.build("csv", **given_)[0]["boxes"].tolist() == [[2, 1, 4, 3]]
    assert datasets.build("csv", box_format="xywh", **given_)[0]["boxes"].tolist() == [[2, 1, 6, 4]]


def test_wrong_options_of_boxes(basic: dict[str, Any], tmp_path: Path) -> None:
    given_ = {**basic, "labels": ["Mass"], "boxes": True}
    with pytest.raises(ValueError, match=r"no columns of boxes, such as x1, y1, x2, y2; box_columns="):
        datasets.build("csv", **given_)
    with pytest.raises(ValueError, match=r"box_columns must name four columns, got \['l'\]"):
        datasets.build("csv", box_columns=["l"], **given_)
    with pytest.raises(ValueError, match="box_format='yolo': allowed are 'xyxy', 'xywh'"):
        datasets.build("csv", box_format="yolo", **given_)
    boxes = table(tmp_path / "boxes.csv", "file,x1,y1,x2,y2\na.png,2,1,22,3\n")
    outside = datasets.build("csv", **{**given_, "boxes": boxes})
    with pytest.raises(ValueError, match=r"a.png: true box .* leaves the image of 20 x 10 pixels.*box_size= is"):
        outside[0]
    boxes.write_text("file,x1,y1,x2,y2\na.png,2,1,21,3\n")  # rounded by a pixel
    assert datasets.build("csv", **{**given_, "boxes": boxes})[0]["boxes"].tolist() == [[2, 1, 20, 3]]
    with pytest.raises(ValueError, match="size=0: one side"):
        datasets.build("csv", box_size=0, **{**given_, "boxes": boxes})


def test_masks(basic: dict[str, Any], tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "c.jpg", "d.png"):
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.new("L", (10, 5), 255).save(tmp_path / "masks" / name)
    data = datasets.build("csv", masks=tmp_path / "masks", **basic)
    mask = data[2]["organ_mask"]
    assert (mask.dtype, tuple(mask.shape), mask.unique().tolist()) == (torch.uint8, (1, 10, 20), [1])
    (tmp_path / "masks" / "b.png").unlink()
    with pytest.raises(FileNotFoundError, match="1 of 4 images have no mask in .*: b.png"):
        datasets.build("csv", masks=tmp_path / "masks", **basic)
    with pytest.warns(UserWarning, match="skipped: b.png"):
        data = datasets.build("csv", masks=tmp_path / "masks", missing="skip", **basic)
    assert data.ids == ["a.png", "c.png", "d.png"]
    assert data[1]["organ_mask"].shape == (1, 10, 20)


def test_masks_of_names_in_folders(tmp_path: Path) -> None:
    pictures(tmp_path / "images", ["x/1.png", "y/1.png"])
    path = table(tmp_path / "labels.csv", "image,pid,Mass\nx/1.png,1,1\ny/1.png,2,0\n")
    pictures(tmp_path / "flat", ["x_1.png", "y_1.png"])
    pictures(tmp_path / "deep", ["x/1.png", "y/1.png"])
    for folder in ("flat", "deep"):
        given_ = {"table": path, "root": tmp_path / "images", "patient": "pid", "masks": tmp_path / folder}
        data = datasets.build("csv", **given_)
        assert [data[k]["organ_mask"].max().item() for k in (0, 1)] == [0, 1]


# -- property ----------------------------------------------------------------------------------------------------------

CELLS = {1.0: ["1", "1.0", "true", "Yes"], 0.0: ["0", "0.0", "FALSE", "no"], NAN: ["", "-1", "-1.0", "nan", " "]}


@settings(max_examples=40, deadline=None)
@given(
    values=st.lists(st.lists(st.sampled_from([*CELLS]), min_size=3, max_size=3), min_size=2, max_size=12),
    spelling=st.randoms(use_true_random=False),
    listed=st.booleans(),
    large=st.booleans(),
)
def test_labels_read_back(
    values: list[list[float]], spelling: Any, listed: bool, large: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("own")
    labels = ("Mass", "Pleural Effusion", "Hernia")
    if listed:  # such a column has no unknown labels
        values = [[float(value == 1) for value in row] for row in values]
        lines = ["image,pid,Finding Labels"]
        lines += [
            f"{k},{k},{'|'.join(x for x, v in zip(labels, row, strict=True) if v) or 'No Finding'}"
            for k, row in enumerate(values)
        ]
    else:
        lines = ["image,pid," + ",".join(labels)]
        lines += [f"{k},{k}," + ",".join(spelling.choice(CELLS[v]) for v in row) for k, row in enumerate(values)]
    pictures(root, [f"{k}.png" for k in range(len(values))], (2, 2))
    path = table(root / "labels.csv", "\n".join(lines) + "\n")
    options = {"labels_column": "Finding Labels"} if listed else {}
    with pytest.MonkeyPatch.context() as patch:
        if large:
            patch.setattr(columns, "_SMALL", 0)
        seen = np.array(values)
        wanted = [k for k in range(3) if not (listed and not (seen[:, k] == 1).any())]
        if not wanted:
            with pytest.raises(ValueError, match="has none of the labels"):
                datasets.build("csv", table=path, patient="pid", labels=labels, **options)
            return
        chosen = [labels[k] for k in wanted]
        data = datasets.build("csv", table=path, patient="pid", labels=chosen, **options)
    assert data.labels == tuple(chosen)
    assert np.array_equal(data.targets.numpy(), seen[:, wanted], equal_nan=True)


# -- check -------------------------------------------------------------------------------------------------------------


def test_check_of_a_good_table(basic: dict[str, Any]) -> None:
    found = datasets.check(**basic)
    assert found.ok
    assert (found.rows, found.images, found.files, found.patients) == (4, 4, 4, 3)
    assert found.positives["all"] == [1, 2]
    assert found.known["all"] == [2, 4]
    assert "errors: none" in str(found)
    assert re.search(r"^Mass +1 +1 +2 +50\.0$", str(found), re.MULTILINE)
    content = json.loads(json.dumps(found.to_json()))
    assert content["ok"] is True
    assert content["labels"] == ["Mass", "Edema"]
    assert datasets.check(**basic, missing="skip", transform=None).ok


def test_check_reports_every_fault(basic: dict[str, Any], tmp_path: Path) -> None:
    root = basic["root"]
    pictures(root, ["sub/d.png", "e.png", "f.png", "lonely.png", "g.png"], (20, 10))
    (root / "copy.png").write_bytes((root / "a.png").read_bytes())
    (root / "b.png").write_bytes(b"no image")
    (root / "d.png").unlink()
    pictures(root, ["other/d.png"], (20, 11))
    lines = [
        "file,pid,Mass,Edema,Hernia,age,part",
        "a.png,1,1,0,0,50,train",
        "b.png,1,2,0,0,51,train",
        "c.png,2,0,odd,0,old,train",
        "c.png,2,0,0,0,old,train",
        "d,3,0,0,0,53,test",
        "gone.png,4,0,0,0,54,test",
        "copy.png,1,1,0,0,55,test",
        ",9,0,0,0,56,test",
        "e.png,,0,1,0,57,test",
        "f.png,6,0,1,0,58,test",
        "g.png,7,2,1,0,59,test",
    ]
    path = table(basic["table"], "\n".join(lines) + "\n")
    text = "file,what,x1,y1,x2,y2\nf.png,Mass,1,1,30,5\na.png,Mass,1,1,3\na.png,Nodule,1,1,3,3\nz.png,Mass,1,1,2,2\n"
    boxes = table(tmp_path / "boxes.csv", text.replace("1,1,3\n", "1,1,3,x\n"))
    found = datasets.check(
        **basic,
        labels=["Mass", "Edema", "Hernia", "Fracture"],
        age="age",
        split_column="part",
        boxes=boxes,
        box_label="what",
        progress=False,
    )
    where = str(path)
    assert found.errors == {
        "rows without an image's name": [f"{where}:9"],
        "rows of an image that came before": [f"{where}:5: c.png, first {where}:4"],
        "odd label values": [f"{where}:3: Mass is '2' (in 2 rows)", f"{where}:4: Edema is 'odd'"],
        "images without a patient": [f"{where}:10"],
        "boxes that are not four numbers (x1, y1, x2, y2) with an area": [f"{boxes}:3: 1, 1, 3, x"],
        "names that fit several files": ["d (other/d.png, sub/d.png)"],
        "missing files": ["gone.png"],
        "unreadable files": ["b.png"],
        "boxes outside of their image": [f"{boxes}:2: f.png (1, 1, 30, 5 in 20 x 10)"],
    }
    assert {kind: cases for kind, cases in found.warnings.items() if not kind.startswith("labels without")} == {
        "values of 'age' that are no age, and count as unknown": ["old"],
        "images have boxes, but no row in the table": ["z.png"],
        "patients in several parts": ["1 (test, train)"],
        "image files without a row": ["lonely.png", "other/d.png", "sub/d.png"],
        "box labels that are left out": ["Nodule"],
        "equal files of different parts": ["a.png = copy.png", "c.png = f.png"],
        "labels that the source does not have": ["Fracture"],
    }
    assert found.warnings["labels without positives"] == ["Hernia"]
    assert found.warnings["labels without positives in train"] == ["Edema", "Hernia"]
    assert found.parts == {"train": 3, "test": 6}
    assert not found.ok
    printed = str(found)
    assert "errors:\n  1 rows without an image's name" in printed
    assert "parts: train 3, test 6" in printed
    assert "train, %" in printed
    json.dumps(found.to_json())


def test_check_of_splits_and_masks(tmp_path: Path) -> None:
    given_ = many(tmp_path)
    (tmp_path / "images" / "1.png").write_bytes((tmp_path / "images" / "0.png").read_bytes())
    same_patient = datasets.check(**given_)
    assert not same_patient.warnings  # the copy belongs to the same patient
    (tmp_path / "images" / "50.png").write_bytes((tmp_path / "images" / "0.png").read_bytes())
    assert datasets.check(**given_).warnings["equal files of different patients"] == ["0.png = 1.png = 50.png"]
    by_patient = datasets.check(**given_, split="train")
    assert sum(by_patient.parts.values()) == 120
    assert by_patient.parts["train"] == len(datasets.build("csv", split="train", **given_))
    assert set(datasets.check(**given_, split="val", fold=(1, 3)).parts) == {"train", "val"}
    bad = datasets.check(**given_, split="val", fold=(3, 3))
    assert "fold=(3, 3)" in bad.errors["splits that cannot be made"][0]
    pictures(tmp_path / "masks", ["0.png"])
    assert len(datasets.check(**given_, masks=tmp_path / "masks").errors["images without a mask"]) == 119


def test_check_of_doubtful_columns(basic: dict[str, Any]) -> None:
    many_rows = "".join(f"x{k},1,{k % 2 if k else 'maybe'}\n" for k in range(40))
    basic["table"].write_text("file,pid,Mass\n" + many_rows)
    found = datasets.check(**basic)
    assert found.errors["columns with nearly only labels"] == [f"{basic['table']}:2: Mass is 'maybe'"]
    assert "tables without labels" in found.errors
    assert found.labels == ()
    assert "missing files" in str(found)


def test_check_refuses(basic: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match=r"unknown options \['imagee'\]; accepted: age, box_columns"):
        datasets.check(basic["table"], imagee="file")
    with pytest.raises(ValueError, match="a table, or root with folders"):
        datasets.check()
    with pytest.raises(FileNotFoundError, match="no such file"):
        datasets.check(basic["root"] / "nothing.csv")
