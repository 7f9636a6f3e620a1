"""Paired tests against slow formulas, and the table of several models."""

from __future__ import annotations

import csv
import io
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from thoraxlib import metrics

NAN = float("nan")
LABELS = ["Mass", "Edema"]


def case(n: int = 90, seed: int = 0, ties: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    targets = (rng.random((n, 2)) < 0.4).astype(float)
    targets[:4] = [[0, 0], [1, 1], [0, 0], [1, 1]]
    both = rng.normal(size=(n, 2)) + targets
    scores, others = (both + rng.normal(size=(n, 2)) * scale for scale in (0.3, 1.0))
    targets[4:][rng.random((n - 4, 2)) < 0.2] = NAN
    return (targets, np.round(scores), np.round(others)) if ties else (targets, scores, others)


def kernel(positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """1, 1/2 or 0 for each pair (m, n) of a positive and a negative."""
    return (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), ties=st.booleans())
def test_delong_is_the_covariance_of_the_components(seed: int, ties: bool) -> None:
    targets, scores, others = case(60, seed, ties)
    found = metrics.delong(torch.from_numpy(targets), scores, others)
    for k in range(2):
        sides = [kernel(s[targets[:, k] == 1, k], s[targets[:, k] == 0, k]) for s in (scores, others)]
        m, n = sides[0].shape
        covariance = np.cov([side.mean(axis=1) for side in sides]) / m + np.cov([s.mean(axis=0) for s in sides]) / n
        np.testing.assert_allclose(found.covariance[k], covariance, atol=1e-12)
        np.testing.assert_allclose(found.auroc[k], [side.mean() for side in sides])
        error = np.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
        z = (sides[0].mean() - sides[1].mean()) / error
        assert found.z[k] == pytest.approx(z)
        assert found.p_value[k] == pytest.approx(2 * (1 - norm.cdf(abs(z))), abs=1e-12)
    np.testing.assert_allclose(found.auroc[:, 0], metrics.auroc(targets, scores))


def test_delong_by_hand() -> None:
    # pairs of (3, 1) with (2, 0): 1 1 / 0 1. Components of positives 1, 1/2; of negatives 1/2, 1. Variances 1/8 each,
    # so 1/16 + 1/16. The other model is perfect: no variance.
    found = metrics.delong([[1], [1], [0], [0]], [[3], [1], [2], [0]], [[3], [2], [1], [0]])
    assert found.auroc.tolist() == [[0.75, 1]]
    np.testing.assert_allclose(found.covariance[0], [[1 / 8, 0], [0, 0]], atol=1e-15)
    assert found.z[0] == pytest.approx(-0.25 / np.sqrt(1 / 8))
    assert found.p_value[0] == pytest.approx(0.4795, abs=1e-4)


def test_delong_by_patient_is_obuchowskis_formula() -> None:
    targets, scores, others = case(80)
    patients = np.random.default_rng(5).integers(0, 30, 80)
    found = metrics.delong(targets, scores, others, patient_ids=[str(p) for p in patients])
    for k in range(2):
        positive, negative = (np.flatnonzero(targets[:, k] == side) for side in (1, 0))
        m, n, both = len(positive), len(negative), np.union1d(positive, negative)
        ten, one, all_patients = (np.unique(patients[rows]) for rows in (positive, negative, both))
        s10, s01, s11 = np.zeros((3, 2, 2))
        for patient in all_patients:
            a, b = np.zeros((2, 2))
            for side, s in enumerate((scores[:, k], others[:, k])):
                area = kernel(s[positive], s[negative]).mean()
                a[side] = sum(kernel(s[[i]], s[negative]).mean() - area for i in positive if patients[i] == patient)
                b[side] = sum(kernel(s[positive], s[[j]]).mean() - area for j in negative if patients[j] == patient)
            s10 += np.outer(a, a) * len(ten) / ((len(ten) - 1) * m)
            s01 += np.outer(b, b) * len(one) / ((len(one) - 1) * n)
            s11 += np.outer(a, b) * len(all_patients) / (len(all_patients) - 1)
        np.testing.assert_allclose(found.covariance[k], s10 / m + s01 / n + (s11 + s11.T) / (m * n), atol=1e-12)
    alone = metrics.delong(targets, scores, others, patient_ids=[str(k) for k in range(80)])
    np.testing.assert_allclose(alone.covariance, metrics.delong(targets, scores, others).covariance)


def test_copies_of_images_say_nothing_more() -> None:
    targets, scores, others = case(150)
    patients = np.tile(np.arange(150), 5).astype(str)
    copies = [np.tile(part, (5, 1)) for part in (targets, scores, others)]
    once = metrics.delong(targets, scores, others)
    by_patient = metrics.delong(*copies, patient_ids=list(patients))
    np.testing.assert_allclose(by_patient.standard_error, once.standard_error, rtol=1e-9)
    assert (metrics.delong(*copies).standard_error < 0.5 * once.standard_error).all()


def test_both_tests_agree() -> None:
    targets, scores, others = case(600, seed=3)
    patients = [str(k // 2) for k in range(600)]
    found = metrics.delong(targets, scores, others, patient_ids=patients)
    drawn = metrics.bootstrap_difference(targets, scores, others, n_bootstrap=4000, patient_ids=patients)
    np.testing.assert_allclose((drawn.high - drawn.low) / 2 / 1.96, found.standard_error, rtol=0.1)
    noisy = scores + 0.22 * np.random.default_rng(0).normal(size=scores.shape)
    p_values = [
        metrics.delong(targets, scores, noisy, patient_ids=patients).p_value,
        metrics.bootstrap_difference(targets, scores, noisy, n_bootstrap=4000, patient_ids=patients).p_value,
    ]
    assert (np.array(p_values) > 0.001).all()
    np.testing.assert_allclose(*p_values, atol=0.06)


def test_p_values_of_the_bootstrap_count_resamples() -> None:
    targets, scores, others = case(60, seed=2)
    options = {"n_bootstrap": 99, "seed": 1}
    found = metrics.bootstrap_difference(targets, scores, others, **options)
    drawn = []
    for row in np.random.default_rng(1).multinomial(60, np.full(60, 1 / 60), size=99):
        again = np.repeat(np.arange(60), row)
        drawn.append(metrics.auroc(targets[again], scores[again]) - metrics.auroc(targets[again], others[again]))
    for values, p in zip(
        [*np.array(drawn).T, np.mean(drawn, axis=1)], [*found.p_value, found.macro_p_value], strict=True
    ):
        smaller = min((values <= 1e-12).sum(), (values >= -1e-12).sum())
        assert p == pytest.approx(min(1, 2 * (smaller + 1) / 100))
    same = metrics.bootstrap_difference(targets, scores, scores, **options)
    assert (same.p_value.tolist(), same.macro_p_value) == ([1, 1], 1)
    better = metrics.bootstrap_difference(targets, np.nan_to_num(targets), others, **options)
    assert better.p_value.tolist() == [0.02, 0.02]


def test_degenerate_areas() -> None:
    targets, scores, _ = case()
    same = metrics.delong(targets, scores, scores)
    assert (same.z.tolist(), same.p_value.tolist()) == ([0, 0], [1, 1])
    truth = np.nan_to_num(targets)
    perfect = metrics.delong(targets, truth, -truth)  # AUROC 1 and 0, both without variance
    assert perfect.difference.tolist() == [1, 1]
    assert np.isnan(perfect.p_value).all()
    targets[:, 0] = 0
    one_class = metrics.delong(targets, scores, scores + 1)
    assert np.isnan(one_class.auroc[0]).all()
    assert np.isnan(one_class.p_value[0])
    lonely = metrics.delong([[1], [0], [0]], [[2.0], [1], [3]], [[1.0], [2], [3]])
    assert lonely.auroc.tolist() == [[0.5, 0]]
    assert np.isnan(lonely.p_value[0])


def test_holm() -> None:
    p = np.array([0.04, 0.001, 0.03, 0.9])
    found = metrics.holm(p)
    np.testing.assert_allclose(found, [0.09, 0.004, 0.09, 0.9])
    assert metrics.holm([0.6, 0.7]).tolist() == [1, 1]
    assert np.isnan(metrics.holm([NAN])).all()


def test_compare(tmp_path: Path) -> None:
    targets, scores, others = case(120)
    patients = [str(k // 2) for k in range(120)]
    options = {"n_bootstrap": 100, "patient_ids": patients}
    models = {"new": scores, "old": others, "copy": scores}
    found = metrics.compare(targets, models, LABELS, **options)
    assert [(row.label, row.model) for row in found.rows] == [
        (label, model) for label in (*LABELS, "mean") for model in models
    ]
    areas, ends = metrics.auroc(targets, others), metrics.bootstrap(targets, others, **options)
    change = metrics.bootstrap_difference(targets, others, scores, **options)
    exact = metrics.delong(targets, others, scores, patient_ids=patients)
    for k, row in enumerate(found.rows[1:6:3]):
        assert row.score == pytest.approx(areas[k])
        assert (row.low, row.high) == (ends.low[k], ends.high[k])
        assert row.difference == pytest.approx(areas[k] - metrics.auroc(targets, scores)[k])
        assert (row.difference_low, row.difference_high, row.p_bootstrap) == (
            change.low[k],
            change.high[k],
            change.p_value[k],
        )
        assert row.p_delong == exact.p_value[k]
    mean = found.rows[7]
    assert (mean.low, mean.high) == (ends.macro_low, ends.macro_high)
    assert (mean.difference_low, mean.p_bootstrap) == (change.macro_low, change.macro_p_value)
    assert mean.score == pytest.approx(areas.mean())
    assert (found.rows[2].difference, found.rows[2].p_bootstrap, found.rows[2].p_delong) == (0, 1, 1)
    assert np.isnan(found.rows[0].difference)
    corrected = metrics.compare(targets, models, LABELS, correction="holm", **options)
    assert "Holm" in str(corrected).splitlines()[0]
    pair = [row.p_delong for row in corrected.rows if row.model == "old"][:2]
    np.testing.assert_allclose(pair, metrics.holm(exact.p_value))
    assert corrected.rows[7].p_bootstrap == mean.p_bootstrap
    table = list(csv.DictReader(io.StringIO(found.to_csv())))
    assert float(table[1]["difference"]) == found.rows[1].difference
    assert table[0]["difference"] == ""
    found.save(tmp_path)
    assert (tmp_path / "comparison.md").read_text(encoding="utf-8").count("\n") == 11
    brier = metrics.compare(targets, {"a": scores > 0, "b": others > 0}, LABELS, metric="brier", n_bootstrap=20)
    assert "DeLong" not in str(brier)
    assert brier.rows[1].score == pytest.approx(metrics.brier_score(targets, others > 0)[0])


def test_compare_names_what_is_wrong() -> None:
    targets, scores, others = case()
    with pytest.raises(ValueError, match=r"models=\['a'\]: at least two"):
        metrics.compare(targets, {"a": scores}, LABELS)
    with pytest.raises(ValueError, match="model 'b': targets and scores must both be"):
        metrics.compare(targets, {"a": scores, "b": others[:, :1]}, LABELS)
    with pytest.raises(ValueError, match="model 'a': probabilities must be from 0 to 1"):
        metrics.compare(targets, {"a": scores, "b": others}, LABELS, metric="ece")
    with pytest.raises(ValueError, match="correction='bonferroni'"):
        metrics.compare(targets, {"a": scores, "b": others}, LABELS, correction="bonferroni")
    with pytest.raises(ValueError, match="patient_ids has 1 entries"):
        metrics.delong(targets, scores, others, patient_ids=["a"])
    with pytest.raises(ValueError, match="labels has 1 names"):
        metrics.compare(targets, {"a": scores > 0, "b": others > 0}, ["a"], metric="brier")
    with pytest.warns(UserWarning, match="half precision"):  # of the second model
        metrics.compare(targets, {"a": scores, "b": others.astype(np.float16)}, LABELS, n_bootstrap=2)
    targets[:, 1] = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metrics.compare(targets, {"a": scores > 0, "b": others > 0}, LABELS, metric="brier", n_bootstrap=2)
    with pytest.warns(UserWarning, match="without both classes: Edema"):
        found = metrics.compare(targets, {"a": scores, "b": others}, LABELS, n_bootstrap=10)
    assert np.isnan(found.rows[2].score)
    assert found.rows[4].score == found.rows[0].score
