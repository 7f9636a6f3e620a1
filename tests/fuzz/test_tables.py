"""CSV tables, lists and label strings that no release has: a sound data set, or an error that names the file."""

from __future__ import annotations

import csv
import gzip
import io
import math
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "datasets"))

import archives
from box_files import GOOD, READERS
from damage import FEW, ODD_TEXTS, damaged, odd_table, refused

from thoraxlib import datasets
from thoraxlib import labels as label_sets
from thoraxlib.datasets.openi import LabelerTable
from thoraxlib.datasets.padchest import TermTree, listed_targets, parse_labels
from thoraxlib.datasets.tables import Table, read_list
from thoraxlib.graphs import Graph
from thoraxlib.graphs.embeddings import read_vectors

CHEXPERT = label_sets.build("chexpert14")


class Case(NamedTuple):
    """A release: what to open, and the tables to damage."""

    open: Callable[[Path], Any]
    tables: tuple[str, ...]
    delimiter: str = ","


def image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((20, 24), 7, np.uint8)).save(path, format="png" if path.suffix == ".png" else "jpeg")


def table(path: Path, *lines: str, delimiter: str = ",") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(line.replace(",", delimiter) for line in lines) + "\n")


def nih14(root: Path) -> None:
    names = [f"0000000{k}_000.png" for k in range(1, 5)]
    for name in names:
        image(root / "images_001/images" / name)
    findings = ("Cardiomegaly|Effusion", "No Finding", "", "Hernia")
    rows = [
        f"{name},{text},0,{k},57,M,{'AP' if k % 2 else 'PA'}"
        for k, (name, text) in enumerate(zip(names, findings, strict=True))
    ]
    table(
        root / "Data_Entry_2017.csv",
        "Image Index,Finding Labels,Follow-up #,Patient ID,Age,Patient Gender,View Position",
        *rows,
    )
    table(root / "train_val_list.txt", *names[:3])
    table(
        root / "BBox_List_2017.csv",
        "Image Index,Finding Label,Bbox [x,y,w,h],,,",
        f"{names[0]},Infiltrate,5,6,128.5,64",
    )


def chexpert(root: Path) -> None:
    paths = [f"valid/patient0000{k}/study1/view1_{view}.jpg" for k in (1, 2) for view in ("frontal", "lateral")]
    for path in paths:
        image(root / path)
    values = ("1.0", "0.0", "-1.0", "")
    rows = [f"CheXpert-v1.0-small/{path},{values[k]},{values[-k]},Frontal,AP" for k, path in enumerate(paths)]
    table(root / "valid.csv", "Path,Edema,Cardiomegaly,Frontal/Lateral,AP/PA", *rows)


def mimic_cxr(root: Path) -> None:
    images = [(f"{k:08x}-aa", 10_000_032 + k, 50_000_000 + k) for k in range(3)]
    for name, patient, study in images:
        image(root / f"files/p10/p{patient}/s{study}/{name}.jpg")
    head = "dicom_id,subject_id,study_id"
    table(root / "mimic-cxr-2.0.0-metadata.csv", f"{head},ViewPosition", *(f"{a},{b},{c},PA" for a, b, c in images))
    table(root / "mimic-cxr-2.0.0-split.csv", "dicom_id,split", *(f"{a},train" for a, _, _ in images))
    table(root / "mimic-cxr-2.0.0-chexpert.csv", "subject_id,study_id,Edema", *(f"{b},{c},-1.0" for _, b, c in images))


def padchest(root: Path) -> None:
    archives.padchest(root, [archives.image(2 * k, WindowCenter_DICOM=2000, WindowWidth_DICOM=3000) for k in range(3)])


def openi(root: Path) -> None:
    archives.openi(root, ["Heart is big.", "Normal."])
    rows = [{"id": f"CXR{k}", "Cardiomegaly": "1.0", "Edema": "-1.0"} for k in (1, 2)]
    archives.labeller_table(root / "labels.csv", rows)


def gold(root: Path) -> None:
    images = ["aa", "bb"]
    for name in images:
        image(root / f"jpg/{name}.jpg")
    corners = "original_x1,original_y1,original_x2,original_y2"
    boxes = [f"{name}.dcm,right lung,1,2,{10 + k},15" for k, name in enumerate(images)]
    table(
        root / "gold_dataset/gold_bbox_coordinate_annotations_1000images.csv", f"image_id,bbox_name,{corners}", *boxes
    )
    mentions = [f"{name}.dcm,right lung,pneumonia,yes,1" for name in images]
    path = root / "gold_dataset/gold_object_attribute_with_coordinates.txt"
    table(path, "image_id,bbox,label_name,context,relation", *mentions, delimiter="\t")
    records = [f"{name},{k},{k + 7},PA" for k, name in enumerate(images)]
    table(root / "utils/cxr-record-list_view.csv", "dicom_id,subject_id,study_id,ViewPosition", *records)


def of_padchest(root: Path) -> Any:
    return datasets.build("padchest", root=root, labels=["cardiomegaly", "normal", "nodule"], unlabelled="ignore")


def of_openi(root: Path) -> Any:
    return datasets.build("openi", root=root, labels="chexpert14", labeler_csv=root / "labels.csv")


def of_gold(root: Path) -> Any:
    options = {"regions": ["right lung"], "labels": ["pneumonia"], "progress": False}
    return datasets.build("chest_imagenome", root=root, images=root / "jpg", annotations="gold", split="all", **options)


CASES = {
    nih14: Case(lambda root: datasets.build("nih14", root=root, split="train_val"), ("Data_Entry_2017.csv",)),
    chexpert: Case(
        lambda root: datasets.build("chexpert", root=root, split="valid", labels=["Edema", "Cardiomegaly"]),
        ("valid.csv",),
    ),
    mimic_cxr: Case(
        lambda root: datasets.build("mimic_cxr", root=root, labels=["Edema"], uncertain="lsr_ones"),
        tuple(f"mimic-cxr-2.0.0-{name}.csv" for name in ("metadata", "split", "chexpert")),
    ),
    padchest: Case(of_padchest, (archives.TABLE,)),
    openi: Case(of_openi, ("labels.csv", "indiana_projections.csv")),
    gold: Case(
        of_gold,
        ("gold_dataset/gold_bbox_coordinate_annotations_1000images.csv", "utils/cxr-record-list_view.csv"),
    ),
}
MORE = [
    (nih14, "BBox_List_2017.csv", ","),
    (nih14, "train_val_list.txt", "\t"),
    (gold, "gold_dataset/gold_object_attribute_with_coordinates.txt", "\t"),
]
TABLES = [(release, name, ",") for release, case in CASES.items() for name in case.tables] + MORE


def check_sound(images: Any, root: Path) -> None:
    """Whatever the table says: labels are labels, boxes are boxes, and no file lies outside the release."""
    assert len(images) == len(images.ids) == len(images.patient_ids) == len(images.targets) > 0
    assert len(set(images.ids)) == len(set(images._paths)) == len(images)
    known = images.targets[~images.targets.isnan()]
    assert ((known >= 0) & (known <= 1)).all()
    assert all(path.resolve().is_relative_to(root.resolve()) for path in images._paths)
    for index in range(len(images)):
        sample = images[index]
        assert sample["image"].isfinite().all()
        for key in ("boxes", "regions"):
            assert key not in sample or sample[key].isfinite().all()


@pytest.mark.parametrize(("release", "name", "delimiter"), TABLES, ids=[f"{r.__name__}-{n}" for r, n, _ in TABLES])
@given(data=st.data())
@FEW
def test_releases(
    release: Callable[[Path], None], name: str, delimiter: str, tmp_path: Path, data: st.DataObject
) -> None:
    if not any(tmp_path.iterdir()):
        release(tmp_path)
        (tmp_path / "whole").write_bytes((tmp_path / name).read_bytes())
    (tmp_path / name).write_bytes(data.draw(odd_table((tmp_path / "whole").read_text(), delimiter)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        named = (str(tmp_path), "missing=", "labels", "views")
        images = refused(lambda: CASES[release].open(tmp_path), *named)
        if images is not None:
            check_sound(images, tmp_path)


@given(data=st.data())
@FEW
def test_packed_tables(tmp_path: Path, data: st.DataObject) -> None:
    if not any(tmp_path.iterdir()):
        mimic_cxr(tmp_path)
    plain = tmp_path / "mimic-cxr-2.0.0-metadata.csv"
    whole = gzip.compress(plain.read_bytes(), mtime=0) if plain.exists() else (tmp_path / "whole").read_bytes()
    (tmp_path / "whole").write_bytes(whole)
    plain.unlink(missing_ok=True)
    (tmp_path / f"{plain.name}.gz").write_bytes(data.draw(damaged(whole)))
    images = refused(lambda: CASES[mimic_cxr].open(tmp_path), str(tmp_path))
    assert images is None or len(images) == 3


CELLS = st.text(st.sampled_from("ab0.-|\"', \n\té"), max_size=6)


@given(
    st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=5),
    st.sampled_from(("\n", "\r\n")),
    st.sampled_from((csv.QUOTE_MINIMAL, csv.QUOTE_ALL)),
    st.sampled_from(("", "\ufeff")),
    st.integers(0, 2),
    st.sampled_from((",", "\t", ";")),
    st.booleans(),
)
@FEW
def test_one_table_in_any_writing(
    tmp_path: Path,
    rows: list[tuple[str, str]],
    end: str,
    quoting: Any,
    mark: str,
    blank: int,
    delimiter: str,
    packed: bool,
) -> None:
    """Whatever the program that wrote it: rows with a text in them are there, without blanks around their fields."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter, lineterminator=end, quoting=quoting)
    writer.writerow([" first ", "second"])
    for row in rows:
        writer.writerow(row)
        text.write((delimiter + end) * blank)
    content = (mark + text.getvalue()).encode()
    path = tmp_path / ("x.csv.gz" if packed else "x.csv")
    path.write_bytes(gzip.compress(content) if packed else content)
    kept = [(first.strip(), second.strip()) for first, second in rows if (first + second).strip()]
    if not kept:
        assert refused(lambda: Table(path, delimiter), f"{path} holds no rows") is None
        return
    table = Table(path, delimiter)
    assert list(zip(table.column("first"), table.column("second"), strict=True)) == kept


NUMBERS = st.sampled_from((0.0, -0.0, 1e-30, 0.25, 5.0, 29.5, 40.0, 41.0, -3.0, 1e30, math.nan, math.inf)) | st.floats(
    -60, 60, width=32
)


@pytest.mark.parametrize(
    ("read", "name"),
    [(read, name) for name, readers in READERS.items() for read in readers],
    ids=lambda value: getattr(value, "__name__", value),
)
@given(box=st.lists(NUMBERS, min_size=3, max_size=5))
@FEW
def test_boxes_of_any_numbers(read: Callable[..., Any], name: str, tmp_path: Path, box: list[float]) -> None:
    """Refused by the file's name; or within the image and told of where it is left out or cut off."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        boxes = refused(lambda: read(tmp_path, [GOOD, box]), name)
    if boxes is None:
        return
    assert boxes[0] == [2, 3, 22, 13]
    assert len(boxes) == 2 or len(told) == 1
    for x1, y1, x2, y2 in boxes:
        assert -0.5 <= x1 <= x2 <= 40.5
        assert -0.5 <= y1 <= y2 <= 30.5


@given(
    st.lists(ODD_TEXTS | st.sampled_from(("a.png", "x/a.png 1 0", "b.png 1 nan")), max_size=4),
    st.sampled_from(("txt", "csv")),
)
@FEW
def test_lists(tmp_path: Path, lines: list[str], ending: str) -> None:
    path = tmp_path / f"list.{ending}"
    path.write_bytes("\n".join(["FileName,Mass,Edema", *lines]).encode("utf-8", "surrogatepass"))
    listed = refused(lambda: read_list(path, ["Mass", "Edema"]), str(path))
    if listed is not None:
        assert all(listed.names)
        assert listed.targets is None or len(listed.targets) == len(listed.names)


@given(st.lists(ODD_TEXTS, max_size=4).map("".join) | st.lists(ODD_TEXTS, max_size=4).map(repr))
@FEW
def test_label_strings(text: str) -> None:
    terms = parse_labels(text)
    assert terms is None or all(term and term == " ".join(term.lower().split()) for term in terms)
    found = listed_targets([text, "['nodule']"], ["nodule", "other findings"])
    assert np.isin(found.targets, [0, 1]).all() | np.isnan(found.targets).any()
    assert found.targets[1].tolist() == [1, 0]


def test_label_strings_that_took_minutes() -> None:
    for text in ("'\\" * 60_000, "[" * 60_000, "[" + "'a'," * 30_000 + "]", "-" * 60_000 + "1", "{[]: 1}"):
        parse_labels(text)


@given(st.lists(ODD_TEXTS | st.sampled_from(("mass", "    nodule", "├── a [1]", "        deep")), max_size=5))
@FEW
def test_term_trees(tmp_path: Path, lines: list[str]) -> None:
    path = tmp_path / "tree.csv"
    path.write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))
    tree = refused(lambda: TermTree.read(path), str(path))
    if tree is not None:
        assert set(tree.terms) <= tree.with_ancestors(tree.terms)


@given(odd_table("word 1 2 3\nmass 0.5 0.25 1e-3\nedema 1 2 3", " "))
@FEW
def test_word_vectors(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "vectors.txt"
    path.write_bytes(content)
    vectors = refused(lambda: read_vectors(path, ["Mass", "Edema"], dim=3), str(path))
    assert vectors is None or (vectors.shape == (2, 3) and vectors.isfinite().all())


@given(odd_table("Mass\tEdema\n1\t0.5\n0\t1", "\t"))
@FEW
def test_graph_tables(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "graph.csv"
    path.write_bytes(content)
    graph = refused(lambda: Graph.load(path), str(path))
    assert graph is None or graph.normalized().isfinite().all()


@given(
    odd_table("Reports," + ",".join(archives.OBSERVATIONS) + ",id\nx" + ",1.0" * 14 + ",CXR1\ny" + "," * 14 + ",CXR2")
)
@FEW
def test_labeller_tables(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "labels.csv"
    path.write_bytes(content)

    def read() -> np.ndarray:
        return LabelerTable(path).targets(CHEXPERT)

    targets = refused(read, str(path))
    assert targets is None or np.isin(targets[~np.isnan(targets)], [0, 1]).all()


def test_an_unclosed_quote_does_not_fill_the_memory(tmp_path: Path) -> None:
    """A field of 100,000 characters in a column of 20,000 rows, which an array of text would hold 8 GB for."""
    nih14(tmp_path)
    path = tmp_path / "Data_Entry_2017.csv"
    rows = [f"x{k}.png,Mass,0,{k},57,M,PA" for k in range(20_000)]
    path.write_text(path.read_text() + "\n".join(rows) + f"\nz.png,Mass,0,z{'9' * 100_000},57,M,P{'A' * 100_000}\n")
    images = datasets.build("nih14", root=tmp_path, split="train_val", views="PA")
    assert len(images) == 2
    assert sum(map(len, datasets.split_patients(["a" * 100_000, *map(str, range(20_000))]).values())) == 20_001


def test_a_packed_table_of_more_than_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from thoraxlib.datasets import tables

    monkeypatch.setattr(tables, "_LARGEST", 10**6)
    path = tmp_path / "bomb.csv.gz"
    path.write_bytes(gzip.compress(b"a,b\n" + b"1,2\n" * 10**6))
    with pytest.raises(ValueError, match=r"bomb.csv.gz holds more than 1000000 bytes"):
        tables.Table(path)


def test_numbers_of_the_table_that_are_none(tmp_path: Path) -> None:
    odd = ("1e999", "-3", "1e9", "nan", "")
    archives.padchest(
        tmp_path,
        [
            archives.image(2 * k, BitsStored_DICOM=bits, WindowCenter_DICOM=bits, WindowWidth_DICOM=bits)
            for k, bits in enumerate(odd)
        ],
    )
    images = datasets.build("padchest", root=tmp_path)
    for index in range(len(images)):
        image = images[index]["image"]
        assert ((image >= 0) & (image <= 1)).all()
    with pytest.raises(ValueError, match="BitsStored_DICOM of 5 of 5 images is no number from 1 to 16"):
        datasets.build("padchest", root=tmp_path, scale="bits_stored")


@pytest.mark.parametrize("box", ["nan,1,2,3", "1,2,inf,3", "1,2,1e60,3", "1,2,-3,4", "1,2,3", "a,2,3,4"])
def test_boxes_that_are_none(tmp_path: Path, box: str) -> None:
    nih14(tmp_path)
    path = tmp_path / "BBox_List_2017.csv"
    path.write_text(path.read_text() + f"00000001_000.png,Mass,{box}\n")
    with pytest.raises(ValueError, match=r"BBox_List_2017.csv:3: x, y, width, height wanted"):
        datasets.build("nih14", root=tmp_path, split="all")


def test_splits_with_odd_fractions() -> None:
    for share in (math.nan, math.inf, -0.5, 0.0):
        with pytest.raises(ValueError, match="fractions"):
            datasets.split_patients(["a", "b"], {"train": share, "test": 1 - share})
    assert torch.equal(torch.tensor(datasets.split_patients(["b", "a"], {"all": 1.0})["all"]), torch.tensor([0, 1]))
