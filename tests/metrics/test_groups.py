"""Scores of subgroups and the gaps between them."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest

from thoraxlib import metrics

NAN = float("nan")
LABELS = ["Mass", "Edema"]


def case(n: int = 300) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Targets and scores that are worse for women, and groups."""
    rng = np.random.default_rng(0)
    targets = (rng.random((n, 2)) < 0.4).astype(float)
    sex = rng.choice(["M", "F"], n)
    scores = rng.normal(size=(n, 2)) + targets * np.where(sex == "F", 0.5, 2.5)[:, None]
    targets[rng.random((n, 2)) < 0.1] = NAN
    return targets, scores, {"sex": sex, "age": rng.integers(0, 90, n)}


@pytest.mark.parametrize("metric", ["auroc", "average_precision", "brier", "ece"])
def test_a_group_has_the_score_of_its_images(metric: str) -> None:
    targets, scores, groups = case()
    if metric in ("brier", "ece"):
        scores = 1 / (1 + np.exp(-scores))
    score = {
        "auroc": metrics.auroc,
        "average_precision": metrics.average_precision,
        "brier": metrics.brier_score,
        "ece": metrics.expected_calibration_error,
    }[metric]
    found = metrics.subgroups(targets, scores, groups, LABELS, metric=metric, n_bootstrap=30)
    men = groups["sex"] == "M"
    for group, inside in (("M", men), ("F", ~men)):
        rows = [row for row in found.rows if row.group == group]
        assert [row.label for row in rows] == [*LABELS, "mean"]
        np.testing.assert_allclose([row.score for row in rows[:2]], score(targets[inside], scores[inside]))
        assert rows[2].score == pytest.approx(np.mean([row.score for row in rows[:2]]))
        assert rows[0].images == (~np.isnan(targets[inside, 0])).sum()
        assert rows[0].positives == np.nansum(targets[inside, 0])
        assert rows[2].images == inside.sum()
    old = (groups["age"] >= 40) & (groups["age"] <= 64)
    (row,) = (row for row in found.rows if (row.group, row.label) == ("40-64", "Mass"))
    assert row.score == pytest.approx(score(targets[old], scores[old])[0])
    assert [r.group for r in found.rows if (r.attribute, r.label) == ("age", "mean")] == [
        "0-17",
        "18-39",
        "40-64",
        "65+",
    ]


def test_intervals_and_gap_are_those_of_the_same_resamples() -> None:
    targets, scores, groups = case(120)
    targets = np.nan_to_num(targets)
    patients = [str(k // 2) for k in range(120)]
    found = metrics.subgroups(
        targets, scores, {"sex": groups["sex"]}, LABELS, n_bootstrap=40, seed=2, patient_ids=patients
    )
    number = np.unique(patients, return_inverse=True)[1]
    drawn = []
    for row in np.random.default_rng(2).multinomial(60, np.full(60, 1 / 60), size=40):
        again = np.repeat(np.arange(120), row[number])
        sides = [again[groups["sex"][again] == sex] for sex in ("F", "M")]
        drawn.append([metrics.auroc(targets[side], scores[side]) for side in sides])
    drawn = np.array(drawn)  # resample, sex, label
    ends = np.quantile(drawn, [0.025, 0.975], axis=0)
    for k in range(2):
        rows = found.rows[2 * k : 2 * k + 2]
        np.testing.assert_allclose([(row.low, row.high) for row in rows], ends[:, :, k].T)
        gap = found.gaps[k]
        assert (gap.largest, gap.smallest) == ("M", "F")
        assert gap.gap == pytest.approx(rows[1].score - rows[0].score)
        np.testing.assert_allclose(
            (gap.low, gap.high), np.quantile(drawn[:, 1, k] - drawn[:, 0, k], [0.025, 0.975]), atol=1e-12
        )
    mean = drawn.mean(axis=2)
    np.testing.assert_allclose(
        (found.gaps[2].low, found.gaps[2].high), np.quantile(mean[:, 1] - mean[:, 0], [0.025, 0.975])
    )
    assert found.gaps[2].low > 0


def test_sensitivity_counts_from_the_threshold_on() -> None:
    targets, scores, groups = case()
    limits = metrics.best_thresholds(targets, scores, "sensitivity", at=0.8)
    for metric in ("sensitivity", "specificity"):
        found = metrics.subgroups(
            targets, scores, {"sex": groups["sex"]}, LABELS, metric=metric, thresholds=limits, n_bootstrap=20
        )
        for row in found.rows[:4]:
            inside = groups["sex"] == row.group
            expected = metrics.confusion(targets[inside], scores[inside], limits)[metric]
            assert row.score == pytest.approx(expected[LABELS.index(row.label)])
    none = metrics.subgroups(
        targets, scores, groups, LABELS, metric="sensitivity", thresholds=[NAN, 0.5], n_bootstrap=5
    )
    assert np.isnan(none.rows[0].score)
    for options in ({"metric": "sensitivity"}, {"thresholds": 0.5}):
        with pytest.raises(ValueError, match="thresholds="):
            metrics.subgroups(targets, scores, groups, LABELS, **options)
    calls = metrics.bootstrap(targets, scores >= limits, metric="sensitivity", n_bootstrap=50)
    whole = metrics.confusion(targets, scores, limits)["sensitivity"]
    assert ((calls.low <= whole) & (whole <= calls.high)).all()
    with pytest.raises(ValueError, match="takes decisions"):
        metrics.bootstrap(targets, scores, metric="sensitivity")


def test_groups_that_are_too_small_say_so() -> None:
    targets, scores, _ = case()
    view = np.where(np.arange(300) < 12, "LL", "PA")
    targets[:12, 0], targets[:12, 1] = 1, [0, 1] * 6
    found = metrics.subgroups(targets, scores, {"view": view}, LABELS, minimum=6, n_bootstrap=20)
    rows = {(row.group, row.label): row for row in found.rows}
    assert rows["LL", "Mass"].note == "too few: 0 negatives"
    assert np.isnan(rows["LL", "Mass"].score)
    assert not np.isnan(rows["LL", "Edema"].score)
    # the means are over the same label in both groups
    assert {row.note for row in found.rows if row.label == "mean"} == {"1 of 2 labels"}
    assert rows["PA", "mean"].score == rows["PA", "Edema"].score
    assert [gap.label for gap in found.gaps] == ["Edema", "mean"]
    found = metrics.subgroups(targets, scores, {"view": view}, LABELS, minimum=7, n_bootstrap=20)
    rows = {(row.group, row.label): row for row in found.rows}
    assert rows["LL", "Edema"].note == "too few: 6 positives, 6 negatives"
    assert rows["LL", "mean"].note == "no label has enough"
    assert rows["PA", "mean"].score == pytest.approx(np.mean([rows["PA", label].score for label in LABELS]))
    assert not found.gaps
    # one class is no hindrance for the Brier score
    found = metrics.subgroups(targets, scores > 1, {"view": view}, LABELS, metric="brier", minimum=12, n_bootstrap=5)
    assert not any(row.note for row in found.rows)


def test_unknown_groups_are_left_out_with_a_word() -> None:
    targets, scores, groups = case()
    sex = [None, NAN, "", *groups["sex"][3:]]
    with pytest.warns(UserWarning, match="sex of 3 images is unknown") as caught:
        found = metrics.subgroups(targets, scores, {"sex": sex}, LABELS, n_bootstrap=5)
    assert caught[0].filename == __file__
    assert sum(row.images for row in found.rows if row.label == "mean") == 297
    age = ["45", "-1", "NaN", *["70"] * 297]
    with pytest.warns(UserWarning, match="age of 2 images is unknown"):
        found = metrics.subgroups(targets, scores, {"age": age}, LABELS, n_bootstrap=5)
    assert [row.group for row in found.rows if row.label == "mean"] == ["40-64", "65+"]


def test_groups_that_are_alike_are_two() -> None:
    targets, scores, _ = case()
    twice = {"copy": ["a"] * 300 + ["b"] * 300}
    found = metrics.subgroups(np.tile(targets, (2, 1)), np.tile(scores, (2, 1)), twice, LABELS, n_bootstrap=9)
    assert {(*sorted((gap.largest, gap.smallest)), gap.gap) for gap in found.gaps} == {("a", "b", 0)}


def test_bands() -> None:
    targets, scores, groups = case()
    found = metrics.subgroups(
        targets, scores, {"age": groups["age"], "dose": groups["age"] / 90},
        LABELS, bands={"age": [0, 50], "dose": [0, 0.25, 0.5]}, n_bootstrap=5,
    )  # fmt: skip
    names = [(row.attribute, row.group) for row in found.rows if row.label == "mean"]
    assert names == [("age", "0-49"), ("age", "50+"), ("dose", "0 to 0.25"), ("dose", "0.25 to 0.5"), ("dose", "0.5+")]
    young = next(row.images for row in found.rows if row.label == "mean")
    assert young == (groups["age"] < 50).sum()


def test_errors() -> None:
    targets, scores, groups = case()
    for change, options, message in (
        ({"sex": ["M"]}, {}, r"groups\['sex'\] has 1 values, targets have 300 rows"),
        ({"dose": np.arange(300)}, {}, r"groups\['dose'\] has 300 groups, at most 50; numbers need bands"),
        ({"age": ["057Y"] * 300}, {}, r"groups\['age'\] must be numbers, as it has bands"),
        ({"age": groups["age"]}, {"bands": {"age": [18, 0]}}, r"bands\['age'\]=\[18, 0\].*ascending"),
        ({"sex": groups["sex"]}, {"metric": "f1"}, "metric='f1'"),
        ({"sex": groups["sex"]}, {"patient_ids": ["a"]}, "patient_ids has 1"),
        ({}, {}, "groups is empty"),
        ({"sex": [None] * 300}, {}, r"groups\['sex'\] has no known value"),
    ):
        with pytest.raises(ValueError, match=message):
            metrics.subgroups(targets, scores, change, LABELS, **options)
    with pytest.raises(ValueError, match="labels has 1 names"):
        metrics.subgroups(targets, scores, groups, ["a"])


def test_the_table(tmp_path: Path) -> None:
    targets, scores, groups = case()
    found = metrics.subgroups(targets, scores, groups, LABELS, n_bootstrap=20)
    lines = str(found).splitlines()
    assert len(lines) == 1 + 3 * (2 + 1) + 3 * (4 + 1)
    assert "gap" in lines[3]
    assert lines[3].endswith("M minus F")
    table = list(csv.DictReader(io.StringIO(found.to_csv())))
    assert float(table[2]["score"]) == found.gaps[0].gap
    assert table[2]["group"] == "gap"
    found.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["subgroups.csv", "subgroups.md", "subgroups.txt"]
