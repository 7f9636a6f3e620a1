"""Operating points, and counts of right and wrong at them: a score is positive from its threshold on (>=)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from thoraxlib.metrics.scores import checked, known_columns
from thoraxlib.utils.arguments import one_of
from thoraxlib.utils.arrays import Floats, array

_REQUESTED = ("sensitivity", "specificity")


def best_thresholds(
    targets: ArrayLike,
    scores: ArrayLike,
    criterion: str = "f1",
    *,
    at: ArrayLike | None = None,
    labels: Sequence[str] | None = None,
) -> Floats:
    """Threshold of each label for ``score >= threshold``: float64 (K,).

    Choose it on validation data, never on the test. A threshold is one of the label's known scores.

    Parameters
    ----------
    targets, scores : array_like
        (N, K); see :mod:`thoraxlib.metrics`.
    criterion : {"f1", "youden", "equal", "sensitivity", "specificity"}
        Highest F1; highest Youden's J; sensitivity and specificity closest (as alinstein/X_RAY); the highest threshold
        whose sensitivity is at least `at`; or the lowest one whose specificity is at least `at`.
    at : float or array_like
        Requested sensitivity or specificity, one or K, above 0 and at most 1.
    labels : sequence of str, optional
        Names for the warning.

    Returns
    -------
    ndarray
        NaN for labels without both classes.

    Raises
    ------
    ValueError
        See :func:`auroc`; an unknown `criterion`; `at` missing, out of its range, or given with another criterion.

    Warns
    -----
    UserWarning
        Labels that do not reach the specificity, because negatives have the highest score: they have the threshold of
        the highest specificity.

    Examples
    --------
    >>> targets, scores = [[0], [1], [0], [1]], [[0.1], [0.4], [0.5], [0.8]]
    >>> best_thresholds(targets, scores, "sensitivity", at=0.9), best_thresholds(targets, scores, "specificity", at=0.9)
    (array([0.4]), array([0.8]))
    """
    from sklearn.metrics import precision_recall_curve, roc_curve

    one_of("criterion", criterion, ("f1", "youden", "equal", *_REQUESTED))
    y, s = checked(targets, scores)
    if labels is not None and len(labels) != y.shape[1]:
        raise ValueError(f"labels has {len(labels)} names, targets have {y.shape[1]} columns")
    wanted = _wanted(criterion, at, y.shape[1])
    best, missed = np.full(y.shape[1], np.nan), []
    for k, truth, score in known_columns(y, s):
        if criterion == "f1":
            precision, recall, thresholds = precision_recall_curve(truth, score)
            value = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
            best[k] = thresholds[value[:-1].argmax()]
        elif criterion in _REQUESTED:
            best[k], reached = _at(truth, score, criterion, wanted[k])
            if reached < wanted[k]:
                name = str(k) if labels is None else labels[k]
                missed.append(f"{name} ({reached:.4g} at most, {wanted[k]:.4g} requested)")
        else:
            false, true, thresholds = roc_curve(truth, score)
            value = true - false if criterion == "youden" else -np.abs(true + false - 1)
            best[k] = thresholds[1:][value[1:].argmax()]
    if missed:
        warnings.warn(f"no score has the requested {criterion}: {', '.join(missed)}", stacklevel=2)
    return best


def _wanted(criterion: str, at: ArrayLike | None, labels: int) -> Floats:
    """Requested rate of each label."""
    if (at is None) == (criterion in _REQUESTED):
        raise ValueError(
            f"criterion={criterion!r}, at={at!r}: at is a rate, for {' and '.join(map(repr, _REQUESTED))} alone"
        )
    rates = array(1.0 if at is None else at)
    if rates.shape not in ((), (1,), (labels,)) or not ((rates > 0) & (rates <= 1)).all():
        raise ValueError(f"at={at!r}: one rate or {labels}, above 0 and at most 1")
    return np.broadcast_to(rates, labels)


def _at(truth: Floats, score: Floats, criterion: str, wanted: float) -> tuple[float, float]:
    """Threshold with the requested rate, and the rate there; the highest one if none is high enough."""
    thresholds, number = np.unique(score, return_inverse=True)
    positives, negatives = (np.bincount(number, truth == side) for side in (1, 0))
    if criterion == "sensitivity":  # falls with the threshold from 1, so that it is always reached
        rates = np.cumsum(positives[::-1])[::-1] / positives.sum()
        chosen = np.flatnonzero(rates >= wanted)[-1]
    else:  # rises with the threshold from 0
        rates = (np.cumsum(negatives) - negatives) / negatives.sum()
        chosen = np.flatnonzero(rates >= min(wanted, rates.max()))[0]
    return float(thresholds[chosen]), float(rates[chosen])


def confusion(targets: ArrayLike, scores: ArrayLike, thresholds: ArrayLike = 0.5) -> dict[str, Floats]:
    """Sensitivity, specificity, precision, F1 and accuracy of each label at ``score >= threshold``: float64 (K,) each.

    1 - accuracy is the label's Hamming loss.

    Parameters
    ----------
    targets, scores : array_like
        (N, K); see :mod:`thoraxlib.metrics`.
    thresholds : float or array_like
        One, or K. NaN means a label without a threshold, see :func:`best_thresholds`.

    Returns
    -------
    dict
        ``"sensitivity"``, ``"specificity"``, ``"precision"``, ``"f1"``, ``"accuracy"``; NaN where the denominator is 0,
        and for labels without a threshold.

    Raises
    ------
    ValueError
        See :func:`auroc`; or thresholds that are not one number or K, or one NaN for all labels.
    """
    y, s = checked(targets, scores)
    called, y = decisions(y, s, thresholds)
    tp, fp = (called & (y == 1)).sum(axis=0), (called & (y == 0)).sum(axis=0)
    fn, tn = (~called & (y == 1)).sum(axis=0), (~called & (y == 0)).sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "sensitivity": tp / (tp + fn),
            "specificity": tn / (tn + fp),
            "precision": tp / (tp + fp),
            "f1": 2 * tp / (2 * tp + fp + fn),
            "accuracy": (tp + tn) / (tp + fp + fn + tn),
        }


def decisions(y: Floats, s: Floats, thresholds: ArrayLike) -> tuple[np.ndarray, Floats]:
    """Compare checked scores (N, K) with thresholds; return the decisions, and targets, unknown without a threshold.

    Parameters and errors: see :func:`confusion`.
    """
    limits, labels = array(thresholds), y.shape[1]
    if limits.shape not in ((), (1,), (labels,)):
        raise ValueError(f"thresholds must be one number or {labels}, got shape {limits.shape}")
    if np.isnan(limits).any() and limits.shape != (labels,):
        raise ValueError("thresholds is NaN: a number, or one for each label, of which some may be NaN")
    return s >= limits, np.where(np.isnan(limits), np.nan, y)
