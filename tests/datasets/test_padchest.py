"""PadChest's official layout, written here in small."""

from __future__ import annotations

import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))

from archives import COLUMNS, TABLE, image, padchest, pixels

import thoraxlib
from thoraxlib import datasets
from thoraxlib import labels as label_sets
from thoraxlib.datasets.padchest import PadChest, TermTree, listed_targets, parse_labels
from thoraxlib.datasets.tables import is_blank

LABELS = label_sets.build("padchest_openi22")
LABEL = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), max_size=12)


def positives(pictures: PadChest, index: int) -> list[str]:
    return [label for label, value in zip(pictures.labels, pictures.targets[index], strict=True) if value == 1]


@pytest.mark.parametrize("flat", [False, True])
def test_the_official_layout(tmp_path: Path, flat: bool) -> None:
    assert len(COLUMNS) == 36
    rows = [image(k) for k in range(20)]
    pictures = datasets.build("padchest", root=padchest(tmp_path, rows, flat=flat))
    assert isinstance(pictures, datasets.ChestDataset)
    assert pictures.labels == LABELS
    assert pictures.targets.shape == (20, 22)
    assert pictures.ids == [row["ImageID"] for row in rows]
    assert pictures.patient_ids[:3] == ["888000000", "888000000", "888000001"]
    assert pictures.study_ids[2] == "study1"
    assert pictures.views[:2] == ["PA", "L"]
    assert [positives(pictures, k) for k in (0, 2, 4, 6, 8)] == [
        ["normal"],
        ["cardiomegaly", "copd signs"],
        ["pleural effusion", "thoracic cage deformation"],
        ["nodule"],
        ["infiltrates", "nsg tube"],
    ]
    sample = pictures[7]
    assert sample["image"].shape == (1, 20, 24)
    assert sample["id"] == pictures.ids[7]
    assert torch.equal(sample["labels"], pictures.targets[7])


def test_images_without_labels_of_no_use_and_unchanged(tmp_path: Path) -> None:
    texts = [
        "",
        "[]",
        "['']",
        "['exclude', 'nodule']",
        "['Suboptimal Study']",
        "['', 'unchanged']",
        "['nodule', 'normal']",
    ]
    root = padchest(tmp_path, [image(k, Labels=text) for k, text in enumerate(texts)])
    pictures = PadChest(root=root)
    assert [name[-8:-4] for name in pictures.ids] == ["0005", "0006"]
    assert pictures.targets[0].isnan().all()
    assert positives(pictures, 1) == ["nodule"]
    assert positives(PadChest(root=root, normal="listed"), 1) == ["nodule", "normal"]
    kept = PadChest(root=root, unlabelled="ignore")
    assert len(kept) == 5
    assert kept.targets[:4].isnan().all()
    # jaydurant's rule keeps all, and makes labels of what says nothing
    seed = PadChest(root=root, rule="last_root")
    assert [positives(seed, k) for k in range(7)] == [
        ["normal"],
        *[["other findings"]] * 2,
        ["nodule"],
        *[["other findings"]] * 2,
        ["nodule", "normal"],
    ]


def test_filters(tmp_path: Path) -> None:
    rows = [image(k) for k in range(16)]
    rows[2] |= {"Projection": "AP_horizontal"}
    rows[4] |= {"Projection": "COSTAL", "Pediatric": "PED"}
    root = padchest(tmp_path, rows)
    sizes = {view: len(PadChest(root=root, views=view)) for view in ("PA", "L", "AP_horizontal", "Frontal", "Lateral")}
    assert sizes == {"PA": 6, "L": 8, "AP_horizontal": 1, "Frontal": 7, "Lateral": 8}
    assert len(PadChest(root=root, views=["PA", "COSTAL"])) == 7
    assert len(PadChest(root=root, methods="Physician")) == 8
    assert PadChest(root=root, pediatric=True).ids == [rows[4]["ImageID"]]
    assert len(PadChest(root=root, pediatric=False)) == 15


def test_any_label_by_name(tmp_path: Path) -> None:
    root = padchest(tmp_path, [image(k, Labels="['air bronchogram', 'made-up sign']") for k in range(2)])
    labels = ["Consolidation", "Infiltration", "made-up sign", "Hernia", "other findings", "No Finding"]
    pictures = PadChest(root=root, labels=labels)
    np.testing.assert_array_equal(pictures.targets[0], np.array([1, 1, 1, np.nan, 0, 0], np.float32))
    with pytest.raises(
        ValueError, match=r"none of \['scoliossis'\] is known to PadChest.*near 'scoliossis': scoliosis"
    ):
        PadChest(root=root, labels=["scoliossis"])


def test_another_tree(tmp_path: Path) -> None:
    root = padchest(tmp_path / "padchest", [image(k, Labels="['tiny nodule']") for k in range(2)])
    tree = tmp_path / "tree_term_CUI_counts_160K.csv"
    tree.write_text(
        "├── nodule [CUI:C0034079, counts:2, 3]\\\\\n│   └── tiny nodule [counts:1, 1]\\\\\n"
        "├── Mass\\\\\n│\xa0\xa0 └── tiny nodule [counts:1, 1]\\\\\n",
        encoding="utf-8",
    )
    read = TermTree.read(tree)
    assert read.terms == ("nodule", "tiny nodule", "mass")
    assert read.parents["tiny nodule"] == ("nodule", "mass")
    assert positives(PadChest(root=root, tree=tree), 0) == ["mass", "nodule"]
    assert positives(PadChest(root=root, tree=tree, rule="last_root"), 0) == ["mass"]
    assert positives(PadChest(root=root), 0) == ["other findings"]
    tree.write_text("├── nodule\n│   │   └── tiny nodule\n")
    with pytest.raises(ValueError, match=r"tree_term.*:2: 'tiny nodule' is at level 2, below a line at level 1"):
        TermTree.read(tree)
    tree.write_text("\n\n")
    with pytest.raises(ValueError, match="holds no term"):
        TermTree.read(tree)


def test_greys(tmp_path: Path) -> None:
    rows = [image(k) for k in range(5)]
    rows[0] |= {"WindowCenter_DICOM": "2.048E+03", "WindowWidth_DICOM": "['2048', '512']"}
    rows[1] |= {
        "WindowCenter_DICOM": "8",
        "WindowWidth_DICOM": "4",
        "BitsStored_DICOM": "3",
    }  # not these pixels' window
    root = padchest(tmp_path, rows)
    Image.fromarray(np.full((20, 24), 77, np.uint8)).save(root / str(rows[3]["ImageDir"]) / rows[3]["ImageID"])
    Image.fromarray(np.full((20, 24), 5000, np.uint16)).save(root / str(rows[4]["ImageDir"]) / rows[4]["ImageID"])
    stored = [pixels(k).astype(np.float64) for k in range(3)]

    def grey(scale: str, index: int) -> np.ndarray:
        return PadChest(root=root, scale=scale)[index]["image"][0].numpy()

    window = np.clip((stored[0] - 2047.5) / 2047 + 0.5, 0, 1)
    np.testing.assert_allclose(grey("window", 0), window, atol=1e-5)
    for index in (1, 2):
        low, high = np.quantile(stored[index], [0.005, 0.995], method="nearest")
        expected = np.clip((stored[index] - low) / (high - low), 0, 1)
        np.testing.assert_allclose(grey("window", index), expected, atol=2e-2)
        np.testing.assert_array_equal(grey("window", index), grey("percentiles", index))
    low, high = stored[2].min(), stored[2].max()
    np.testing.assert_allclose(grey("minmax", 2), (stored[2] - low) / (high - low), atol=1e-5)
    np.testing.assert_allclose(grey("65535", 2), stored[2] / 65535, atol=1e-6)
    np.testing.assert_allclose(grey("bits_stored", 2), stored[2] / 4095, atol=1e-6)
    for scale in ("window", "percentiles", "minmax", "bits_stored", "65535"):
        assert (grey(scale, 3) == 77).all()  # 8 bits
    assert (grey("percentiles", 4) == 0).all()  # nothing but one grey
    with pytest.raises(ValueError, match="bits=12 allows pixels up to 4095, the largest is 5000"):
        grey("bits_stored", 4)


def test_a_scale_for_a_training_copy_is_said_to_have_no_effect(tmp_path: Path) -> None:
    root = padchest(tmp_path / "images", [image(k) for k in range(3)])
    copy = thoraxlib.prepare(root, tmp_path / "copy", window="percentiles", num_workers=0, progress=False)
    shutil.copy(root / TABLE, copy.folder / TABLE)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # other kinds may come from objects of earlier tests
        PadChest(root=root, scale="percentiles")
        pictures = PadChest(root=copy.folder)
    with pytest.warns(UserWarning, match="scale='minmax' has no effect on the images of a training copy"):
        scaled = PadChest(root=copy.folder, scale="minmax")
    assert torch.equal(scaled[0]["image"], pictures[0]["image"])


def test_missing_cut_off_and_known_damaged_images(tmp_path: Path) -> None:
    known = "216840111366964012819207061112010307142602253_04-014-084.png"
    rows = [image(k) for k in range(5)]
    root = padchest(tmp_path, [*rows, image(5, ImageID=known)])
    (root / str(image(5)["ImageDir"]) / known).unlink()
    assert len(PadChest(root=root)) == 5  # nobody has that one
    (root / str(rows[1]["ImageDir"]) / rows[1]["ImageID"]).unlink()
    cut = root / str(rows[2]["ImageDir"]) / rows[2]["ImageID"]
    cut.write_bytes(cut.read_bytes()[:60])
    with pytest.raises(FileNotFoundError, match=f"1 of 5 images are missing below .*{rows[1]['ImageID']}"):
        PadChest(root=root)
    with pytest.warns(UserWarning, match="2 of 5 images below .* are missing or cut off"):
        assert len(PadChest(root=root, missing="skip")) == 3


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"rule": "root"}, ValueError, "rule='root': allowed are 'ancestors', 'last_root'"),
        ({"normal": "yes"}, ValueError, "normal='yes': allowed are 'alone'"),
        ({"unlabelled": "zeros"}, ValueError, "unlabelled='zeros': allowed are 'drop'"),
        ({"scale": "16"}, ValueError, "scale='16': allowed are 'window'"),
        ({"views": "LATERAL"}, ValueError, r"views must name some of \['Frontal', 'L', 'Lateral', 'PA'\]"),
        ({"methods": "physician"}, ValueError, r"methods must name some of \['Physician', 'RNN_model'\]"),
        ({"pediatric": True}, ValueError, "no image is left: .*pediatric=True"),
        ({"missing": "maybe"}, ValueError, "missing='maybe': allowed"),
        ({"root": "nowhere"}, FileNotFoundError, "no such folder"),
    ],
)
def test_errors(tmp_path: Path, options: dict[str, Any], error: type[Exception], message: str) -> None:
    root = padchest(tmp_path, [image(k) for k in range(8)])
    with pytest.raises(error, match=message):
        PadChest(**{"root": root, **options})


def test_errors_of_the_table(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds none of PADCHEST_chest_x_ray_images_labels"):
        PadChest(root=tmp_path)
    root = padchest(tmp_path, [image(0), image(1, ImageID=image(0)["ImageID"])])
    with pytest.raises(ValueError, match=f"{TABLE}:3: .*appears again, first in line 2"):
        PadChest(root=root)
    padchest(root, [image(0), image(1, BitsStored_DICOM="")])
    with pytest.raises(ValueError, match=r"BitsStored_DICOM of 1 of 2 images is no number from 1 to 16, first in .*:3"):
        PadChest(root=root, scale="bits_stored")
    text = (root / TABLE).read_text()
    (root / TABLE).write_text(text.replace("Labels,Loc", "Finding,Loc", 1))
    with pytest.raises(ValueError, match="has no column 'Labels'; columns found: , ImageID"):
        PadChest(root=root)


def test_no_field_and_no_fields() -> None:
    assert [parse_labels(text) for text in ("", " NaN", "None", "[None]", "[]")] == [None, None, None, [], []]
    none = listed_targets([], LABELS)
    assert none.targets.shape == (0, 22)
    assert none.targets.dtype == np.float32
    assert none.unlabelled.shape == none.unusable.shape == (0,)


@given(st.lists(LABEL, max_size=6))
def test_label_strings_come_back(labels: list[str]) -> None:
    wanted = [" ".join(label.lower().split()) for label in labels]
    wanted = [label for label in dict.fromkeys(wanted) if not is_blank(label)]
    assert parse_labels(repr(labels)) == wanted
    assert parse_labels(f"  {labels!r}\n") == wanted


@given(st.lists(st.sampled_from(TermTree.shipped().terms), min_size=1, max_size=6, unique=True), st.data())
def test_label_strings_that_are_not_quite_lists(labels: list[str], data: st.DataObject) -> None:
    case = data.draw(st.sampled_from(["no commas", "no quotes", "double quotes", "no brackets", "nan", "cut off"]))
    quoted = [f"'{label}'" for label in labels]
    text = {
        "no commas": f"[{' '.join(quoted)}]",
        "no quotes": f"[{', '.join(labels)}]",
        "double quotes": "[" + ", ".join(f'"{label.upper()}"' for label in labels) + "]",
        "no brackets": ",".join(quoted),
        "nan": f"[{', '.join(quoted)}, nan]",
        "cut off": f"[{', '.join(quoted)}"[:-1],
    }[case]
    assert parse_labels(text) == labels


@given(st.text(max_size=40))
def test_any_text_is_read(text: str) -> None:
    labels = parse_labels(text)
    assert labels is None or all(label == " ".join(label.lower().split()) != "" for label in labels)


@given(st.lists(st.sampled_from([*TermTree.shipped().terms, "normal", "unchanged"]), max_size=6))
def test_targets_of_any_list(labels: list[str]) -> None:
    tree = TermTree.shipped()
    (row,), *_ = listed_targets([repr(labels)], LABELS)
    findings = set(labels) - {"normal", "unchanged"}
    if not findings and "normal" not in labels:
        assert np.isnan(row).all()
        return
    found = {label for label, value in zip(LABELS, row, strict=True) if value == 1}
    assert found - {"normal", "other findings"} == tree.with_ancestors(findings) & set(LABELS)
    assert ("normal" in found) == (not findings)
    assert ("other findings" in found) == bool(findings and not tree.with_ancestors(findings) & set(LABELS))
    (row,), *_ = listed_targets([repr(labels)], LABELS, normal="listed")
    listed = {label for label, value in zip(LABELS, row, strict=True) if value == 1}
    assert listed == found | ({"normal"} & set(labels))
    # a parent is positive wherever a child is
    children = listed_targets([repr(labels)], list(tree.terms), normal="listed").targets[0]
    values = dict(zip(tree.terms, children, strict=True))
    assert all(values[parent] == 1 for term in findings for parent in tree.parents[term])


def test_made_up_samples_of_the_official_format(real_data: Path, tmp_path: Path) -> None:
    shutil.copy(real_data / "samples/csv_made_up/padchest_labels.csv", tmp_path / TABLE)
    for folder, name in ((0, "1_aaaaaa"), (3, "2_bbbbbb"), (3, "3_cccccc")):
        (tmp_path / str(folder)).mkdir(exist_ok=True)
        path = tmp_path / str(folder) / f"9999000000000000000000000000000000000{name}.png"
        shutil.copy(real_data / "samples/png/nih_16bit_256.png", path)
    pictures = PadChest(root=tmp_path)
    assert [positives(pictures, k) for k in range(3)] == [["normal"], ["cardiomegaly", "pleural effusion"], []]
    assert pictures.targets[2].isnan().all()
    assert pictures.views == ["PA", "AP_horizontal", "L"]
    assert pictures.patient_ids[1] == pictures.patient_ids[2]
    assert len(PadChest(root=tmp_path, views="Frontal", methods="RNN_model")) == 1
    image = pictures[0]["image"]
    assert image.is_floating_point()
    assert 0.1 < float(image.mean()) < 0.9
