"""The room's verbs, collate, splits by patient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision import tv_tensors

from thoraxlib import datasets
from thoraxlib.registry import OptionError, UnknownNameError


class Made(torch.utils.data.Dataset[dict[str, Any]]):
    """As many images as there are patient ids."""

    def __init__(self, patient_ids: list[str]) -> None:
        self.labels = ("a", "b")
        self.patient_ids = patient_ids
        self.ids = [f"{index}.png" for index in range(len(patient_ids))]
        self.targets = torch.arange(2.0 * len(patient_ids)).reshape(-1, 2)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"id": self.ids[index], "labels": self.targets[index]}


def test_verbs() -> None:
    assert "nih14" in datasets.names()
    card = datasets.describe("nih14")
    assert "ChestX-ray14" in card.summary
    assert "root" in card.options
    with pytest.raises(UnknownNameError, match="'nih14'"):
        datasets.build("nih41", root=".")
    with pytest.raises(OptionError, match="'root'"):
        datasets.build("nih14")


def test_collate_stacks_and_lists() -> None:
    def sample(boxes: int) -> dict[str, Any]:
        return {
            "image": tv_tensors.Image(torch.rand(3, 8, 8)),
            "labels": torch.tensor([1.0, float("nan")]),
            "boxes": tv_tensors.BoundingBoxes(torch.zeros(boxes, 4), format="XYXY", canvas_size=(8, 8)),
            "box_labels": torch.zeros(boxes).long(),
            "regions": tv_tensors.BoundingBoxes(torch.zeros(18, 4), format="XYXY", canvas_size=(8, 8)),
            "present": torch.ones(18, dtype=torch.bool),
            "region_labels": torch.zeros(18, 2),
            "features": torch.zeros(18, 5),
            "scores": torch.zeros(18),
            "masks": tv_tensors.Mask(torch.zeros(6, 8, 8, dtype=torch.uint8)),
            "id": str(boxes),
        }

    batch = datasets.collate([sample(0), sample(2)])
    shapes = {key: tuple(value.shape) for key, value in batch.items() if isinstance(value, torch.Tensor)}
    assert shapes == {
        "image": (2, 3, 8, 8),
        "labels": (2, 2),
        "regions": (2, 18, 4),
        "present": (2, 18),
        "region_labels": (2, 18, 2),
        "features": (2, 18, 5),
        "scores": (2, 18),
        "masks": (2, 6, 8, 8),
    }
    assert batch["present"].dtype == torch.bool
    assert type(batch["image"]) is torch.Tensor
    assert batch["masks"].dtype == torch.uint8
    assert [len(boxes) for boxes in batch["boxes"]] == [0, 2]
    assert batch["boxes"][1].canvas_size == (8, 8)
    assert batch["id"] == ["0", "2"]


def test_collate_refuses() -> None:
    with pytest.raises(ValueError, match="empty"):
        datasets.collate([])
    with pytest.raises(ValueError, match=r"'image'.*\(1, 8, 8\).*transform"):
        datasets.collate([{"image": torch.zeros(1, 8, 8)}, {"image": torch.zeros(1, 8, 9)}])
    with pytest.raises(ValueError, match="different keys"):
        datasets.collate([{"image": torch.zeros(1, 8, 8)}, {"id": "x"}])


@settings(max_examples=80, deadline=None)
@given(
    patients=st.lists(st.integers(0, 60).map(str), min_size=40, max_size=200).filter(lambda p: len(set(p)) >= 12),
    seed=st.integers(0, 2**32 - 1),
    shuffle=st.randoms(use_true_random=False),
)
def test_no_patient_is_in_two_parts(patients: list[str], seed: int, shuffle: Any) -> None:
    fractions = {"train": 0.6, "val": 0.15, "test": 0.25}
    dataset = Made(patients)
    parts = datasets.split_by_patient(dataset, fractions, seed)
    assert list(parts) == list(fractions)
    assert sorted(name for part in parts.values() for name in part.ids) == sorted(dataset.ids)
    owners = {name: set(part.patient_ids) for name, part in parts.items()}
    total = len(set(patients))
    assert sum(map(len, owners.values())) == total
    for name, share in fractions.items():
        assert abs(len(owners[name]) - share * total) <= 1

    again = datasets.split_by_patient(dataset, fractions, seed)
    assert all(again[name].ids == part.ids for name, part in parts.items())
    # the order of the images does not matter
    order = list(patients)
    shuffle.shuffle(order)
    shuffled = datasets.split_patients(order, fractions, seed)
    assert all({order[index] for index in shuffled[name]} == owners[name] for name in fractions)


def test_another_seed_gives_another_split() -> None:
    dataset = Made([str(index) for index in range(100)])
    parts = [datasets.split_by_patient(dataset, seed=seed)["train"].ids for seed in range(3)]
    assert parts[0] != parts[1] != parts[2]


def test_a_part_is_a_dataset() -> None:
    dataset = Made([str(index // 2) for index in range(40)])
    part = datasets.split_by_patient(dataset)["val"]
    assert isinstance(part, datasets.ChestDataset)
    assert len(part) == len(part.ids) == len(part.patient_ids) == len(part.targets) == 4
    for index in range(len(part)):
        sample = part[index]
        assert sample["id"] == part.ids[index]
        assert torch.equal(sample["labels"], part.targets[index])
    nested = datasets.Subset(part, [2])
    assert nested.ids == [part.ids[2]]
    assert not hasattr(nested, "region_names")


def test_a_part_keeps_what_is_known_of_regions() -> None:
    dataset = Made(["a", "b", "c"])
    dataset.region_names = ("left lung", "trachea")
    dataset.region_targets = torch.arange(12.0).reshape(3, 2, 2)
    dataset.region_present = torch.tensor([[True, False], [True, True], [False, False]])
    dataset.views = ["PA", "AP", "PA"]
    dataset.mask_names = ("lungs",)
    part = datasets.Subset(datasets.Subset(dataset, [2, 1]), [1])
    assert part.mask_names == ("lungs",)
    assert part.region_names == dataset.region_names
    assert torch.equal(part.region_targets, dataset.region_targets[[1]])
    assert part.region_present.tolist() == [[True, True]]
    assert part.views == ["AP"]


@pytest.mark.parametrize(
    ("fractions", "message"),
    [
        ({"train": 0.5, "test": 0.4}, "add up to 1"),
        ({"train": 1.2, "test": -0.2}, "positive"),
        ({}, "positive"),
        ({"train": 0.9, "val": 0.1}, "'val'.*would be empty"),
    ],
)
def test_bad_fractions(fractions: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        datasets.split_by_patient(Made(["a", "b", "b"]), fractions)
