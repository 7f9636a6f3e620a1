"""AUROC and average precision of each label, by scikit-learn, and the checks that all scores share."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike

from thoraxlib.utils.arrays import Floats, array

_PRECISE = 4  # bytes of a number; shorter types often write different scores alike


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
    return per_label(*checked_with_labels(targets, scores, labels, stacklevel=2), "auroc")


def average_precision(targets: ArrayLike, scores: ArrayLike, labels: Sequence[str] | None = None) -> Floats:
    """Average precision (area under the precision-recall curve) of each label: float64 (K,); see :func:`auroc`."""
    return per_label(*checked_with_labels(targets, scores, labels, stacklevel=2), "average_precision")


def per_label(y: Floats, s: Floats, metric: str) -> Floats:
    """Score each label of checked targets and scores (N, K), without a warning: NaN for those without both classes.

    Parameters
    ----------
    y, s : ndarray
        From :func:`checked`.
    metric : {"auroc", "average_precision"}
        Name of the score.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    score = {"auroc": roc_auc_score, "average_precision": average_precision_score}[metric]
    values = np.full(y.shape[1], np.nan)
    for k, truth, scores in known_columns(y, s):
        values[k] = score(truth, scores)
    return values


def known_columns(y: Floats, s: Floats) -> Iterator[tuple[int, Floats, Floats]]:
    """Yield the column, the known targets, and their scores of each label that has both classes."""
    for k in np.flatnonzero((y == 0).any(axis=0) & (y == 1).any(axis=0)):
        known = ~np.isnan(y[:, k])
        yield int(k), y[known, k], s[known, k]


def checked(targets: ArrayLike, scores: ArrayLike) -> tuple[Floats, Floats]:
    """Both as float64 (N, K).

    Raises
    ------
    ValueError
        Shapes that differ, targets other than 0, 1 and NaN, scores that are NaN or infinite.
    """
    y, s = array(targets), array(scores)
    if y.ndim != 2 or y.shape != s.shape or not y.size:
        raise ValueError(f"targets and scores must both be (N, K), none of them 0, got {y.shape} and {s.shape}")
    odd = y[~np.isin(y, (0, 1)) & ~np.isnan(y)]
    if len(odd):
        raise ValueError(f"targets must be 0, 1 or NaN; {len(odd)} are not, the first is {odd[0]:g}")
    if not np.isfinite(s).all():
        raise ValueError(f"scores must be finite, but hold {np.isnan(s).sum()} NaN and {np.isinf(s).sum()} infinite")
    return y, s


def checked_with_labels(
    targets: ArrayLike, scores: ArrayLike, labels: Sequence[str] | None, *, stacklevel: int
) -> tuple[Floats, Floats]:
    """Both as float64 (N, K), with the warnings of :func:`auroc`; `stacklevel` is that of the calling function.

    Raises
    ------
    ValueError
        See :func:`auroc`.
    """
    y, s = checked(targets, scores)
    if labels is not None and len(labels) != y.shape[1]:
        raise ValueError(f"labels has {len(labels)} names, targets have {y.shape[1]} columns")
    _warn_of_lost_order(y, s, getattr(getattr(scores, "dtype", None), "itemsize", 8), stacklevel + 1)
    scored = {k for k, _, _ in known_columns(y, s)}
    names = [str(k) if labels is None else labels[k] for k in range(y.shape[1]) if k not in scored]
    if names:
        warnings.warn(f"no score for labels without both classes: {', '.join(names)}", stacklevel=stacklevel + 1)
    return y, s


def _warn_of_lost_order(y: Floats, s: Floats, itemsize: int, stacklevel: int) -> None:
    """Warn of types that lose the order of scores: half precision, or float32 probabilities that are all 1."""
    if itemsize > _PRECISE or np.isin(s, (0, 1)).all():
        return
    top = s == 1
    tied = (top & (y == 1)).any(axis=0) & (top & (y == 0)).any(axis=0)
    if itemsize < _PRECISE:
        text = "scores are in half precision, in which many that differ are equal"
    elif ((s >= 0) & (s <= 1)).all() and tied.any():
        text = "scores are float32 probabilities, of which positives and negatives are exactly 1"
    else:
        return
    warnings.warn(
        f"{text}: their order is lost; give float32 logits, or float64 probabilities", stacklevel=stacklevel + 1
    )
