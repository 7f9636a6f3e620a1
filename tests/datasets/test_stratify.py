"""Splits by patient that are alike in all labels; their files and tables."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from thoraxlib import datasets
from thoraxlib.datasets import Subset, load_split, prevalence, save_split, stratified_split, stratify_patients


def made(images: int, labels: int, patients: int, seed: int) -> tuple[list[str], Tensor]:
    """Patients with few images and labels of many prevalences, some unknown."""
    rng = np.random.default_rng(seed)
    shares = np.geomspace(0.01, 0.4, labels)
    targets = (rng.random((images, labels)) < shares).astype(np.float32)
    targets[rng.random((images, labels)) < 0.05] = np.nan
    return [f"p{patient}" for patient in rng.integers(0, patients, images)], torch.from_numpy(targets)


def spread(targets: Tensor, parts: dict[str, list[int]]) -> Tensor:
    shares = torch.stack([(targets[rows] == 1).float().mean(dim=0) for rows in parts.values()])
    return shares.amax(dim=0) - shares.amin(dim=0)


@settings(max_examples=40, deadline=None)
@given(st.integers(60, 150), st.integers(1, 6), st.integers(20, 60), st.integers(0, 10_000))
def test_parts_are_disjoint_in_patients_and_complete(images: int, labels: int, patients: int, seed: int) -> None:
    ids, targets = made(images, labels, patients, seed)
    fractions = {"a": 0.5, "b": 0.3, "c": 0.2}
    parts = stratify_patients(ids, targets, fractions, seed=seed)
    assert list(parts) == ["a", "b", "c"]
    assert sorted(row for rows in parts.values() for row in rows) == list(range(images))
    owners = [{ids[row] for row in rows} for rows in parts.values()]
    assert sum(map(len, owners)) == len(set().union(*owners))
    assert all(rows == sorted(rows) for rows in parts.values())
    # the order of the images has no part in it
    shuffled = np.random.default_rng(seed).permutation(images)
    again = stratify_patients([ids[row] for row in shuffled], targets[shuffled], fractions, seed=seed)
    for name, rows in again.items():
        assert {int(shuffled[row]) for row in rows} == set(parts[name])


def test_prevalence_is_close_in_all_parts() -> None:
    ids, targets = made(5000, 12, 2000, 0)
    parts = stratify_patients(ids, targets)
    shares = [len(rows) / 5000 for rows in parts.values()]
    np.testing.assert_allclose(shares, [0.7, 0.1, 0.2], atol=0.002)
    assert float(spread(targets, parts).max()) < 0.003
    drawn = [float(spread(targets, datasets.split_patients(ids, seed=seed)).mean()) for seed in range(5)]
    assert float(spread(targets, parts).mean()) < min(drawn) / 5


def test_pairs_of_labels_are_alike_too() -> None:
    rng = np.random.default_rng(1)
    first = rng.random(4000) < 0.3
    targets = torch.from_numpy(
        np.stack([first, (rng.random(4000) < 0.3) & (first | (rng.random(4000) < 0.2))], 1)
    ).float()
    ids = [str(k) for k in range(4000)]
    both = (targets == 1).all(dim=1, keepdim=True).float()
    assert float(spread(both, stratify_patients(ids, targets))) < 0.002


def test_rare_labels_get_into_every_part() -> None:
    targets = torch.zeros(300, 2)
    targets[:10, 0] = 1
    targets[:100, 1] = 1
    parts = stratify_patients([str(k) for k in range(300)], targets)
    assert [int(targets[rows, 0].sum()) for rows in parts.values()] == [7, 1, 2]


def test_seeds() -> None:
    ids, targets = made(400, 4, 200, 3)
    first, same, other = (stratify_patients(ids, targets, seed=seed) for seed in (0, 0, 1))
    assert first == same
    assert first != other


def test_errors() -> None:
    targets = torch.zeros(3, 1)
    with pytest.raises(ValueError, match="2 patients are too few for the parts .*would be empty"):
        stratify_patients(["a", "b", "b"], targets)
    with pytest.raises(ValueError, match="fractions must be positive and add up to 1"):
        stratify_patients(["a", "b", "c"], targets, {"train": 0.5})
    for shape in ((0, 3), (2,)):
        with pytest.raises(ValueError, match=r"targets must be \(N, K\) with an image or more, got shape"):
            stratify_patients(["a", "b"][: shape[0]], torch.zeros(shape))
    with pytest.raises(ValueError, match="2 patient ids, but 3 rows"):
        stratify_patients(["a", "b"], targets)


def test_kept_in_a_file(tmp_path: Path) -> None:
    images = datasets.build("synthetic", size=32, length=200, labels="nih8", balance=1.0, masks=False)
    parts = stratified_split(images)
    path = tmp_path / "new" / "split.csv"
    save_split(parts, path)
    assert path.read_text().splitlines()[0] == "part,patient_id,id"
    again = load_split(images, path)
    assert list(again) == ["train", "val", "test"]
    for name, part in parts.items():
        assert again[name].ids == part.ids
        assert torch.equal(again[name].targets, part.targets)
    # the images may come in another order
    turned = load_split(Subset(images, range(199, -1, -1)), path)
    assert {name: set(part.ids) for name, part in turned.items()} == {n: set(p.ids) for n, p in parts.items()}

    with pytest.raises(
        ValueError, match="is the split of another data set: 0 of 150 images are not in it; of its images"
    ):
        load_split(Subset(images, range(150)), path)
    with pytest.raises(ValueError, match="is the split of another data set: 100 of 300 images are not in it$"):
        load_split(datasets.build("synthetic", size=32, length=300, labels="nih8", masks=False), path)
    text = path.read_text()
    path.write_text(text.replace("synthetic-0-p000000", "somebody", 1))
    with pytest.raises(ValueError, match=r"split.csv:\d+: .* belongs to patient somebody there"):
        load_split(images, path)
    rows = text.splitlines()
    patient = next(row.split(",")[1] for row in rows[1:] if text.count(f",{row.split(',')[1]},") > 1)
    several = next(number for number, row in enumerate(rows) if f",{patient}," in row)
    rows[several] = "elsewhere," + rows[several].partition(",")[2]
    path.write_text("\n".join(rows))
    with pytest.raises(ValueError, match=rf"split.csv:\d+: patient {patient} is in '.*' and in '.*'"):
        load_split(images, path)
    path.write_text("image\nsynthetic\n")
    with pytest.raises(ValueError, match="no column 'part'"):
        load_split(images, path)
    with pytest.raises(FileNotFoundError):
        load_split(images, tmp_path / "none.csv")
    with pytest.raises(ValueError, match="images are in the split more than once"):
        save_split({"a": images, "b": images}, path)


def test_the_table_of_prevalence() -> None:
    images = datasets.build("synthetic", size=32, length=100, labels=["Mass", "Hernia", "tuberculosis"], masks=False)
    parts = {"train": Subset(images, range(80)), "test": Subset(images, range(80, 100))}
    table = prevalence(parts)
    assert table.images == {"train": 80, "test": 20}
    assert table.patients["train"] == len(set(images.patient_ids[:80]))
    masses = images.targets[:, 0]
    expected = [float(masses[:80].mean()), float(masses[80:].mean())]
    np.testing.assert_allclose(table.shares[:, 0], expected)
    np.testing.assert_allclose(table.spread[0], abs(expected[0] - expected[1]), atol=1e-6)
    assert table.shares[:, 2].isnan().all()
    lines = str(table).splitlines()
    assert lines[0].split() == ["train", "test", "spread"]
    assert lines[2].split() == ["images", "80", "20"]
    assert lines[3].split()[:4] == ["Mass", str(int(masses[:80].sum())), f"({100 * expected[0]:.1f}", "%)"]
    assert lines[-1].split() == ["tuberculosis", "0", "(-)", "0", "(-)", "-"]
    with pytest.raises(ValueError, match="the same labels, got 2 sets"):
        prevalence({"a": images, "b": datasets.build("synthetic", size=32, length=2, masks=False)})


def test_large_sets_take_seconds() -> None:
    ids, targets = made(40_000, 22, 17_000, 0)
    before = time.process_time()
    parts = stratify_patients(ids, targets)
    assert time.process_time() - before < 20
    assert float(spread(targets, parts).max()) < 1e-3
