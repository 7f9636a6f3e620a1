"""Open-i's reports and images and the CheXpert labeller's table, written here in small."""

from __future__ import annotations

import csv
import shutil
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))

from archives import OBSERVATIONS, images_of, labeller_table, openi, report

from thoraxlib import datasets
from thoraxlib import labels as label_sets
from thoraxlib.datasets import openi as room
from thoraxlib.datasets.openi import LabelerTable, OpenI, export_reports, read_report, read_reports

pytestmark = pytest.mark.filterwarnings("ignore:OpenI. all labels of")

LABELS = label_sets.build("padchest_openi22")
UNREACHED = {
    "aortic elongation",
    "copd signs",
    "emphysema",
    "heart insufficiency",
    "nodule",
    "pulmonary fibrosis",
    "surgery",
    "tuberculosis",
}


def targets(tmp_path: Path, row: dict[str, Any], **options: Any) -> dict[str, float]:
    """What a row of the labeller's table says of the 22 labels."""
    table = LabelerTable(labeller_table(tmp_path / "labels.csv", [{"id": "CXR1", **row}]))
    return dict(zip(LABELS, table.targets(LABELS, **options)[0].tolist(), strict=True))


def test_a_report(tmp_path: Path) -> None:
    report(tmp_path, 7, "  Mild <b>cardiomegaly</b>,\n XXXX. ", mesh="Cardiomegaly/mild")
    read = read_report(tmp_path / "ecgen-radiology/7.xml")
    assert read.id == "CXR7"
    assert read.sections == {
        "COMPARISON": "None.",
        "INDICATION": "",
        "FINDINGS": "Made-up findings.",
        "IMPRESSION": "Mild cardiomegaly, XXXX.",
    }
    assert (read.mesh, read.automatic) == (("Cardiomegaly/mild",), ("made up",))
    assert list(read.images) == images_of(7)


def test_reports_that_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "1.xml"
    laughs = "".join(f'<!ENTITY a{k} "{f"&a{k - 1};" * 10 if k else "ha"}">' for k in range(30))
    external = '<!ENTITY a29 SYSTEM "file:///etc/passwd">'
    for text in (f"<!DOCTYPE x [{laughs}]>", f"<!DOCTYPE x [{external}]>", "<!DOCTYPE eCitation>"):
        for encoding in ("utf-8", "utf-16"):
            path.write_text(f"{text}<eCitation><uId id='CXR1'/><a>&a29;</a></eCitation>", encoding=encoding)
            with pytest.raises(ValueError, match=r"1.xml has a document type declaration"):
                read_report(path)
    path.write_text("<eCitation>\n<uId id='CXR1'></eCitation>")
    with pytest.raises(ValueError, match=r"1.xml:2: not well-formed XML: mismatched tag"):
        read_report(path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"1.xml:1: not well-formed XML: no element found"):
        read_report(path)
    path.write_text("<?xml version='1.0' encoding='bogus'?><eCitation/>")
    with pytest.raises(ValueError, match=r"1.xml: unknown encoding: bogus"):
        read_report(path)
    path.write_text("<eCitation><uId/></eCitation>")
    with pytest.raises(ValueError, match=r"1.xml has no element uId"):
        read_report(path)
    for name in ("1.xml", "2.xml"):
        (tmp_path / name).write_text("<eCitation><uId id='CXR1'/></eCitation>")
    with pytest.raises(ValueError, match=r"2.xml has the id CXR1 of .*1.xml"):
        read_reports(tmp_path)
    with pytest.raises(FileNotFoundError, match="no report"):
        read_reports(tmp_path.joinpath("empty") if tmp_path.joinpath("empty").mkdir() else tmp_path / "empty")


@pytest.mark.parametrize("name", ["{image}.png", "{short}.dcm.png", "{short}.PNG"])
def test_images_by_any_of_their_names(tmp_path: Path, name: str) -> None:
    root = openi(tmp_path, [f"Report {k}." for k in range(12)], name=name)
    images = datasets.build("openi", root=root)
    assert isinstance(images, datasets.ChestDataset)
    assert images.ids[:3] == [*images_of(1), images_of(2)[0]]
    assert images.study_ids[-1] == images.patient_ids[-1] == "CXR12"  # by number, not CXR9
    assert images.views[:2] == ["Frontal", "Lateral"]
    assert images.labels == LABELS
    assert images.targets.isnan().all()
    assert int(images[22]["image"].float().mean()) == 120
    assert images.reports["CXR3"].sections["IMPRESSION"] == "Report 2."
    frontal = OpenI(root=root, views="Frontal")
    assert frontal.ids == images.ids[::2]


def test_dicoms(tmp_path: Path, real_data: Path) -> None:
    root = openi(tmp_path, ["a"])
    shutil.rmtree(root / "images")
    for view in (1, 2):
        path = root / "NLMCXR_dcm" / "1" / f"1_IM-0001-{view}001.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(real_data / "samples/dicom/nih_mono2_8bit.dcm", path)
    assert OpenI(root=root)[1]["image"].shape == (1, 512, 512)
    Image.fromarray(np.zeros((4, 5), np.uint8)).save(root / "1_IM-0001-1001.png")  # a copy is preferred
    assert OpenI(root=root)[0]["image"].shape == (1, 4, 5)


def test_ids_that_other_names_leave_apart(tmp_path: Path) -> None:
    root = openi(tmp_path, ["a"])
    path = root / "ecgen-radiology/1.xml"
    path.write_text(path.read_text().replace("CXR1_1_IM-0001-2001", "CXR1_2_IM-0001-1001"))
    for image in (root / "images").iterdir():
        image.rename(image.with_name(image.name.replace("CXR1_1_", "1_")))
    with pytest.raises(FileNotFoundError, match="2 of 2 images are missing"):
        OpenI(root=root)  # one file cannot be both
    (root / "images" / "1_IM-0001-1001.png").rename(root / "images" / "CXR1_2_IM-0001-1001.png")
    with pytest.warns(UserWarning, match="1 of 2"):
        assert OpenI(root=root, missing="skip").ids == ["CXR1_2_IM-0001-1001"]


def test_the_real_reports(real_data: Path, tmp_path: Path) -> None:
    reports = read_reports(real_data / "samples/openi")
    assert list(reports) == ["CXR1", "CXR2", "CXR10"]
    assert reports["CXR2"].sections["IMPRESSION"] == "No acute pulmonary findings."
    assert reports["CXR2"].mesh == ("Cardiomegaly/borderline", "Pulmonary Artery/enlarged")
    assert reports["CXR10"].automatic == ("calcified granuloma",)
    assert reports["CXR1"].images == ("CXR1_1_IM-0001-3001", "CXR1_1_IM-0001-4001")
    assert export_reports(real_data / "samples/openi", tmp_path / "reports.csv") == ["CXR1", "CXR2", "CXR10"]


def test_there_and_back_through_the_labeller(tmp_path: Path) -> None:
    root = openi(tmp_path / "openi", ["No acute disease.", "", 'Opacity, "left"; &amp; effusion.\n New line.'])
    sent = tmp_path / "reports.csv"
    assert export_reports(root, sent) == ["CXR1", "CXR3"]  # an empty one would come back as normal
    with sent.open(newline="") as file:
        texts = [row for (row,) in csv.reader(file)]
    assert texts == ["No acute disease.", 'Opacity, "left"; & effusion. New line.']
    assert sent.read_text().startswith('"No acute disease."\n"Opacity')
    rows = [{"No Finding": "1.0"}, {"Pleural Effusion": "1.0", "Lung Opacity": "-1.0"}]
    table = labeller_table(tmp_path / "labeled.csv", rows, texts=texts)
    with pytest.warns(UserWarning, match=r"2 of 6 images have no row in .*labeled.csv.*CXR2_1_IM-0002-1001"):
        images = OpenI(root=root, labeler_csv=table, labeler_ids=tmp_path / "reports_ids.csv")
    effusion, normal, other = (
        images.targets[:, LABELS.index(k)] for k in ("pleural effusion", "normal", "other findings")
    )
    np.testing.assert_array_equal(effusion, [0, 0, np.nan, np.nan, 1, 1])
    np.testing.assert_array_equal(normal, [1, 1, np.nan, np.nan, 0, 0])
    np.testing.assert_array_equal(other, [0, 0, np.nan, np.nan, np.nan, np.nan])

    swapped = labeller_table(tmp_path / "swapped.csv", rows, texts=texts[::-1])
    with pytest.raises(ValueError, match=r"swapped.csv:2: the report is not that of .*reports_ids.csv:2"):
        OpenI(root=root, labeler_csv=swapped, labeler_ids=tmp_path / "reports_ids.csv")
    short = labeller_table(tmp_path / "short.csv", rows[:1], texts=texts)
    with pytest.raises(ValueError, match=r"reports_ids.csv has 2 reports, .*short.csv has 1"):
        OpenI(root=root, labeler_csv=short, labeler_ids=tmp_path / "reports_ids.csv")
    with pytest.raises(ValueError, match=r"does not say which report a row is: give the file of ids"):
        OpenI(root=root, labeler_csv=table)
    with pytest.raises(ValueError, match=r"sections=\['SUMMARY'\]: none of the 3 reports"):
        export_reports(root, sent, sections=["SUMMARY"])
    assert export_reports(root, sent, sections=["INDICATION", "FINDINGS"]) == ["CXR1", "CXR2", "CXR3"]
    whole = sent.read_bytes()
    assert export_reports(root, sent, sections="FINDINGS") == ["CXR1", "CXR2", "CXR3"]
    assert sent.read_bytes() == whole  # no INDICATION has a text


@pytest.mark.parametrize(
    "ids",
    [["CXR1", "CXR2"], ["1", "2"], ["CXR2_1_IM-0002-1001.png", "CXR1_1_IM-0001-1001"], ["1_IM-0001-2001.dcm", "2"]],
)
def test_ids_in_the_labeller_s_table(tmp_path: Path, ids: list[str]) -> None:
    root = openi(tmp_path, ["a", "b"])
    table = labeller_table(tmp_path / "labels.csv", [{"id": ids[0], "Edema": 1}, {"id": ids[1], "Edema": 0}])
    expected = {
        "CXR1": [1, 1, 0, 0],
        "1": [1, 1, 0, 0],
        "CXR2_1_IM-0002-1001.png": [0, np.nan, 1, np.nan],
        "1_IM-0001-2001.dcm": [np.nan, 1, 0, 0],
    }[ids[0]]
    with pytest.warns(UserWarning, match=r"[12] of 4 images") if np.isnan(expected).any() else nullcontext():
        images = OpenI(root=root, labels=["Edema"], labeler_csv=table)
    np.testing.assert_array_equal(images.targets[:, 0], expected)


def test_the_order_of_the_labeller_s_columns(tmp_path: Path) -> None:
    assert room.OBSERVATIONS == OBSERVATIONS
    path = tmp_path / "labels.csv"
    with pytest.raises(ValueError, match="order of the labeller's columns is that of the CheXpert data set"):
        LabelerTable(labeller_table(path, [{"id": "CXR1"}], label_sets.build("chexpert14")))
    with pytest.raises(ValueError, match="order of the labeller's columns is not its own"):
        LabelerTable(labeller_table(path, [{"id": "CXR1"}], OBSERVATIONS[::-1]))
    misspelt = tuple(name.replace("Pleural Other", "Plerual Other") for name in OBSERVATIONS)
    with pytest.raises(ValueError, match="has no column 'Pleural Other'.*columns found: .*Plerual Other"):
        LabelerTable(labeller_table(path, [{"id": "CXR1"}], misspelt))
    with pytest.raises(ValueError, match=r"labels.csv:3: CXR1 appears again"):
        LabelerTable(labeller_table(path, [{"id": "CXR1"}, {"id": "CXR1"}]))


def test_the_default_mapping(tmp_path: Path) -> None:
    found = targets(tmp_path, {"Consolidation": 1, "Fracture": 1, "Lung Lesion": 0, "Edema": -1, "Support Devices": 1})
    unknown = {label for label, value in found.items() if np.isnan(value)}
    devices = {"catheter", "nsg tube", "electrical device"}
    assert unknown == UNREACHED | devices | {"pulmonary edema", "thoracic cage deformation"}
    assert {label for label, value in found.items() if value == 1} == {"infiltrates", "other findings"}


def test_devices_tell_only_where_there_is_none(tmp_path: Path) -> None:
    def device(**options: Any) -> float:
        row = {"Support Devices": options.pop("value"), "No Finding": options.pop("normal", "")}
        found = targets(tmp_path, row, **options)
        assert len({str(found[name]) for name in ("catheter", "nsg tube", "electrical device")}) == 1
        return found["catheter"]

    assert device(value=0) == 0
    assert device(value="", normal=1) == 0
    assert np.isnan([device(value=1), device(value=-1), device(value=""), device(value=1, normal=1)]).all()
    assert np.isnan([device(value=-1, normal=1), device(value="", normal=1, blank="ignore")]).all()
    assert device(value=0, blank="ignore", uncertain="ones") == 0


def test_jaydurants_mapping(tmp_path: Path) -> None:
    found = targets(tmp_path, {"Consolidation": 1, "Fracture": 1, "Support Devices": 1}, mapping="jaydurant")
    positive = {"other findings", "thoracic cage deformation", "electrical device"}
    assert {label for label, value in found.items() if value == 1} == positive
    unknown = {label for label, value in found.items() if np.isnan(value)}
    assert unknown == UNREACHED | {"catheter", "nsg tube", "infiltrates"}
    assert len(unknown) == 11


@pytest.mark.parametrize(
    ("uncertain", "blank", "expected"),
    [
        ("ignore", "zeros", [1, 0, np.nan, 0]),
        ("ignore", "ignore", [1, 0, np.nan, np.nan]),
        ("zeros", "zeros", [1, 0, 0, 0]),
        ("ones", "ignore", [1, 0, 1, np.nan]),
        ({"Pneumonia": "ones"}, "zeros", [1, 0, np.nan, 0]),
    ],
)
def test_uncertain_and_blank(tmp_path: Path, uncertain: Any, blank: str, expected: list[float]) -> None:
    rows = [{"id": k, "Atelectasis": value} for k, value in enumerate(["1.0", "0.0", "-1.0", ""])]
    table = LabelerTable(labeller_table(tmp_path / "labels.csv", rows))
    found = table.targets(["atelectasis"], uncertain=uncertain, blank=blank)
    np.testing.assert_array_equal(found[:, 0], expected)


def test_several_observations_of_one_label(tmp_path: Path) -> None:
    def other(**values: Any) -> float:
        return targets(tmp_path, {name.replace("_", " "): value for name, value in values.items()})["other findings"]

    assert other(Lung_Opacity=-1, Fracture=1) == 1
    assert np.isnan(other(Lung_Opacity=-1, Fracture=0))
    assert other(Lung_Opacity=0) == 0


def test_labels_of_other_sets(tmp_path: Path) -> None:
    table = LabelerTable(labeller_table(tmp_path / "a.csv", [{"id": 1, "Fracture": 1, "Consolidation": 1, "Edema": 0}]))
    labels = ["Fracture", "Consolidation", "Infiltration", "Edema", "Hernia", "Lung Opacity"]
    np.testing.assert_array_equal(table.targets(labels)[0], np.array([1, 1, 1, 0, np.nan, 0], np.float32))
    assert np.nansum(table.targets(label_sets.build("chexpert14"))) == 2
    with pytest.raises(ValueError, match=r"the labeller knows none of \['Hernia', 'tuberculosis'\]"):
        table.targets(["Hernia", "tuberculosis"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mapping": "mine"}, "mapping='mine': allowed are 'default', 'jaydurant'"),
        ({"uncertain": "maybe"}, "uncertain='maybe': allowed"),
        ({"blank": "ones"}, "blank='ones': allowed"),
        ({"views": "PA"}, r"views must name some of \['Frontal', 'Lateral'\] .those of indiana_projections.csv"),
        ({"labels": ["Hernia"]}, "knows none of"),
    ],
)
def test_errors(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    root = openi(tmp_path, ["a", "b"])
    table = labeller_table(tmp_path / "labels.csv", [{"id": "CXR1"}, {"id": "CXR2"}])
    with pytest.raises(ValueError, match=message):
        OpenI(**{"root": root, "labeler_csv": table, **options})


def test_tables_of_other_images(tmp_path: Path) -> None:
    root = openi(tmp_path, ["a", "b"])
    table = labeller_table(tmp_path / "labels.csv", [{"id": "CXR8"}])
    with pytest.raises(ValueError, match=r"labels.csv has a row for none of these images or reports; its ids are CXR8"):
        OpenI(root=root, labeler_csv=table)
    bad = labeller_table(tmp_path / "bad.csv", [{"id": "CXR1", "Edema": "2"}])
    with pytest.raises(ValueError, match=r"bad.csv:2: Edema must be 1, 0, -1 or blank, got '2'"):
        OpenI(root=root, labeler_csv=bad)
    with pytest.raises(ValueError, match="labeler_ids='ids.csv' is of no use without labeler_csv"):
        OpenI(root=root, labeler_ids="ids.csv")
    (root / "indiana_projections.csv").unlink()
    with pytest.raises(ValueError, match="views='Frontal' needs a table of projections"):
        OpenI(root=root, views="Frontal")
    (root / "images" / "CXR2_1_IM-0002-2001.png").unlink()
    with pytest.raises(FileNotFoundError, match="1 of 4 images are missing below .*CXR2_1_IM-0002-2001"):
        OpenI(root=root)
    with pytest.warns(UserWarning, match="1 of 4"):
        assert OpenI(root=root, missing="skip").views == [""] * 3


def test_made_up_projections(real_data: Path, tmp_path: Path) -> None:
    for number in (90001, 90002):
        report(tmp_path, number, "made up")
        path = tmp_path / "ecgen-radiology" / f"{number}.xml"
        text = path.read_text()
        for old, new in {"IM-90001-1001": "IM-0001-4001", "IM-90001-2001": "IM-0001-3001"}.items():
            text = text.replace(old, new)
        path.write_text(text.replace("IM-90002-1001", "IM-0002-1001"))
    shutil.copy(real_data / "samples/csv_made_up/openi_projections.csv", tmp_path)
    for name in ("90001_IM-0001-4001", "90001_IM-0001-3001", "90002_IM-0002-1001", "90002_IM-90002-2001"):
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / f"{name}.dcm.png")
    images = OpenI(root=tmp_path)
    assert images.views == ["Frontal", "Lateral", "Frontal", ""]
    assert len(OpenI(root=tmp_path, views="Lateral")) == 1


def test_an_image_in_two_reports(tmp_path: Path) -> None:
    root = openi(tmp_path, ["a", "b"])
    path = root / "ecgen-radiology/2.xml"
    path.write_text(path.read_text().replace("CXR2_1_IM-0002-1001", "CXR1_1_IM-0001-1001"))
    with pytest.raises(ValueError, match=r"image CXR1_1_IM-0001-1001 is in the reports CXR1 and CXR2"):
        OpenI(root=root)


def test_an_image_with_two_projections(tmp_path: Path) -> None:
    root = openi(tmp_path, ["a"])
    with (root / "indiana_projections.csv").open("a") as file:
        file.write("1,1_IM-0001-1001.dcm.png,Lateral\n")
    with pytest.raises(ValueError, match=r"projections.csv:4: 1_IM-0001-1001 appears again, first in line 2"):
        OpenI(root=root, views="Frontal")


def test_reports_by_numbers_that_a_program_made_floats(tmp_path: Path) -> None:
    root = openi(tmp_path, ["a", "b"])
    table = labeller_table(tmp_path / "labels.csv", [{"id": "1.0", "Edema": "1.0"}, {"id": "2.0", "Edema": "0.0"}])
    images = OpenI(root=root, labels=["Edema"], labeler_csv=table)
    assert images.targets[:, 0].tolist() == [1, 1, 0, 0]


def test_labels_that_are_all_unknown(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"OpenI: all labels of the 2 images are unknown .*no labeler_csv"):
        OpenI(root=openi(tmp_path, ["a"]))


def test_images_of_which_the_view_is_not_told(tmp_path: Path) -> None:
    root = openi(tmp_path, ["a", "b"])
    path = root / "indiana_projections.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:-2]) + "\n")
    with pytest.warns(UserWarning, match=r"2 of 4 images have no row in .*projections.csv, their view is unknown and"):
        assert OpenI(root=root, views="Frontal").ids == ["CXR1_1_IM-0001-1001"]
    path.write_text("\n".join([lines[0], "9,9_IM-0009-1001.dcm.png,Frontal"]) + "\n")
    with pytest.raises(
        ValueError, match=r"projections.csv has a row for none of these images; its ids are 9_IM-0009-1001"
    ):
        OpenI(root=root, views="Frontal")
