"""Curves against scikit-learn and against first principles; readers beside them."""

from __future__ import annotations

import warnings
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from thoraxlib import metrics
from thoraxlib.reproduce import cxr_curves

NAN = float("nan")
LABELS = ["Mass", "Edema", "Hernia"]


def case(seed: int = 0, n: int = 80, ties: bool = False) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    targets = (rng.random((n, 3)) < 0.3).astype(float)
    targets[0], targets[1] = 0, 1
    scores = rng.normal(size=(n, 3)) + targets
    targets[2:][rng.random((n - 2, 3)) < 0.2] = NAN
    return targets, np.round(scores) if ties else scores


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), ties=st.booleans())
def test_areas_are_the_scores(seed: int, ties: bool) -> None:
    targets, scores = case(seed, ties=ties)
    roc = metrics.roc_curves(torch.from_numpy(targets), torch.from_numpy(scores), LABELS)
    precision_recall = metrics.precision_recall_curves(targets, scores, LABELS)
    assert list(roc) == list(precision_recall) == LABELS
    areas = metrics.auroc(targets, scores)
    np.testing.assert_allclose([curve.area for curve in roc.values()], areas)
    np.testing.assert_allclose(
        [curve.area for curve in precision_recall.values()], metrics.average_precision(targets, scores)
    )
    for curve in (*roc.values(), *precision_recall.values(), metrics.micro_roc(targets, scores)):
        assert (np.diff(curve.x) >= 0).all()
        assert (curve.x[0], curve.x[-1]) == (0, 1)
    known = ~np.isnan(targets)
    assert metrics.micro_roc(targets, scores).area == pytest.approx(roc_auc_score(targets[known], scores[known]))
    macro = metrics.macro_roc(targets, scores)
    assert macro.area == pytest.approx(areas.mean())
    assert (macro.x[0], macro.y[0], macro.x[-1], macro.y[-1]) == (0, 0, 1, 1)
    assert (np.diff(macro.x) >= 0).all()
    assert (np.diff(macro.y) >= -1e-12).all()
    original = cxr_curves.macro_roc(targets, scores)
    assert original.area >= macro.area - 1e-12
    assert (np.diff(original.x) > 0).all()


def test_points_are_those_of_every_threshold() -> None:
    targets, scores = case(3, n=30)
    known = ~np.isnan(targets[:, 0])
    y, s = targets[known, 0], scores[known, 0]
    curve = metrics.precision_recall_curves(targets, scores, LABELS)["Mass"]
    assert curve.area == pytest.approx(average_precision_score(y, s))
    for threshold in s:
        called = s >= threshold
        recall, precision = y[called].sum() / y.sum(), y[called].mean()
        assert precision <= curve.y[np.isclose(curve.x, recall)].max() + 1e-12
    false, true, _ = metrics.roc_curves(targets, scores, LABELS)["Mass"]
    for threshold in s:
        called = s >= threshold
        x, y_at = (1 - y)[called].sum() / (1 - y).sum(), y[called].sum() / y.sum()
        upper, lower = np.interp(x + 1e-12, false, true), np.interp(x - 1e-12, false, true)
        assert lower - 1e-9 <= y_at <= upper + 1e-9


def test_labels_without_both_classes() -> None:
    targets, scores = case()
    targets[:, 1] = 0
    for curves_of in (metrics.roc_curves, metrics.precision_recall_curves):
        with pytest.warns(UserWarning, match="without both classes: Edema") as caught:
            assert list(curves_of(targets, scores, LABELS)) == ["Mass", "Hernia"]
        assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match="without both classes: 1"):
        macro = metrics.macro_roc(targets, scores)
    assert macro.area == pytest.approx(metrics.auroc(targets[:, ::2], scores[:, ::2]).mean())
    with pytest.warns(UserWarning, match="Edema"):
        counts = metrics.radiologists_under_curve(targets, scores, LABELS, {"Edema": [(1, 0)]})
    assert np.isnan(counts).all()
    with pytest.raises(ValueError, match="both 0 and 1"):
        metrics.micro_roc(np.zeros((3, 2)), np.zeros((3, 2)))
    with pytest.warns(UserWarning, match="0, 1"), pytest.raises(ValueError, match="no label has both"):
        metrics.macro_roc(np.zeros((3, 2)), np.zeros((3, 2)))


def test_readers_under_a_curve() -> None:
    # false positive rates 0, 0, 0.5, 0.5, 1 and true ones 0, 0.5, 0.5, 1, 1
    targets, scores = [[0], [0], [1], [1]], [[0.1], [0.6], [0.5], [0.9]]

    def count(*pairs: tuple[float, float], by: ModuleType = metrics) -> float:
        return float(by.radiologists_under_curve(targets, scores, ["Pulmonary_Edema"], {"Edema": pairs})[0])

    assert count((1.0, 0.5), (0.75, 0.5), (0.5, 1.0), (0.0, 1.0)) == 4  # on the curve
    assert count((1.0, 0.51), (0.75, 0.51)) == 0
    assert count((0.5, 1.0), by=cxr_curves) == 0  # the step up to 1 comes after the point before
    assert count((0.49, 1.0), by=cxr_curves) == 1
    assert count((1.0, 1.0), by=cxr_curves) == 1  # no point before: the curve's end
    assert count((1.0, 1.0)) == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        others = metrics.radiologists_under_curve(targets, scores, ["Mass"])
    assert np.isnan(others).all()


def test_errors() -> None:
    targets, scores = case()
    with pytest.raises(ValueError, match="labels has 2 names"):
        metrics.roc_curves(targets, scores, LABELS[:2])
    for pairs in ([(1.2, 0.5)], [0.5, 0.5], [(NAN, 1)]):
        with pytest.raises(ValueError, match="points of 'Mass' must be pairs"):
            metrics.radiologists_under_curve(targets, scores, LABELS, {"Mass": pairs})
