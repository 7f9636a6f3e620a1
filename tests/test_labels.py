from __future__ import annotations

import pytest

from thoraxlib import labels
from thoraxlib.registry import UnknownNameError


@pytest.mark.parametrize(
    ("name", "length", "first", "last"),
    [
        ("nih14", 14, "Atelectasis", "Hernia"),
        ("nih14_alphabetical", 14, "Atelectasis", "Pneumothorax"),
        ("nih15", 15, "Atelectasis", "No Finding"),
        ("nih8", 8, "Atelectasis", "Pneumothorax"),
        ("chexpert14", 14, "No Finding", "Support Devices"),
        ("chexpert5", 5, "Cardiomegaly", "Pleural Effusion"),
        ("chexpert5_alphabetical", 5, "Atelectasis", "Pleural Effusion"),
        ("mimic14", 14, "Atelectasis", "No Finding"),
        ("padchest_openi22", 22, "aortic elongation", "tuberculosis"),
        ("imagenome9", 9, "lung opacity", "pneumonia"),
        ("regions18", 18, "right lung", "trachea"),
        ("regions29", 29, "right lung", "abdomen"),
        ("regions36", 36, "right lung", "abdomen"),
    ],
)
def test_orders(name: str, length: int, first: str, last: str) -> None:
    values = labels.build(name)
    assert (len(values), values[0], values[-1]) == (length, first, last)
    assert len(set(values)) == length


def test_padchest_orders_are_permutations() -> None:
    tensors, listed = labels.build("padchest_openi22"), labels.build("padchest_openi22_listed")
    assert list(tensors) == sorted(listed)
    assert listed.index("pleural effusion") == 5
    assert listed[14:16] == ("other findings", "pneumonia")


def test_other_orders_are_permutations() -> None:
    for name in ("nih14", "chexpert5"):
        listed, alphabetical = labels.build(name), labels.build(f"{name}_alphabetical")
        assert list(alphabetical) == sorted(listed)
        assert alphabetical != listed
    mimic, chexpert = labels.build("mimic14"), labels.build("chexpert14")
    assert sorted(mimic) == sorted(chexpert)
    assert mimic[9:12] == ("Pneumonia", "Pneumothorax", "Pleural Other")


def test_resolve() -> None:
    assert labels.resolve(["a", "b"]) == ("a", "b")
    assert labels.resolve("nih8") == labels.build("nih8")
    with pytest.raises(UnknownNameError, match="did you mean 'nih14'"):
        labels.resolve("nih_14")
    with pytest.raises(ValueError, match="more than once"):
        labels.resolve(["a", "a"])
    for bad in ([], [1], [""]):
        with pytest.raises(ValueError, match="labels must be"):
            labels.resolve(bad)  # type: ignore[arg-type]


def test_align() -> None:
    index = labels.align(labels.build("chexpert14"), labels.build("nih14"))
    found = {
        nih: labels.build("chexpert14")[i] for nih, i in zip(labels.build("nih14"), index, strict=True) if i is not None
    }
    assert found["Effusion"] == "Pleural Effusion"
    assert found["Edema"] == "Edema"
    assert "Hernia" not in found


def test_region_sets() -> None:
    r18, r29, r36 = (labels.build(name) for name in ("regions18", "regions29", "regions36"))
    assert r36[:18] == r18
    assert set(r18) < set(r29) < set(r36)
    assert r18[6:9] == ("right costophrenic angle", "left lung", "left apical zone")
    assert r29[3:9] == (
        "right lower lung zone",
        "right hilar structures",
        "right apical zone",
        "right costophrenic angle",
        "right hemidiaphragm",
        "left lung",
    )
