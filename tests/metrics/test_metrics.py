"""Scores against scikit-learn, unknown labels, intervals, tables."""

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
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from thoraxlib import metrics
from thoraxlib.metrics.weighted import WEIGHTED

NAN = float("nan")
METRICS = {"auroc": roc_auc_score, "average_precision": average_precision_score}


def random_case(seed: int, n: int = 60, k: int = 3, ties: bool = False) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    targets = (rng.random((n, k)) < 0.4).astype(float)
    targets[0], targets[1] = 0, 1
    scores = rng.normal(size=(n, k)) + targets
    return targets, np.round(scores) if ties else scores


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), ties=st.booleans(), name=st.sampled_from(sorted(METRICS)))
def test_scores_are_scikit_learns_on_known_targets(seed: int, ties: bool, name: str) -> None:
    targets, scores = random_case(seed, ties=ties)
    unknown = np.random.default_rng(seed).random(targets.shape) < 0.3
    unknown[:2] = False
    expected = [METRICS[name](targets[~u, k], scores[~u, k]) for k, u in enumerate(unknown.T)]
    found = getattr(metrics, name)(torch.from_numpy(np.where(unknown, NAN, targets)), torch.from_numpy(scores))
    assert found == pytest.approx(expected)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), ties=st.booleans(), name=st.sampled_from(sorted(METRICS)))
def test_weighted_scores_are_scikit_learns(seed: int, ties: bool, name: str) -> None:
    targets, scores = random_case(seed, k=1, ties=ties)
    weights = np.random.default_rng(seed).integers(0, 4, size=(3, len(targets))).astype(float)
    weights[:, :2] = 1
    expected = [METRICS[name](targets[:, 0], scores[:, 0], sample_weight=row) for row in weights]
    assert WEIGHTED[name](targets[:, 0], scores[:, 0], weights) == pytest.approx(expected)


def test_the_difference_of_two_scores_is_of_the_same_resamples() -> None:
    targets, scores = random_case(1, n=200)
    worse = scores + np.random.default_rng(2).normal(size=scores.shape)
    patients = [str(k // 2) for k in range(200)]
    options = {"n_bootstrap": 300, "seed": 3, "patient_ids": patients}
    found = metrics.bootstrap_difference(targets, scores, worse, **options)
    # by hand, resample by resample
    rng, drawn = np.random.default_rng(3), []
    groups = np.array([int(patient) for patient in np.unique(patients)])
    for row in rng.multinomial(100, np.full(100, 0.01), size=300):
        weight = np.zeros(200)
        for group, count in zip(groups, row, strict=True):
            weight[2 * group : 2 * group + 2] = count
        a, b = (
            [roc_auc_score(targets[:, k], s[:, k], sample_weight=weight) for k in range(3)] for s in (scores, worse)
        )
        drawn.append(np.subtract(a, b))
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    np.testing.assert_allclose([found.low, found.high], [low, high], atol=1e-9)
    means = np.quantile(np.mean(drawn, axis=1), [0.025, 0.975])
    np.testing.assert_allclose([found.macro_low, found.macro_high], means, atol=1e-9)
    assert found.macro_low > 0
    same = metrics.bootstrap_difference(targets, scores, scores, n_bootstrap=20)
    assert (same.macro_low, same.macro_high) == (0, 0)


def test_monotone_scores_rank_alike() -> None:
    targets, scores = random_case(0)
    assert metrics.auroc(targets, scores) == pytest.approx(metrics.auroc(targets, 1 / (1 + np.exp(-scores))))
    assert metrics.auroc(targets, scores) == pytest.approx(1 - metrics.auroc(targets, -scores))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_tensors_of_any_precision_and_with_gradients(dtype: torch.dtype) -> None:
    targets, scores = random_case(2)
    tensor = torch.from_numpy(scores).to(dtype).requires_grad_()
    expected = [roc_auc_score(y, s) for y, s in zip(targets.T, tensor.detach().double().numpy().T, strict=True)]
    assert metrics.auroc(torch.from_numpy(targets), tensor) == pytest.approx(expected)


def test_a_label_without_both_classes_is_nan_and_named() -> None:
    targets = np.array([[1, 0, NAN], [0, 0, NAN], [1, 0, NAN]])
    with pytest.warns(UserWarning, match="Effusion, Hernia"):
        found = metrics.auroc(targets, np.zeros((3, 3)), ["Mass", "Effusion", "Hernia"])
    assert np.isnan(found).tolist() == [False, True, True]


def test_intervals_cover_and_narrow() -> None:
    inside, widths = 0, []
    for seed in range(40):
        targets, scores = random_case(seed, n=120, k=1)
        interval = metrics.bootstrap(targets, scores, n_bootstrap=200, level=0.9)
        truth = 0.7602  # P(N(1, 1) > N(0, 1)) = Phi(1 / sqrt 2)
        inside += bool(interval.low[0] <= truth <= interval.high[0])
        widths.append(interval.high[0] - interval.low[0])
    assert 30 <= inside <= 40
    targets, scores = random_case(0, n=2000, k=1)
    wide = metrics.bootstrap(targets, scores, n_bootstrap=200, level=0.9)
    assert wide.high[0] - wide.low[0] < np.mean(widths) / 2


def test_patients_are_resampled_whole() -> None:
    targets, scores = random_case(3, n=80, k=2)
    copies = 9
    many = (np.repeat(targets, copies, axis=0), np.repeat(scores, copies, axis=0))
    patients = np.repeat(np.arange(80), copies).astype(str)
    once = metrics.bootstrap(targets, scores, n_bootstrap=400)
    by_patient = metrics.bootstrap(*many, n_bootstrap=400, patient_ids=list(patients))
    by_image = metrics.bootstrap(*many, n_bootstrap=400)
    assert (by_patient.high - by_patient.low) == pytest.approx(once.high - once.low, rel=0.25)
    assert ((by_image.high - by_image.low) < 0.5 * (once.high - once.low)).all()
    again = metrics.bootstrap(*many, n_bootstrap=400, patient_ids=list(patients))
    assert again.low.tolist() == by_patient.low.tolist()


def test_report(tmp_path: Path) -> None:
    targets, scores = random_case(1, n=200)
    targets[:, 2] = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = metrics.evaluate(targets, scores, ["a", "b", "c"], n_bootstrap=50, reference={"a": 0.8, "b": 0.7})
    assert report.macro_auroc == pytest.approx(metrics.auroc(targets[:, :2], scores[:, :2]).mean())
    precision = metrics.average_precision(targets[:, :2], scores[:, :2]).mean()
    assert report.macro_average_precision == pytest.approx(precision)
    assert report.mean.reference == pytest.approx(0.75)
    for row in report.rows[:2]:
        assert row.auroc_low < row.auroc < row.auroc_high
        assert row.average_precision_low < row.average_precision < row.average_precision_high
    assert report.rows[0].positives == targets[:, 0].sum()
    lines = str(report).splitlines()
    assert len({len(line) for line in lines if not line.startswith("c ")}) == 1  # c has no published number
    assert "published" in lines[0]
    assert report.to_markdown().count("\n") == 6
    table = list(csv.DictReader(io.StringIO(report.to_csv())))
    assert float(table[1]["auroc"]) == report.rows[1].auroc
    assert table[2]["auroc"] == ""
    assert report.to_csv(tmp_path / "table.csv") == (tmp_path / "table.csv").read_text(encoding="utf-8")
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]
    report.save(tmp_path / "new")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["metrics.csv", "metrics.md", "metrics.txt"]
    assert "published" not in str(metrics.evaluate(targets[:, :2], scores[:, :2], ["a", "b"], n_bootstrap=5))


@pytest.mark.parametrize("criterion", ["f1", "youden"])
def test_best_thresholds(criterion: str) -> None:
    targets, scores = random_case(5)
    best = metrics.best_thresholds(targets, scores, criterion)
    counts = metrics.confusion(targets, scores, best)
    for k in range(3):
        tried = [metrics.confusion(targets[:, [k]], scores[:, [k]], t) for t in np.unique(scores[:, k])]
        if criterion == "f1":
            assert counts["f1"][k] == pytest.approx(max(c["f1"][0] for c in tried))
            assert counts["f1"][k] == pytest.approx(f1_score(targets[:, k], scores[:, k] >= best[k]))
        else:
            value = counts["sensitivity"][k] + counts["specificity"][k]
            assert value == pytest.approx(max(c["sensitivity"][0] + c["specificity"][0] for c in tried))
    targets[:, 1] = 1
    assert np.isnan(metrics.best_thresholds(targets, scores, criterion)).tolist() == [False, True, False]


def test_errors() -> None:
    y, s = np.eye(2), np.eye(2)
    with pytest.raises(ValueError, match=r"\(2, 2\).*\(2, 1\)"):
        metrics.auroc(y, s[:, :1])
    with pytest.raises(ValueError, match="0, 1 or NaN; 2 are not, the first is 2"):
        metrics.auroc(y * 2, s)
    with pytest.raises(ValueError, match="1 NaN"):
        metrics.auroc(y, np.where(np.arange(4).reshape(2, 2) == 0, NAN, s))
    for score in (metrics.auroc, metrics.bootstrap, metrics.best_thresholds):
        with pytest.raises(ValueError, match="0 NaN and 2 infinite"):
            score(y, np.where(s == 1, np.inf, s))
    for score in (metrics.auroc, metrics.average_precision, metrics.evaluate):
        with pytest.raises(ValueError, match="3 names.*2 columns"):
            score(y, s, ["a", "b", "c"])
    with pytest.raises(ValueError, match="metric='f1'"):
        metrics.bootstrap(y, s, metric="f1")
    with pytest.raises(ValueError, match="level=1"):
        metrics.bootstrap(y, s, level=1.0)
    with pytest.raises(ValueError, match="patient_ids has 1"):
        metrics.bootstrap(y, s, patient_ids=["a"])
    with pytest.raises(ValueError, match="criterion='auc'"):
        metrics.best_thresholds(y, s, "auc")


def test_aggregate() -> None:
    values = [[0.1, 0.9], [0.5, np.nan], [0.3, 0.4], [np.nan, np.nan]]
    joined, groups = metrics.aggregate(values, ["b", "a", "b", "c"], ["min", "mean"])
    assert groups == ["b", "a", "c"]
    np.testing.assert_allclose(joined, [[0.1, 0.65], [0.5, np.nan], [np.nan, np.nan]])
    np.testing.assert_allclose(
        metrics.aggregate(values, ["b", "a", "b", "c"], "max")[0][:2], [[0.3, 0.9], [0.5, np.nan]]
    )
    with pytest.raises(ValueError, match="how='median': one of 'mean', 'max', 'min', or 2"):
        metrics.aggregate(values, list("abcd"), "median")
    with pytest.raises(ValueError, match=r"\(N, K\) for 3 groups, got shape \(4, 2\)"):
        metrics.aggregate(values, list("abc"))


def test_equal_sensitivity_and_specificity() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random(500) < 0.3
    scores = (truth + rng.normal(0, 1, 500))[:, None]
    threshold = metrics.best_thresholds(truth[:, None], scores, "equal")
    found = metrics.confusion(truth[:, None], scores, threshold)
    assert abs(found["sensitivity"] - found["specificity"]) < 0.02
    np.testing.assert_allclose(found["accuracy"], ((scores >= threshold)[:, 0] == truth).mean())


@pytest.mark.parametrize("score", [0.01, 0.5, 1 / 3])
def test_a_score_counts_from_the_threshold_on_everywhere(score: float) -> None:
    truth, scores = np.array([[0], [0], [0], [1.0]]), np.array([[score / 4], [score / 3], [score / 2], [score]])
    best = metrics.best_thresholds(truth, scores)
    assert best.tolist() == [score]
    for threshold in (best, score):
        assert metrics.confusion(truth, scores, threshold)["sensitivity"].tolist() == [1]


def test_a_label_without_a_threshold_has_no_scores() -> None:
    truth, scores = (
        np.array([[0, 1], [1, 1], [0, 0], [1, 0.0]]),
        np.array([[0.1, 0.9], [0.9, 0.8], [0.2, 0.1], [0.8, 0]]),
    )
    limits = metrics.best_thresholds(np.array([[0, 0], [1, 0], [0, 0], [1, 0.0]]), scores)
    assert np.isnan(limits).tolist() == [False, True]
    for values in metrics.confusion(truth, scores, limits).values():
        assert values[0] == 1
        assert np.isnan(values[1])
    for one in (NAN, [NAN]):
        with pytest.raises(ValueError, match="thresholds is NaN"):
            metrics.confusion(truth, scores, one)


def sure(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Targets, and probabilities of logits beyond 17 that are in perfect order."""
    logits = torch.tensor([[18.0], [19.0], [20.0], [21.0], [-3.0]])
    return torch.tensor([[0.0], [0.0], [1.0], [1.0], [0.0]]), logits.to(dtype).sigmoid()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_types_that_lose_the_order_give_a_warning(dtype: torch.dtype) -> None:
    targets, scores = sure(dtype)
    for score in (
        lambda t, s: metrics.auroc(t, s),
        lambda t, s: metrics.average_precision(t, s),
        lambda t, s: metrics.evaluate(t, s, ["Mass"], n_bootstrap=2),
        lambda t, s: metrics.roc_curves(t, s, ["Mass"]),
    ):
        with pytest.warns(UserWarning, match="their order is lost"):
            score(targets, scores)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            score(*sure(torch.float64))
            score(targets, (scores > 0.5).float())  # decisions have no more order than these
    assert metrics.auroc(*sure(torch.float64)).tolist() == [1]


@pytest.mark.parametrize("value", [float("inf"), -float("inf")])
def test_infinite_values_of_images_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="1 infinite"):
        metrics.aggregate([[0.5], [value]], ["a", "a"])
