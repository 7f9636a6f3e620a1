"""Thresholds of a requested sensitivity or specificity."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thoraxlib import metrics

NAN = float("nan")


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    ties=st.booleans(),
    criterion=st.sampled_from(["sensitivity", "specificity"]),
    at=st.sampled_from([0.05, 0.5, 0.8, 0.95, 1.0]),
)
def test_no_other_score_is_better(seed: int, ties: bool, criterion: str, at: float) -> None:
    rng = np.random.default_rng(seed)
    targets = (rng.random((40, 2)) < 0.4).astype(float)
    targets[:2] = [[0, 0], [1, 1]]
    targets[2:][rng.random((38, 2)) < 0.2] = NAN
    scores = rng.normal(size=(40, 2)) + np.nan_to_num(targets)
    scores = np.round(scores) if ties else scores
    scores[np.argmax(targets == 1, axis=0), [0, 1]] = scores.max() + 1  # so that every specificity is reached
    found = metrics.best_thresholds(targets, scores, criterion, at=at)
    rates = metrics.confusion(targets, scores, found)
    other = {"sensitivity": "specificity", "specificity": "sensitivity"}[criterion]
    assert (rates[criterion] >= at).all()
    for k in range(2):
        known = ~np.isnan(targets[:, k])
        assert found[k] in scores[known, k]
        for threshold in scores[known, k]:
            tried = metrics.confusion(targets[:, [k]], scores[:, [k]], threshold)
            if tried[criterion][0] >= at:
                assert tried[other][0] <= rates[other][k]


def test_a_rate_for_each_label() -> None:
    targets, scores = np.array([[0, 0], [1, 1], [1, 1], [1, NAN], [0, 0]]), np.zeros((5, 2))
    scores[:] = np.array([0, 1, 2, 3, 4])[:, None]
    found = metrics.best_thresholds(targets, scores, "sensitivity", at=[1 / 3, 1.0])
    assert found.tolist() == [3, 1]


def test_rates_that_are_not_reached_are_named() -> None:
    # the highest score is a negative's: 2 of 3 negatives below it is the most
    targets, scores = np.array([[0], [0], [1], [0]] * 2), np.array([[0.1], [0.2], [0.3], [0.9]] * 2)
    with pytest.warns(UserWarning, match=r"requested specificity: Mass \(0.6667 at most, 0.9 requested\)") as caught:
        found = metrics.best_thresholds(targets, scores, "specificity", at=0.9, labels=["Mass"])
    assert caught[0].filename == __file__
    assert found.tolist() == [0.3]
    assert metrics.confusion(targets, scores, found)["specificity"][0] == pytest.approx(2 / 3)
    with pytest.warns(UserWarning, match=r"specificity: 0 \("):
        metrics.best_thresholds(targets, scores, "specificity", at=0.9)
    assert metrics.best_thresholds(targets, np.zeros((8, 1)), "sensitivity", at=0.9).tolist() == [0]


def test_a_label_without_both_classes_has_none() -> None:
    targets, scores = np.array([[0, 1], [1, 1], [0, NAN]]), np.array([[0, 1], [1, 0], [0.5, 0.5]])
    found = metrics.best_thresholds(targets, scores, "sensitivity", at=0.5)
    assert found[0] == 1
    assert np.isnan(found[1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"criterion": "sensitivity"}, "criterion='sensitivity', at=None"),
        ({"criterion": "f1", "at": 0.9}, "criterion='f1', at=0.9"),
        ({"criterion": "specificity", "at": 0}, "at=0: one rate or 1, above 0"),
        ({"criterion": "specificity", "at": 95}, "at=95"),
        ({"criterion": "specificity", "at": [0.9, 0.8]}, "one rate or 1"),
        ({"criterion": "specificity", "at": NAN}, "at=nan"),
        ({"criterion": "f1", "labels": ["a", "b"]}, "labels has 2 names"),
    ],
)
def test_errors(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        metrics.best_thresholds([[0], [1]], [[0.1], [0.2]], **options)
