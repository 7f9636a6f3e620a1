"""Data sets joined on common labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from thoraxlib import datasets
from thoraxlib import labels as label_sets
from thoraxlib.datasets.padchest import TermTree


def synthetic(length: int = 6, seed: int = 0, labels: Any = "nih14", **options: Any) -> Any:
    return datasets.build(
        "synthetic", size=32, length=length, seed=seed, labels=labels, balance=1.0, masks=False, **options
    )


class Plain(torch.utils.data.Dataset[dict[str, Any]]):
    """Two images of unknown boxes."""

    labels = ("Effusion",)
    targets = torch.tensor([[1.0], [0.0]])
    patient_ids = ("p", "q")
    ids = ("a", "b")

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": torch.zeros(1, 8, 8), "labels": self.targets[index], "id": self.ids[index]}


def test_labels_are_found_by_any_name_and_unknown_ones_are_nan() -> None:
    nih, other = synthetic(labels="nih14"), synthetic(4, 1, ["edema", "Mass"])
    both = datasets.build("concat", parts={"nih": nih, "other": other}, labels="padchest_openi22")
    assert isinstance(both, datasets.ChestDataset)
    assert (len(both), both.targets.shape) == (10, (10, 22))
    column = {label: both.targets[:, k] for k, label in enumerate(both.labels)}
    names = label_sets.build("nih14")
    for label, name in {"pulmonary edema": "Edema", "infiltrates": "Infiltration", "mass": "Mass"}.items():
        assert torch.equal(column[label][:6], nih.targets[:, names.index(name)])
    assert torch.equal(column["pulmonary edema"][6:], other.targets[:, 0])
    assert torch.equal(column["mass"][6:], other.targets[:, 1])
    assert column["infiltrates"][6:].isnan().all()
    assert column["tuberculosis"].isnan().all()
    assert both.ids[6] == f"other/{other.ids[0]}"
    assert both.patient_ids[0] == f"nih/{nih.patient_ids[0]}"


def test_samples_are_those_of_the_parts() -> None:
    nih, other = synthetic(labels=["Mass", "Nodule"]), synthetic(40, 1, ["Nodule", "Effusion"])
    both = datasets.Concat({"a": nih, "b": other}, labels=["nodule", "pleural effusion"])
    assert torch.equal(both.boxed, torch.cat([nih.boxed, other.boxed]))
    for index in (0, 5, 6, 45, -1):
        sample = both[index]
        part, inner = (nih, index) if 0 <= index < 6 else (other, index % 46 - 6)
        assert torch.equal(sample["image"], part[inner]["image"])
        np.testing.assert_array_equal(sample["labels"], both.targets[index])
        assert sample["id"] == both.ids[index]
        wanted = part.labels.index("Nodule")
        nodules = part[inner]["boxes"][part[inner]["box_labels"] == wanted]
        assert torch.equal(
            sample["boxes"][sample["box_labels"] == 0].as_subclass(torch.Tensor), nodules.as_subclass(torch.Tensor)
        )
        assert sample["boxes"].canvas_size == (32, 32)
    masses = [index for index in range(6) if nih.targets[index, 0] == 1]
    assert masses
    assert all(set(both[index]["box_labels"].tolist()) <= {0, 1} for index in masses)
    with pytest.raises(IndexError):
        both[46]


def test_parts_without_boxes_get_none() -> None:
    both = datasets.Concat([synthetic(3, labels=["Effusion"]), Plain()])
    assert both.boxed[3:].tolist() == [False, False]
    sample = both[3]
    assert sample["boxes"].shape == (0, 4)
    assert sample["box_labels"].shape == (0,)
    assert both.targets[3:].tolist() == [[1], [0]]
    assert not hasattr(datasets.Concat({"x": Plain()}), "boxed")


def test_all_labels_by_default() -> None:
    both = datasets.Concat([synthetic(2, labels=["Effusion", "Mass"]), synthetic(2, 1, ["pleural effusion", "Hernia"])])
    assert both.labels == ("Effusion", "Mass", "Hernia")
    assert not both.targets[:, 0].isnan().any()
    assert both.targets[:, 1].isnan().tolist() == [False, False, True, True]


def test_it_can_be_split_and_joined_again() -> None:
    both = datasets.Concat({"a": synthetic(60), "b": synthetic(30, 1, ["Mass"])}, labels="nih8")
    parts = datasets.split_by_patient(both)
    again = datasets.Concat(list(parts.values()))
    assert sorted(again.ids) == sorted(both.ids)
    assert again.labels == both.labels


def test_a_finding_is_also_what_it_is_a_kind_of() -> None:
    nih = synthetic(60, labels=["Consolidation", "Infiltration", "Effusion"])
    few = synthetic(30, 1, labels=["Consolidation", "Effusion"])
    parts, names = {"nih": nih, "few": few}, ["infiltrates", "pleural effusion", "consolidation"]
    both = datasets.Concat(parts, names, tree=TermTree.shipped())
    consolidation, infiltration = nih.targets[:, 0] == 1, nih.targets[:, 1] == 1
    assert bool((consolidation & ~infiltration).any())
    assert torch.equal(both.targets[:60, 0] == 1, consolidation | infiltration)
    assert not both.targets[:60].isnan().any()
    # where infiltrates are not told, a consolidation tells of one, and its absence of nothing
    assert torch.equal(both.targets[60:, 0] == 1, few.targets[:, 0] == 1)
    assert torch.equal(both.targets[60:, 0].isnan(), few.targets[:, 0] == 0)
    assert torch.equal(both.targets[:, 1:], datasets.Concat(parts, names[1:]).targets)
    assert torch.equal(both[0]["labels"], both.targets[0])
    # a part may know kinds alone
    alone = datasets.Concat({"few": synthetic(20, labels=["Consolidation"])}, ["infiltrates"], tree=TermTree.shipped())
    assert (alone.targets == 1).sum() == (synthetic(20, labels=["Consolidation"]).targets == 1).sum()


def test_regions_where_all_parts_have_them() -> None:
    options = {"size": 64, "length": 3, "balance": 1.0, "masks": False}
    one = datasets.build("synthetic", labels=["Edema", "Mass"], **options)
    other = datasets.build("synthetic", labels=["mass", "Hernia"], seed=1, **options)
    both = datasets.Concat({"one": one, "other": other}, labels=["Mass", "Edema"])
    assert both.region_names == one.region_names
    first, second = both[0]["region_labels"], both[4]["region_labels"]
    assert torch.equal(first.nan_to_num(2), one[0]["region_labels"][:, [1, 0]].nan_to_num(2))
    assert torch.equal(second[:, 0].nan_to_num(2), other[1]["region_labels"][:, 0].nan_to_num(2))
    assert second[:, 1].isnan().all()
    assert datasets.collate([both[0], both[4]])["region_labels"].shape == (2, 18, 2)

    mixed = datasets.Concat({"plain": Plain(), "other": synthetic(3)})
    assert not hasattr(mixed, "region_names")
    assert not {"regions", "present", "region_labels"} & {*mixed[0], *mixed[4]}


def test_errors() -> None:
    images = synthetic(3)
    with pytest.raises(ValueError, match="parts 0 and 1 share the id 'synthetic-0-000000'; if they are different"):
        datasets.Concat([images, images])
    renamed = datasets.Subset(synthetic(3), [0])
    renamed.ids = ["other"]
    with pytest.raises(ValueError, match="parts 0 and 1 share the patient 'synthetic-0-p"):
        datasets.Concat([images, renamed])
    assert len(datasets.Concat({"one": images, "two": images})) == 6
    with pytest.raises(ValueError, match=r"part 'b' has none of the labels \['Mass'\]; it has \['Effusion'\]"):
        datasets.Concat({"a": images, "b": Plain()}, labels=["Mass"])
    with pytest.raises(ValueError, match="holds no data set"):
        datasets.Concat([])
