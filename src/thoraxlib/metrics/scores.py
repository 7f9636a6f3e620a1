"""AUROC and average precision of each label, by scikit-learn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from thoraxlib.metrics.checks import both_classes, check_names, check_order, checked, scorable
from thoraxlib.utils.arrays import Floats


def auroc(targets: ArrayLike, scores: ArrayLike, labels: Sequence[str] | None = None) -> Floats:
    """Area under the ROC curve of each label: float64 (K,).

    Parameters
    ----------
    targets, scores : array_like
        (N, K); see :mod:`thoraxlib.metrics`.
    labels : sequence of str, optional
        Names for the warning.

    Raises
    ------
    ValueError
        Shapes that differ, targets other than 0, 1 and NaN, scores that are NaN or infinite, or labels that are not K.

    Warns
    -----
    UserWarning
        Labels without both classes; scores whose type has lost their order, see :mod:`thoraxlib.metrics`.

    Examples
    --------
    >>> auroc([[0, 1], [1, 0], [1, float("nan")]], [[0.2, 0.3], [0.4, 0.6], [0.1, 0.9]])
    array([0.5, 0. ])
    """
    return _named(targets, scores, labels, "auroc")


def average_precision(targets: ArrayLike, scores: ArrayLike, labels: Sequence[str] | None = None) -> Floats:
    """Average precision (area under the precision-recall curve) of each label: float64 (K,); see :func:`auroc`."""
    return _named(targets, scores, labels, "average_precision")


def per_label(y: Floats, s: Floats, metric: str) -> Floats:
    """Score each label of checked targets and scores (N, K), without a warning: NaN for those without both classes.

    Parameters
    ----------
    y, s : ndarray
        From :func:`thoraxlib.metrics.checks.checked`.
    metric : {"auroc", "average_precision"}
        Which score.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    score = {"auroc": roc_auc_score, "average_precision": average_precision_score}[metric]
    known = ~np.isnan(y)
    values = np.full(y.shape[1], np.nan)
    for k in np.flatnonzero(both_classes(y)):
        values[k] = score(y[known[:, k], k], s[known[:, k], k])
    return values


def _named(targets: ArrayLike, scores: ArrayLike, labels: Sequence[str] | None, metric: str) -> Floats:
    y, s = checked(targets, scores)
    check_names(labels, y)
    check_order(y, s, scores, stacklevel=3)
    scorable(y, labels, stacklevel=3)
    return per_label(y, s, metric)
