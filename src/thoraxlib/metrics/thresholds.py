"""Operating points, and counts of right and wrong at them: a score is positive from its threshold on (>=)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from thoraxlib.metrics.scores import checked, known_columns
from thoraxlib.utils.arguments import one_of
from thoraxlib.utils.arrays import Floats, array


def best_thresholds(targets: ArrayLike, scores: ArrayLike, criterion: str = "f1") -> Floats:
    """Threshold of each label for ``score >= threshold``: float64 (K,).

    By `criterion`: the threshold of the highest F1 ("f1"), of the highest Youden's J ("youden"), or where sensitivity
    and specificity are closest ("equal", as alinstein/X_RAY). Choose it on validation data, never on the test. A label
    without both classes has NaN.

    Raises
    ------
    ValueError
        See :func:`auroc`; or an unknown `criterion`.
    """
    from sklearn.metrics import precision_recall_curve, roc_curve

    one_of("criterion", criterion, ("f1", "youden", "equal"))
    y, s = checked(targets, scores)
    best = np.full(y.shape[1], np.nan)
    for k, truth, score in known_columns(y, s):
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
    limits, labels = array(thresholds), y.shape[1]
    if limits.shape not in ((), (1,), (labels,)):
        raise ValueError(f"thresholds must be one number or {labels}, got shape {limits.shape}")
    if np.isnan(limits).any() and limits.shape != (labels,):
        raise ValueError("thresholds is NaN: a number, or one for each label, of which some may be NaN")
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
