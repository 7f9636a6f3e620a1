"""Calibration and reliability against independent formulas and scikit-learn."""

from __future__ import annotations

import csv
import io
import json
import warnings
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, log_loss

from thoraxlib import metrics

NAN = float("nan")
LABELS = ["Mass", "Edema", "Hernia"]


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def case(n: int = 400, unknown: float = 0.2, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Targets, their calibrated logits, and logits that are too sure and shifted."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(-1, 1.5, size=(n, 3))
    targets = (rng.random((n, 3)) < sigmoid(logits)).astype(float)
    targets[rng.random((n, 3)) < unknown] = NAN
    return targets, logits, np.array([2.0, 4.0, 0.5]) * logits + [0, 1, -1]


# -- fits ---------------------------------------------------------------------------------------------


def test_the_temperature_is_the_root_of_the_slope() -> None:
    targets, _, logits = case()
    found = metrics.fit_calibration(targets, logits, LABELS)
    for k in range(3):
        known = ~np.isnan(targets[:, k])
        y, x = targets[known, k], logits[known, k]
        slope = lambda scale, y=y, x=x: np.mean((sigmoid(scale * x) - y) * x)  # noqa: E731
        assert found.scale[k] == pytest.approx(brentq(slope, 0.01, 10), rel=1e-5)
    assert found.shift.tolist() == [0, 0, 0]


def test_platt_is_logistic_regression_with_his_targets() -> None:
    targets, _, logits = case()
    found = metrics.fit_calibration(targets, logits, LABELS, method="platt")
    for k in range(3):
        known = ~np.isnan(targets[:, k])
        y, x = targets[known, k], logits[known, k]
        hits, misses = y.sum(), (1 - y).sum()
        goal = np.where(y == 1, (hits + 1) / (hits + 2), 1 / (misses + 2))
        # every image once as a positive and once as a negative, weighted by its target
        peer = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(
            np.tile(x, 2)[:, None], np.repeat([1, 0], len(x)), sample_weight=np.concatenate([goal, 1 - goal])
        )
        assert found.scale[k] == pytest.approx(peer.coef_[0, 0], rel=1e-4)
        assert found.shift[k] == pytest.approx(peer.intercept_[0], abs=1e-4)


def test_a_fit_finds_the_scale_that_was_applied() -> None:
    targets, true, logits = case(n=60_000, unknown=0.3)
    found = metrics.fit_calibration(torch.from_numpy(targets), torch.from_numpy(logits), LABELS, method="platt")
    np.testing.assert_allclose(found.scale, [0.5, 0.25, 2], rtol=0.03)
    np.testing.assert_allclose(found.apply(logits), true, atol=0.2)
    before, after = (metrics.expected_calibration_error(targets, sigmoid(x)) for x in (logits, found.apply(logits)))
    assert (after < 0.01).all()
    assert (before > 0.05).all()
    np.testing.assert_allclose(metrics.auroc(targets, found.apply(logits)), metrics.auroc(targets, logits))


@pytest.mark.parametrize("method", ["temperature", "platt"])
@pytest.mark.parametrize("unit", [1e-3, 1.0, 1e3])
def test_no_neighbour_is_better(method: str, unit: float) -> None:
    targets, logits, _ = case()
    targets, logits = targets[:, :1], 2 * logits[:, :1] + 1
    known = ~np.isnan(targets[:, 0])
    found = metrics.fit_calibration(targets, logits, ["Mass"], method=method)
    y, x = targets[known, 0], logits[known, 0]
    hits, misses = y.sum(), (1 - y).sum()
    goal = np.where(y == 1, (hits + 1) / (hits + 2), 1 / (misses + 2)) if method == "platt" else y

    def loss(scale: float, shift: float) -> float:
        z = scale * x + shift
        return float(np.mean(np.logaddexp(0, z) - goal * z))

    scale, shift = found.scale[0], found.shift[0]
    step = 1e-3 * unit
    moves = [(step, 0), (-step, 0)] + [(0, step), (0, -step)] * (method == "platt")
    for a, b in moves:
        assert loss(scale, shift) <= loss(scale + min(a, 10), shift + b) + 1e-12


def test_one_scale_for_all_labels() -> None:
    targets, _, logits = case()
    for method in ("temperature", "platt"):
        found = metrics.fit_calibration(targets, logits, LABELS, method=method, per_label=False)
        flat = metrics.fit_calibration(targets.reshape(-1, 1), logits.reshape(-1, 1), ["any"], method=method)
        assert found.scale.tolist() == [flat.scale[0]] * 3
        assert found.shift.tolist() == [flat.shift[0]] * 3
    with pytest.warns(UserWarning, match=r"all labels \(no positives\)"):
        found = metrics.fit_calibration(np.zeros((3, 3)), np.eye(3), LABELS, per_label=False)
    assert found.scale.tolist() == [1, 1, 1]


def test_labels_that_cannot_be_fitted_are_named() -> None:
    targets, _, logits = case()
    targets[:, 0], targets[:, 1] = 0, np.where(np.isnan(targets[:, 1]), NAN, 1)
    with pytest.warns(UserWarning, match=r"shift 0: Mass \(no positives\), Edema \(no negatives\)") as caught:
        found = metrics.fit_calibration(targets, logits, LABELS)
    assert caught[0].filename == __file__
    assert found.scale[:2].tolist() == [1, 1]
    assert found.scale[2] != 1
    unknown = np.full((4, 1), NAN)
    with pytest.warns(UserWarning, match="no positives"):
        assert metrics.fit_calibration(unknown, np.zeros((4, 1)), ["Mass"]).scale.tolist() == [1]
    targets, logits, _ = case()
    for method in ("temperature", "platt"):
        with pytest.warns(UserWarning, match="Mass .its logits do not rise"):
            found = metrics.fit_calibration(targets, logits * [-1, 1, 1], LABELS, method=method)
        assert (found.scale[0], found.shift[0]) == (1, 0)
    sure = np.array([[-1.0], [-2], [1], [3]]), np.array([[0.0], [0], [1], [1]])
    with pytest.warns(UserWarning, match="separate"):
        assert metrics.fit_calibration(sure[1], sure[0], ["Mass"]).scale.tolist() == [1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = metrics.fit_calibration(sure[1], sure[0], ["Mass"], method="platt")
    assert 0.1 < found.scale[0] < 10


def test_a_calibration_is_applied_and_kept() -> None:
    calibration = metrics.Calibration(("a", "b"), "platt", [0.5, 2], [1, 0])  # type: ignore[arg-type]
    logits = torch.tensor([[[2.0, 1.0], [0.0, -1.0]]], requires_grad=True)
    found = calibration.apply(logits)
    assert found.tolist() == [[[2, 2], [1, -2]]]
    found.sum().backward()
    assert logits.grad is not None
    assert logits.grad[0, 0].tolist() == [0.5, 2]
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        assert calibration.apply(logits.detach().to(dtype)).dtype == dtype
    assert calibration.apply(logits.detach().numpy()).tolist() == found.tolist()
    again = metrics.Calibration.from_json(json.loads(json.dumps(calibration.to_json())))
    assert again.to_json() == calibration.to_json()
    with pytest.raises(ValueError, match="read-only"):
        calibration.scale[0] = 3
    with pytest.raises(ValueError, match=r"logits must be \(..., 2\), got \(3,\)"):
        calibration.apply(np.zeros(3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "beta"}, "method='beta': allowed are"),
        ({"scale": [1, 0]}, "scale must be positive"),
        ({"scale": [1]}, "scale must be 2 finite numbers"),
        ({"shift": [1, NAN]}, "shift must be 2 finite numbers"),
        ({"shift": {"a": 1}}, "must be numbers"),
        ({"labels": "ab"}, "must be a list of names"),
        ({"more": 1}, "a calibration has labels, method, scale, shift, got"),
    ],
)
def test_a_damaged_calibration_is_refused(change: dict, message: str) -> None:
    content = {"labels": ["a", "b"], "method": "platt", "scale": [1, 1], "shift": [0, 0]}
    with pytest.raises(ValueError, match=message):
        metrics.Calibration.from_json(content | change)


def test_errors() -> None:
    targets, _, logits = case()
    with pytest.raises(ValueError, match="labels has 1 names, targets have 3"):
        metrics.fit_calibration(targets, logits, ["a"])
    with pytest.raises(ValueError, match="targets must be 0, 1 or NaN"):
        metrics.fit_calibration(logits, np.nan_to_num(targets), LABELS)  # the wrong order
    with pytest.raises(ValueError, match="method='isotonic'"):
        metrics.fit_calibration(targets, logits, LABELS, method="isotonic")
    for score in (metrics.brier_score, metrics.expected_calibration_error, metrics.brier_parts):
        with pytest.raises(ValueError, match="probabilities must be from 0 to 1; .* logits"):
            score(targets, logits)
    with pytest.raises(ValueError, match="binning='quantile'"):
        metrics.expected_calibration_error(targets, sigmoid(logits), binning="quantile")
    with pytest.raises(ValueError, match="bins=0"):
        metrics.expected_calibration_error(targets, sigmoid(logits), bins=0)
    with pytest.raises(ValueError, match="probabilities must be"):
        metrics.bootstrap(targets, logits, metric="brier")


# -- scores -------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), digits=st.sampled_from([1, 2, 12]))
def test_scores_are_those_of_scikit_learn(seed: int, digits: int) -> None:
    targets, _, logits = case(n=80, seed=seed)
    probabilities = np.round(sigmoid(logits), digits)
    for k in range(3):
        known = ~np.isnan(targets[:, k])
        y, p = targets[known, k], probabilities[known, k]
        assert metrics.brier_score(targets, probabilities)[k] == pytest.approx(brier_score_loss(y, p))
        for binning, strategy in (("width", "uniform"), ("mass", "quantile")):
            options = {"bins": 8, "binning": binning}
            curve = metrics.reliability_curves(targets, probabilities, LABELS, **options)[LABELS[k]]
            frequency, mean = calibration_curve(y, p, n_bins=8, strategy=strategy)
            np.testing.assert_allclose(curve.frequency, frequency)
            np.testing.assert_allclose(curve.probability, mean)
            assert curve.images.sum() == known.sum()
            error = metrics.expected_calibration_error(targets, probabilities, **options)[k]
            assert error == pytest.approx(curve.error)


@pytest.mark.parametrize("binning", ["width", "mass"])
def test_error_and_parts_by_hand(binning: str) -> None:
    targets, _, logits = case(n=150)
    p = sigmoid(logits)
    errors = metrics.expected_calibration_error(targets, p, bins=5, binning=binning)
    parts = metrics.brier_parts(targets, p, bins=5, binning=binning)
    for k in range(3):
        known = np.flatnonzero(~np.isnan(targets[:, k]))
        edges = np.linspace(0, 1, 6) if binning == "width" else np.quantile(p[known, k], np.linspace(0, 1, 6))
        edges[0] = -1
        share, error, reliability, resolution, within = targets[known, k].mean(), 0.0, 0.0, 0.0, 0.0
        for low, high in pairwise(edges):
            inside = [i for i in known if low < p[i, k] <= high]
            if inside:
                q, y = p[inside, k], targets[inside, k]
                weight = len(inside) / len(known)
                error += weight * abs(q.mean() - y.mean())
                reliability += weight * (q.mean() - y.mean()) ** 2
                resolution += weight * (y.mean() - share) ** 2
                # Stephenson et al. (2008): variance within the bin minus twice the covariance
                within += weight * (q.var() - 2 * np.mean((q - q.mean()) * (y - y.mean())))
        expected = [reliability, resolution, share * (1 - share), within]
        np.testing.assert_allclose([part[k] for part in parts], expected, atol=1e-12)
        assert errors[k] == pytest.approx(error)
    total = parts.reliability - parts.resolution + parts.uncertainty + parts.within
    np.testing.assert_allclose(total, metrics.brier_score(targets, p))


def test_a_label_without_a_known_target() -> None:
    targets, _, logits = case(n=60)
    targets[:, 1], targets[:, 2] = NAN, 0
    p = sigmoid(logits)
    for score in (metrics.brier_score, metrics.expected_calibration_error):
        with pytest.warns(UserWarning, match="without a known target: Edema") as caught:
            found = score(targets, p, LABELS)
        assert caught[0].filename == __file__
        assert np.isnan(found).tolist() == [False, True, False]
    with pytest.warns(UserWarning, match="Edema"):
        assert list(metrics.reliability_curves(targets, p, LABELS)) == ["Mass", "Hernia"]
    with pytest.warns(UserWarning, match="Edema"):
        report = metrics.evaluate_calibration(targets, p, LABELS, n_bootstrap=20)
    assert np.isnan(report.rows[1].brier)
    assert report.mean.brier == pytest.approx(np.mean([report.rows[0].brier, report.rows[2].brier]))


def test_the_report() -> None:
    targets, true, logits = case(n=600)
    patients = [str(k // 2) for k in range(600)]
    p = sigmoid(logits)
    report = metrics.evaluate_calibration(targets, p, LABELS, n_bootstrap=200, patient_ids=patients)
    first = report.rows[0]
    known = ~np.isnan(targets[:, 0])
    assert first.brier == pytest.approx(brier_score_loss(targets[known, 0], p[known, 0]))
    assert first.brier_low < first.brier < first.brier_high
    assert (first.images, first.positives) == (known.sum(), np.nansum(targets[:, 0]))
    assert first.frequency == pytest.approx(np.nanmean(targets[:, 0]))
    assert first.mean_probability == pytest.approx(p[known, 0].mean())
    assert first.ece == pytest.approx(metrics.expected_calibration_error(targets, p)[0])
    assert first.ece_mass == pytest.approx(metrics.expected_calibration_error(targets, p, binning="mass")[0])
    assert first.resolution == pytest.approx(metrics.brier_parts(targets, p).resolution[0])
    assert report.mean.ece == pytest.approx(np.mean([row.ece for row in report.rows]))
    assert report.rows[1].ece > 3 * report.rows[1].ece_by_chance
    calibrated = metrics.evaluate_calibration(targets, sigmoid(true), LABELS, n_bootstrap=20)
    assert calibrated.mean.ece < 1.5 * calibrated.mean.ece_by_chance
    table = list(csv.DictReader(io.StringIO(report.to_csv())))
    assert float(table[0]["ece_low"]) == first.ece_low
    assert [row["label"] for row in table] == [*LABELS, "mean"]
    lines = str(report).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert report.to_markdown().count("\n") == 6


def test_intervals_of_errors_are_reflected() -> None:
    targets, _, logits = case(n=120, unknown=0)
    p = sigmoid(logits)
    found = metrics.bootstrap(targets, p, metric="ece", n_bootstrap=50, seed=4)
    drawn = []
    for row in np.random.default_rng(4).multinomial(120, np.full(120, 1 / 120), size=50):
        again = np.repeat(np.arange(120), row)
        drawn.append(metrics.expected_calibration_error(targets[again], p[again]))
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    value = metrics.expected_calibration_error(targets, p)
    np.testing.assert_allclose(found.low, np.maximum(0, 2 * value - high))
    np.testing.assert_allclose(found.high, np.maximum(0, 2 * value - low))
    ends = np.quantile(np.mean(drawn, axis=1), [0.025, 0.975])
    np.testing.assert_allclose([found.macro_high, found.macro_low], np.maximum(0, 2 * value.mean() - ends))


def test_the_error_by_chance_is_that_of_drawn_targets() -> None:
    rng = np.random.default_rng(0)
    p = sigmoid(rng.normal(-1, 1.5, size=(500, 1)))
    drawn = (rng.random((500, 400)) < p).astype(float)
    errors = metrics.expected_calibration_error(drawn, np.broadcast_to(p, drawn.shape))
    report = metrics.evaluate_calibration(drawn[:, :1], p, ["Mass"], n_bootstrap=2)
    assert report.mean.ece_by_chance == pytest.approx(errors.mean(), rel=0.05)


def test_temperature_lowers_the_log_loss() -> None:
    targets, _, logits = case(n=300, unknown=0)
    found = metrics.fit_calibration(targets, logits, LABELS)
    for k in range(3):
        before, after = (log_loss(targets[:, k], sigmoid(x)[:, k]) for x in (logits, found.apply(logits)))
        assert after < before
