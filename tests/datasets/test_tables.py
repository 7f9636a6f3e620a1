"""Tables as spreadsheets and programs write them, and what two tables have in common."""

from __future__ import annotations

import gzip
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from thoraxlib.datasets.chexpert import CheXpert
from thoraxlib.datasets.mimic_cxr import MIMICCXR
from thoraxlib.datasets.nih14 import NIH14
from thoraxlib.datasets.padchest import parse_labels
from thoraxlib.datasets.tables import Table, check_joined, is_blank, read_list

PLAIN = "a,b\n1,x\n2,y\n"


@pytest.mark.parametrize(
    "text",
    [
        PLAIN,
        "\ufeff" + PLAIN,
        PLAIN.replace("\n", "\r\n"),
        PLAIN.replace("\n", "\r"),
        PLAIN.rstrip(),
        PLAIN + ",\n , \n\n\n",
        "\n,\n" + PLAIN,
        " a , b \n1, x \n 2,y\n",
        'a, "b"\n"1", "x"\n2,y\n',
    ],
    ids=["plain", "BOM", "CRLF", "CR", "no last line end", "empty rows", "empty rows first", "blanks", "quotes"],
)
@pytest.mark.parametrize("packed", [False, True])
def test_one_table_in_many_forms(tmp_path: Path, text: str, packed: bool) -> None:
    path = tmp_path / ("x.csv.gz" if packed else "x.csv")
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    table = Table(path)
    assert (table.column("a"), table.column("b")) == (["1", "2"], ["x", "y"])


def test_lines_are_those_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text('\na,b\n1,"two\nlines, and a ""word"""\n,\n2,y\n')
    table = Table(path)
    assert table.column("b") == ['two\nlines, and a "word"', "y"]
    assert table.where(1) == f"{path}:6"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b\n1,x\n2,Jos\u00e9\n".encode("latin-1"), r"x.csv:3: no CSV text file: .*0xe9"),
        (b"\xef\xbb\xbfa,b\n1,x\n" * 5000 + b"\xff,2\n", r"x.csv:10001: no CSV text file"),
        (PLAIN.encode("utf-16"), r"x.csv:1: no CSV text file"),
        (b'a,b\n1,x\n2,"y\n3,z\n', r"x.csv:3: no CSV text file: .*the row that begins here"),
        (b'a,b\n1,"x\n2,"y\n3,z\n', r"x.csv:2: no CSV text file: .*the row that begins here"),
        (b"a,b\n,\n \n", r"x.csv holds no rows"),
    ],
    ids=["latin-1", "a byte far down", "UTF-16", "unclosed quote", "unclosed quote before another", "empty rows alone"],
)
def test_what_is_no_table_is_named_by_its_line(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.csv").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        Table(tmp_path / "x.csv")


def test_two_columns_of_one_name(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("a,b, a,,\n1,2,3,4,5\n")
    table = Table(path)
    assert table.column("b") == ["2"]  # two columns without a name do no harm
    with pytest.raises(ValueError, match=r"x.csv has 2 columns 'a': one is wanted"):
        table.column("a")


def test_two_columns_of_one_finding(tmp_path: Path) -> None:
    image = tmp_path / "valid/patient1/study1/view1_frontal.jpg"
    image.parent.mkdir(parents=True)
    Image.new("L", (4, 4)).save(image)
    path = tmp_path / "valid.csv"

    def build() -> list[list[float]]:
        return CheXpert(root=tmp_path, split="valid", labels=["Pleural Effusion"]).targets.tolist()

    path.write_text("Path,pleural_effusion,Effusion\nvalid/patient1/study1/view1_frontal.jpg,1,0\n")
    with pytest.raises(ValueError, match=r"2 columns of 'Pleural Effusion': 'pleural_effusion', 'Effusion'"):
        build()
    path.write_text("Path,pleural_effusion,Pleural Effusion\nvalid/patient1/study1/view1_frontal.jpg,1,0\n")
    assert build() == [[0]]  # the finding's own name comes first


@pytest.mark.parametrize(
    ("text", "prefix", "expected"),
    [
        ("50414267", "", "50414267"),
        ("50414267.0", "", "50414267"),
        ("50414267.", "s", "50414267"),
        ("s50414267", "s", "50414267"),
        ("S50414267.00", "s", "50414267"),
        ("00000012.0", "", "00000012"),
        ("s50414267", "p", "s50414267"),
        ("50414267.5", "s", "50414267.5"),
        ("1.2.840.0", "", "1.2.840.0"),
        ("study7", "s", "study7"),
    ],
)
def test_ids_that_a_program_made_floats(tmp_path: Path, text: str, prefix: str, expected: str) -> None:
    path = tmp_path / "x.csv"
    path.write_text(f"a,b\n{text},x\n")
    assert Table(path).ids("a", prefix=prefix) == [expected]


def test_names_of_two_tables() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_joined(["a", "b"], [True, True], ["a", "b"], "x.csv", "images")
        check_joined([], [], ["a"], "x.csv", "images")
    with pytest.warns(UserWarning, match=r"1 of 2 images have no row in x.csv, they are left out: b"):
        check_joined(["a", "b"], [True, False], ["a"], "x.csv", "images", lost="they are left out")
    with pytest.raises(
        ValueError,
        match=r"x.csv has a row for none of these images; its ids are c, d, e, \.\.\. \(\d+ in all\), .* up a, b",
    ):
        check_joined(["a", "b"], [False, False], list("cdefg"), "x.csv", "images")


BLANKS = ["", "nan", "NaN", "NA", "N/A", "<NA>", "None", "null", "  "]


@pytest.mark.parametrize("word", BLANKS)
def test_a_blank_is_a_blank_in_every_reader(tmp_path: Path, word: str) -> None:
    assert is_blank(word)
    image = tmp_path / "images/a.png"
    image.parent.mkdir()
    Image.new("L", (4, 4)).save(image)
    entries = tmp_path / "Data_Entry_2017.csv"
    head = "Image Index,Finding Labels,Patient ID,View Position"
    entries.write_text(f"{head}\na.png,{word},1.0,{word}\n")
    with pytest.warns(UserWarning, match=r"NIH14: all labels of the 1 images are unknown .*Data_Entry_2017.csv"):
        images = NIH14(root=tmp_path, split="all", labels=["Mass", "AP", "No Finding"])
    assert images.targets.isnan().all()
    assert images.patient_ids == ["1"]

    path = tmp_path / "valid/patient1/study1/view1_frontal.jpg"
    path.parent.mkdir(parents=True)
    Image.new("L", (4, 4)).save(path)
    (tmp_path / "valid.csv").write_text(f"Path,Edema\nvalid/patient1/study1/view1_frontal.jpg,{word}\n")
    assert CheXpert(root=tmp_path, split="valid", labels=["Edema"]).targets.tolist() == [[0]]  # blank="zeros"
    assert parse_labels(word) is None

    (tmp_path / "list.csv").write_text(f"FileName,Mass,Edema\na.png,1,{word}\n")
    listed = read_list(tmp_path / "list.csv", ["Mass", "Edema"]).targets
    assert listed is not None
    np.testing.assert_array_equal(listed, [[1, np.nan]])


def mimic(root: Path, *, metadata: str = "{}", mined: str = "{}", known: tuple[int, ...] = (0, 1, 2)) -> Path:
    """Three studies of an image each, with Edema 1, 0, 1; study ids written as the two patterns have it."""
    rows = [(f"image{k}", 10_000_032 + k, 50_000_000 + k) for k in range(3)]
    for name, patient, study in rows:
        path = root / f"files/p10/p{patient}/s{study}/{name}.jpg"
        path.parent.mkdir(parents=True)
        Image.new("L", (4, 4)).save(path)

    def write(name: str, *lines: str) -> None:
        (root / f"mimic-cxr-2.0.0-{name}.csv").write_text("\n".join(lines) + "\n")

    lines = [f"{name},{patient},{metadata.format(study)},PA" for name, patient, study in rows]
    write("metadata", "dicom_id,subject_id,study_id,ViewPosition", *lines)
    write("split", "dicom_id,split", *(f"{name},train" for name, *_ in rows))
    lines = [f"{rows[k][1]},{mined.format(rows[k][2])},{1 - k % 2}.0" for k in known]
    write("chexpert", "subject_id,study_id,Edema", *lines)
    return root


@pytest.mark.parametrize("mined", ["{}", "{}.0", "s{}", " {} "])
@pytest.mark.parametrize("metadata", ["{}", "{}.0", "s{}"])
def test_studies_written_otherwise(tmp_path: Path, metadata: str, mined: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        images = MIMICCXR(root=mimic(tmp_path, metadata=metadata, mined=mined), labels=["Edema"])
    assert images.targets.tolist() == [[1], [0], [1]]
    assert images.study_ids == ["50000000", "50000001", "50000002"]


def test_studies_without_labels(tmp_path: Path) -> None:
    root = mimic(tmp_path, known=(0, 2))
    with pytest.warns(UserWarning, match=r"1 of 3 studies have no row in .*chexpert.csv.*unknown: 50000001"):
        images = MIMICCXR(root=root, labels=["Edema"])
    assert images.targets.isnan().tolist() == [[False], [True], [False]]


def test_labels_of_other_studies(tmp_path: Path) -> None:
    root = mimic(tmp_path, mined="9{}")
    with pytest.raises(ValueError, match=r"chexpert.csv has a row for none of these studies; its ids are 950000000"):
        MIMICCXR(root=root, labels=["Edema"])


def test_an_image_in_two_parts_of_the_split(tmp_path: Path) -> None:
    root = mimic(tmp_path)
    with (root / "mimic-cxr-2.0.0-split.csv").open("a") as file:
        file.write("image0,test\n")
    with pytest.raises(ValueError, match=r"split.csv:5: image0 appears again, first in line 2"):
        MIMICCXR(root=root, labels=["Edema"])


def small_png(path: Path) -> bytes:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40)).astype(np.uint8)).save(path)
    return path.read_bytes()


def as_jpeg(path: Path) -> bytes:
    with Image.open(path) as image:
        image.save(path, format="JPEG")
    return path.read_bytes()


@pytest.mark.parametrize(
    "change",
    [
        lambda path: small_png(path),
        lambda path: small_png(path) + b"\0" * 600,
        lambda path: small_png(path)[:-12],  # without its end mark, but with all its pixels
        lambda path: small_png(path)[:-60],
        lambda path: small_png(path) and as_jpeg(path),
        lambda path: small_png(path) and as_jpeg(path) + b"\0" * 600,
        lambda path: small_png(path) and as_jpeg(path)[:-60],
        lambda path: b"",
        lambda path: b"no image at all",
        lambda path: small_png(path)[:20] + b"IEND\xaeB`\x82"[:4],
    ],
)
def test_skipping_is_no_stricter_than_reading(tmp_path: Path, change: Callable[[Path], bytes]) -> None:
    (tmp_path / "images").mkdir()
    for name in ("a.png", "b.png"):
        small_png(tmp_path / "images" / name)
    (tmp_path / "images/a.png").write_bytes(change(tmp_path / "images/a.png"))
    rows = ["a.png,Mass,1,PA", "b.png,Mass,2,PA"]
    (tmp_path / "labels.csv").write_text("\n".join(["Image Index,Finding Labels,Patient ID,View Position", *rows]))
    images = NIH14(root=tmp_path, split="all")
    try:
        images[0]
        readable = True
    except ValueError:
        readable = False
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        kept = NIH14(root=tmp_path, split="all", missing="skip").ids
    assert kept == (["a.png", "b.png"] if readable else ["b.png"])
    assert len(caught) == (not readable)


def test_a_label_that_is_known_of_one_image_is_enough(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        images = MIMICCXR(root=mimic(tmp_path, known=(0, 1, 2)), labels=["Edema", "Hernia"])
    assert images.targets.isnan().tolist() == [[False, True]] * 3
