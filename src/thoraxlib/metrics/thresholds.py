"""Operating points, and what is right and wrong at them: a score counts as positive from its threshold on (>=)."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from thoraxlib.metrics.checks import checked
from thoraxlib.utils.arguments import one_of
from thoraxlib.utils.arrays import Floats, array


def best_thresholds(targets: ArrayLike, scores: ArrayLike, criterion: str = "f1") -> Floats:
    """Threshold of each label for ``score >= threshold``: float64 (K,).

    By `criterion`, that with the highest F1 ("f1"), the highest Youden's J ("youden"), or where sensitivity and
    specificity are closest ("equal", as alinstein/X_RAY). Choose it on validation data, never on the test. A label
    without both classes has NaN.

    Raises
    ------
    ValueError
        As :func:`auroc`; or an unknown `criterion`.
    """
    from sklearn.metrics import precision_recall_curve, roc_curve

    one_of("criterion", criterion, ("f1", "youden", "equal"))
    y, s = checked(targets, scores)
    best = np.full(y.shape[1], np.nan)
    for k in range(y.shape[1]):
        known = ~np.isnan(y[:, k])
        truth, score = y[known, k], s[known, k]
        if len(np.unique(truth)) < 2:
            continue
        if criterion == "f1":
            precision, recall, thresholds = precision_recall_curve(truth, score)
            value = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
            best[k] = thresholds[value[:-1].argmax()]
        else:
            false, true, thresholds = roc_curve(truth, score)
            value = true - false if criterion == "youden" else -np.abs(true + false - 1)
            best[k] = thresholds[1:][value[1:].argmax()]
    return best


def confusion(targets: ArrayLike, scores: ArrayLike, thresholds: ArrayLike = 0.5) -> dict[str, Floats]:
    """Sensitivity, specificity, precision, F1 and accuracy of each label at ``score >= threshold``: float64 (K,) each.

    1 - accuracy is the label's Hamming loss.

    Parameters
    ----------
    targets, scores : array_like
        (N, K); see :mod:`thoraxlib.metrics`.
    thresholds : float or array_like
        One, or K, of which NaN is that of a label without a threshold, as :func:`best_thresholds` gives it.

    Returns
    -------
    dict
        ``"sensitivity"``, ``"specificity"``, ``"precision"``, ``"f1"``, ``"accuracy"``; NaN where the denominator is 0,
        and for labels without a threshold.

    Raises
    ------
    ValueError
        As :func:`auroc`; or thresholds that are not one number or K, or one NaN for all labels.
    """
    y, s = checked(targets, scores)
    limits = _limits(thresholds, y.shape[1])
    called, y = s >= limits, np.where(np.isnan(limits), np.nan, y)
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


def _limits(thresholds: ArrayLike, labels: int) -> Floats:
    limits = array(thresholds)
    if limits.shape not in ((), (1,), (labels,)):
        raise ValueError(f"thresholds must be one number or {labels}, got shape {limits.shape}")
    if np.isnan(limits).any() and limits.shape != (labels,):
        raise ValueError("thresholds is NaN: a number, or one for each label, of which some may be NaN")
    return np.broadcast_to(limits, (labels,))


class Averages(NamedTuple):
    """Precision, recall and F1 of one kind of average."""

    precision: float
    recall: float
    f1: float


def multilabel_report(targets: ArrayLike, scores: ArrayLike, thresholds: ArrayLike = 0.5) -> dict[str, Averages]:
    """Precision, recall and F1 at ``score >= threshold``, averaged in three ways.

    As jaydurant/ChestX-ray_classification_and_localization prints them (which has ``score > threshold``), by
    scikit-learn's definitions: what has the denominator 0 counts as 0. Unknown labels take no part.

    Parameters
    ----------
    targets, scores : array_like
        (N, K); see :mod:`thoraxlib.metrics`.
    thresholds : float or array_like
        As for :func:`confusion`; labels without a threshold take no part.

    Returns
    -------
    dict
        ``"micro"``: of all labels of all images together; ``"macro"``: means over the labels that are known of any
        image; ``"samples"``: means over the images of which any label is known. NaN where nothing is known.

    Raises
    ------
    ValueError
        As :func:`confusion`.

    Warns
    -----
    UserWarning
        Labels without a threshold, by their columns.

    Examples
    --------
    >>> multilabel_report([[1, 0], [1, 1]], [[0.9, 0.8], [0.7, 0.2]])["samples"]
    Averages(precision=0.75, recall=0.75, f1=0.6666666666666666)
    """
    y, s = checked(targets, scores)
    limits = _limits(thresholds, y.shape[1])
    without = np.isnan(limits)
    if without.any():
        columns = ", ".join(map(str, np.flatnonzero(without)))
        warnings.warn(f"labels without a threshold (NaN) take no part: columns {columns}", UserWarning, stacklevel=2)
    known = ~np.isnan(y) & ~without
    called, positive = known & (s >= limits), known & (y == 1)
    found = {}
    for name, axis in (("micro", None), ("macro", 0), ("samples", 1)):
        told = np.atleast_1d(known.any(axis=axis))
        each = (np.atleast_1d(cells.sum(axis=axis))[told] for cells in (called & positive, called, positive))
        found[name] = _averages(*each)
    return found


def _averages(hits: Any, called: Any, positive: Any) -> Averages:
    """Means of precision, recall and F1 of numbers of hits, calls and positives."""
    ratios = ((hits, called), (hits, positive), (2 * hits, called + positive))
    return Averages(
        *(float(np.mean(above / np.maximum(below, 1))) if np.size(below) else np.nan for above, below in ratios)
    )
