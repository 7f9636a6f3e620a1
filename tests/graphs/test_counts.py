from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from thoraxlib import graphs, labels
from thoraxlib.graphs import LabelCounts
from thoraxlib.graphs.counts import shipped

NAN = float("nan")
COUNTED = [name for name in graphs.counts.names() if name != "given"]
NAMES = ("a", "b", "c", "d", "e")


def by_loop(targets: Tensor) -> tuple[list[list[int]], list[list[int]]]:
    """Count joint occurrences and support, image by image."""
    k = targets.shape[1]
    joint, support = np.zeros((k, k), int), np.zeros((k, k), int)
    for row in targets.tolist():
        for i, j in product(range(k), repeat=2):
            joint[i, j] += row[i] == 1 and row[j] == 1
            support[i, j] += row[i] == 1 and row[j] == row[j]
    return joint.tolist(), support.tolist()


@st.composite
def label_tables(draw: st.DrawFn) -> Tensor:
    k = draw(st.integers(1, 5))
    rows = draw(st.lists(st.lists(st.sampled_from([0.0, 1.0, NAN]), min_size=k, max_size=k), max_size=12))
    return torch.tensor(rows).reshape(-1, k)


@settings(deadline=None, max_examples=60)
@given(label_tables(), st.integers(1, 12))
def test_counts_equal_those_of_a_loop(targets: Tensor, size: int) -> None:
    names = NAMES[: targets.shape[1]]
    counts = LabelCounts.of(targets, names)
    joint, support = by_loop(targets)
    assert counts.joint.tolist() == joint
    assert counts.support.tolist() == support
    assert counts.positives.tolist() == (targets == 1).sum(dim=0).tolist()
    conditional = counts.conditional()
    for i, j in product(range(len(names)), repeat=2):
        assert conditional[i, j] == (joint[i][j] / support[i][j] if support[i][j] else 0)
    chunked = LabelCounts.of((chunk.numpy() for chunk in targets.split(size)), names)
    assert torch.equal(chunked.joint, counts.joint)
    assert torch.equal(chunked.support, counts.support)
    # the order of the images does not matter, that of the labels moves rows and columns
    flipped = LabelCounts.of(targets.flip(0, 1), names[::-1])
    assert torch.equal(flipped.select(names).joint, counts.joint)
    assert torch.equal(flipped.select(names).support, counts.support)


def test_large_tables_are_counted_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    targets = (torch.rand(1000, 3) < 0.3).float()
    whole = LabelCounts.of(targets, NAMES[:3])
    monkeypatch.setattr("thoraxlib.graphs.counts._CHUNK", 7)
    assert torch.equal(LabelCounts.of(targets, NAMES[:3]).joint, whole.joint)
    assert whole.joint.tolist() == by_loop(targets)[0]


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.int64, np.float16, np.float32, np.float64])
def test_every_number_type_and_layout(dtype: Any) -> None:
    table = np.array([[1, 0], [1, 1], [0, 1]]).astype(dtype)
    read_only = table.copy()
    read_only.flags.writeable = False
    for given_as in (table, read_only, table[::-1], np.asfortranarray(table), torch.from_numpy(table)):
        assert LabelCounts.of(given_as, ["a", "b"]).joint.tolist() == [[2, 1], [1, 2]]


@pytest.mark.parametrize(
    ("dtype", "wrong"),
    [(np.uint8, 2), (np.int8, -1), (np.int8, 100), (np.int64, 2), (np.int64, -(2**24)), (np.int64, 2**62)],
)
def test_other_numbers_are_refused(dtype: Any, wrong: int) -> None:
    """At any position, beside any values, and although a product of float32 rounds."""
    table = np.ones((20_000, 2), dtype)
    table[7, 1] = wrong
    with pytest.raises(ValueError, match="must be 0, 1 or NaN, got .* in column 1"):
        LabelCounts.of(table, ["a", "b"])
    assert table[7, 1] == wrong  # an array that was not copied


def test_select_by_canonical_name() -> None:
    nih = graphs.counts.build("nih14")
    some = nih.select(["Pleural Effusion", "pleural thickening", "Infiltrate"])
    assert some.labels == ("Pleural Effusion", "pleural thickening", "Infiltrate")
    at = [nih.labels.index(label) for label in ("Effusion", "Pleural_Thickening", "Infiltration")]
    assert some.joint.tolist() == nih.joint[at][:, at].tolist()
    assert some.positives.tolist() == [7823, 2024, 12193]
    with pytest.raises(ValueError, match="counts have no 'Fracture', 'Device'; they have Atelectasis"):
        nih.select(["Fracture", "Mass", "Device"])


def test_two_spellings_of_one_finding_stay_separate() -> None:
    counts = LabelCounts.of(torch.tensor([[1, 0], [1, 0], [0, 1]]), ["Effusion", "Pleural Effusion"])
    for labels_of_it in (counts.labels, counts.labels[::-1]):
        selected = counts.select(labels_of_it)
        assert dict(zip(selected.labels, selected.positives.tolist(), strict=True)) == {
            "Effusion": 2,
            "Pleural Effusion": 1,
        }


@pytest.mark.parametrize("targets", [[[1, 1, 0], [0, 1, 1]], [[1, NAN, 0], [1, 1, NAN]]], ids=["known", "unknown"])
def test_save_and_load(targets: list[list[float]], tmp_path: Path) -> None:
    counts = LabelCounts.of(torch.tensor(targets), ["Mass", "Nodule", "Épanchement"])
    counts.save(tmp_path / "counts.json")
    loaded = LabelCounts.load(tmp_path / "counts.json")
    for other in (loaded, graphs.counts.registry.resolve(json.loads(json.dumps(counts.registry_spec)))):
        assert other.labels == counts.labels
        assert torch.equal(other.joint, counts.joint)
        assert torch.equal(other.support, counts.support)
    assert ("support" in json.loads((tmp_path / "counts.json").read_text())) == (targets[0][1] != 1)


@pytest.mark.parametrize("name", COUNTED)
def test_shipped(name: str) -> None:
    counts = graphs.counts.build(name)
    assert (counts.positives > 0).all()
    assert graphs.counts.describe(name).summary
    at_hand = [label_set for label_set in labels.names() if set(labels.build(label_set)) == set(counts.labels)]
    for label_set in at_hand:
        assert shipped(label_set).select(counts.labels).joint.tolist() == counts.joint.tolist()
    assert at_hand
    assert shipped(["Edema", "Pleural Effusion"]).positives.tolist() == [1268, 7823]  # of NIH, the first with both
    with pytest.raises(ValueError, match=r"no shipped counts have all of \['Mass', 'Fracture'\].*LabelCounts\.of"):
        shipped(["Mass", "Fracture"])


@pytest.mark.parametrize(
    ("joint", "support", "message"),
    [
        ([[2, -1], [-1, 2]], None, r"0 <= joint.* i='a' and j='b' joint is -1"),
        ([[2, 1], [0, 2]], None, r"joint\[j, i\]; for i='a' and j='b' joint is 1 \(joint\[j, i\] 0"),
        ([[2, 3], [3, 4]], None, r"<= support.* i='a' and j='b' joint is 3 .*support 2"),
        ([[2, 1], [1, 2]], [[2, 0], [2, 2]], r"<= support.* i='a' and j='b' joint is 1 .*support 0"),
        (
            [[2, 1], [1, 2]],
            [[2, 1], [3, 2]],
            r"support\[i, j\] <= joint\[i, i\]; for i='b' and j='a' .*joint\[i, i\] 2\), support 3",
        ),
        ([[2, 1], [1, 2]], [[2, 1], [-3, 2]], r"for i='b' and j='a' .*support -3"),
        ([[2.0, 1.0], [1.0, 2.0]], None, r"joint must be integers \(2, 2\), got torch.float32 \(2, 2\)"),
        ([[2, 1, 1], [1, 2, 1]], [[2, 2], [2, 2]], r"joint must be integers \(2, 2\), got torch.int64 \(2, 3\)"),
    ],
)
def test_invalid_counts(joint: Any, support: Any, message: str, tmp_path: Path) -> None:
    options = {"labels": ["a", "b"], "joint": joint} | ({"support": support} if support else {})
    with pytest.raises(ValueError, match=message):
        graphs.counts.build("given", **options)
    (tmp_path / "counts.json").write_text(json.dumps(options))
    with pytest.raises(ValueError, match=r"counts\.json holds no label counts"):
        LabelCounts.load(tmp_path / "counts.json")


def test_counts_written_as_lists() -> None:
    counts = LabelCounts(("a", "b"), [[2, 1], [1, 3]], [[2, 2], [3, 3]])  # type: ignore[arg-type]
    assert counts.conditional()[0].tolist() == [1, 0.5]


@pytest.mark.parametrize("content", ["{}", "[1]", "no JSON", '{"labels": ["a", "b"], "joint": [[1], [1, 2]]}'])
def test_files_without_counts(content: str, tmp_path: Path) -> None:
    (tmp_path / "counts.json").write_text(content)
    with pytest.raises(ValueError, match=r"counts\.json holds no label counts \('labels', 'joint'\)"):
        LabelCounts.load(tmp_path / "counts.json")
    with pytest.raises(FileNotFoundError):
        LabelCounts.load(tmp_path / "absent.json")


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (torch.tensor([[0.0, 1.0], [0.0, 0.5]]), "targets must be 0, 1 or NaN, got 0.5 in column 1"),
        (torch.tensor([[0, -1]]), "got -1 in column 1"),
        (np.array([[2, 0]], np.uint8), "got 2 in column 0"),
        (torch.tensor([[0.0, float("inf")]]), "got inf in column 1"),
        (torch.zeros(3, 3), r"targets must be \(N, 2\), one column for each label, got shape \(3, 3\)"),
        (torch.zeros(3), r"got shape \(3,\)"),
        ([torch.zeros(3, 2), torch.zeros(2, 3)], r"got shape \(2, 3\)"),
    ],
)
def test_invalid_targets(targets: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LabelCounts.of(targets, ["a", "b"])


def test_labels_are_named_once() -> None:
    with pytest.raises(ValueError, match=r"names \['a'\] more than once"):
        LabelCounts.of(torch.zeros(1, 2), ["a", "a"])
