"""ROC and precision-recall curves of labels, their averages, and a comparison with human readers.

Targets are (N, K): 1, 0, or NaN for unknown; scores are (N, K). Curves come from scikit-learn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from thoraxlib import labels as label_sets
from thoraxlib.metrics.scores import checked, checked_with_labels, known_columns
from thoraxlib.utils.arrays import Floats


def _points(negatives: int, positives: int, right: Sequence[tuple[int, int]]) -> tuple[tuple[float, float], ...]:
    return tuple((true_negatives / negatives, hits / positives) for true_negatives, hits in right)


#: (specificity, sensitivity) of three radiologists on the 500 studies of CheXpert's test set (Irvin et al. 2019), from
#: QUST-SmartData/CXRClassification.
CHEXPERT_RADIOLOGISTS: Mapping[str, Sequence[tuple[float, float]]] = {
    "Atelectasis": _points(347, 153, [(273, 123), (286, 109), (238, 141)]),
    "Cardiomegaly": _points(349, 151, [(333, 72), (268, 129), (312, 106)]),
    "Consolidation": _points(471, 29, [(419, 19), (429, 14), (455, 13)]),
    "Edema": _points(422, 78, [(386, 49), (343, 62), (391, 45)]),
    "Pleural Effusion": _points(396, 104, [(375, 85), (327, 86), (342, 93)]),
}
_TIE = 1e-9  # readers on the curve count, in spite of rounding


class Curve(NamedTuple):
    """A curve, float64 (P,) each, and the area under it.

    ROC: `x` is the false positive rate, `y` the true positive rate. Precision-recall: `x` is the recall, `y` the
    precision, `area` the average precision. `x` ascends.
    """

    x: Floats
    y: Floats
    area: float


def roc_curves(targets: ArrayLike, scores: ArrayLike, labels: Sequence[str]) -> dict[str, Curve]:
    """ROC curve of each label that has both classes; the others are named in a warning.

    Parameters
    ----------
    targets, scores : array_like
        (N, K); see the module.
    labels : sequence of str
        The K labels.

    Returns
    -------
    dict of str to Curve
        By label, in their order.

    Raises
    ------
    ValueError
        Shapes that differ, targets other than 0, 1 and NaN, scores that are NaN or infinite, or labels that are not K.

    Examples
    --------
    >>> curve = roc_curves([[0], [1], [0], [1]], [[0.1], [0.4], [0.35], [0.8]], ["Mass"])["Mass"]
    >>> curve.area, curve.x.tolist(), curve.y.tolist()
    (1.0, [0.0, 0.0, 0.0, 1.0], [0.0, 0.5, 1.0, 1.0])
    """
    return {labels[k]: _roc(truth, score) for k, truth, score in _columns(targets, scores, labels)}


def precision_recall_curves(targets: ArrayLike, scores: ArrayLike, labels: Sequence[str]) -> dict[str, Curve]:
    """Precision-recall curve of each label that has both classes; see :func:`roc_curves`."""
    from sklearn.metrics import average_precision_score, precision_recall_curve

    curves = {}
    for k, truth, score in _columns(targets, scores, labels):
        precision, recall, _ = precision_recall_curve(truth, score, drop_intermediate=True)
        curves[labels[k]] = Curve(recall[::-1], precision[::-1], float(average_precision_score(truth, score)))
    return curves


def micro_roc(targets: ArrayLike, scores: ArrayLike) -> Curve:
    """ROC curve of all known pairs of image and label in one list.

    It mixes the labels: if scores of different labels lie in different ranges, the area is lower.

    Raises
    ------
    ValueError
        See :func:`roc_curves`; or no target is positive, or none negative.
    """
    y, s = checked(targets, scores)
    known = ~np.isnan(y)
    if len(np.unique(y[known])) < 2:
        raise ValueError("targets must hold both 0 and 1")
    return _roc(y[known], s[known])


def macro_roc(targets: ArrayLike, scores: ArrayLike) -> Curve:
    """Mean of the labels' ROC curves at every false positive rate where one of them bends.

    Both ends of a curve's vertical steps are kept, so that the area is the mean of the labels' AUROC.

    Parameters
    ----------
    targets, scores : array_like
        (N, K); see the module.

    Raises
    ------
    ValueError
        See :func:`roc_curves`; or no label has both classes.

    Warns
    -----
    UserWarning
        Labels without both classes, which do not count.
    """
    from sklearn.metrics import auc

    each = [_roc(truth, score) for _, truth, score in _columns(targets, scores, None)]
    if not each:
        raise ValueError("targets: no label has both 0 and 1")
    x = np.unique(np.concatenate([curve.x for curve in each]))
    # of several points with one x, np.interp takes the last; of reversed curves, the first
    upper = np.mean([np.interp(x, curve.x, curve.y) for curve in each], axis=0)
    lower = np.mean([np.interp(-x, -curve.x[::-1], curve.y[::-1]) for curve in each], axis=0)
    x, y = np.repeat(x, 2), np.stack([lower, upper], axis=1).ravel()
    return Curve(x, y, float(auc(x, y)))


def _interpolated(curve: Curve, rate: Floats) -> Floats:
    return np.interp(rate + _TIE, curve.x, curve.y) + _TIE


def radiologists_under_curve(
    targets: ArrayLike,
    scores: ArrayLike,
    labels: Sequence[str],
    points: Mapping[str, Sequence[tuple[float, float]]] = CHEXPERT_RADIOLOGISTS,
    reached: Callable[[Curve, Floats], Floats] = _interpolated,
) -> Floats:
    """Count the readers whose operating points lie under, or on, the ROC curve of each label: float64 (K,).

    A reader is compared with the curve at the same false positive rate.

    Parameters
    ----------
    targets, scores : array_like
        (N, K) of the readers' images or studies; see the module, and :func:`thoraxlib.metrics.aggregate`.
    labels : sequence of str
        The K labels.
    points : mapping of str to sequence of (float, float)
        Specificity and sensitivity of each reader, by label, in any data set's spelling.
    reached : callable
        (curve, false positive rates) -> sensitivities; by default on the straight line between two thresholds.

    Returns
    -------
    ndarray
        NaN for labels without both classes or without points.

    Raises
    ------
    ValueError
        See :func:`roc_curves`; or a specificity or sensitivity outside [0, 1].

    Examples
    --------
    >>> truth, score = [[0], [0], [1], [1]], [[0.1], [0.6], [0.5], [0.9]]
    >>> radiologists_under_curve(truth, score, ["Edema"], {"Edema": [(0.9, 0.4), (0.9, 0.6), (0.4, 1.0)]})
    array([2.])
    """
    curves = roc_curves(targets, scores, labels)
    readers = {label_sets.canonical(label): np.array(pairs, np.float64) for label, pairs in points.items()}
    counts = np.full(len(labels), np.nan)
    for k, label in enumerate(labels):
        pairs = readers.get(label_sets.canonical(label))
        if pairs is None or label not in curves:
            continue
        if pairs.ndim != 2 or pairs.shape[1] != 2 or not ((pairs >= 0) & (pairs <= 1)).all():
            raise ValueError(f"points of {label!r} must be pairs (specificity, sensitivity) in [0, 1], got {pairs}")
        specificity, sensitivity = pairs.T
        counts[k] = (reached(curves[label], 1 - specificity) >= sensitivity).sum()
    return counts


def _columns(
    targets: ArrayLike, scores: ArrayLike, labels: Sequence[str] | None
) -> Iterator[tuple[int, Floats, Floats]]:
    return known_columns(*checked_with_labels(targets, scores, labels, stacklevel=3))


def _roc(truth: Floats, score: Floats) -> Curve:
    from sklearn.metrics import auc, roc_curve

    false, true, _ = roc_curve(truth, score)
    return Curve(false, true, float(auc(false, true)))
