"""Curves exactly as QUST-SmartData/CXRClassification computes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from thoraxlib import metrics
from thoraxlib.metrics.curves import Curve
from thoraxlib.utils.arrays import Floats


def macro_roc(targets: ArrayLike, scores: ArrayLike) -> Curve:
    """Mean of the labels' ROC curves with only the upper ends of vertical steps, as in scikit-learn's example.

    Its area is larger than that of :func:`thoraxlib.metrics.macro_roc`, most of all with few negatives.

    Parameters, errors and warnings: see :func:`thoraxlib.metrics.macro_roc`.
    """
    from sklearn.metrics import auc

    exact = metrics.macro_roc(targets, scores)
    x, y = exact.x[1::2], exact.y[1::2]  # the lower and upper ends of the steps alternate
    return Curve(x, y, float(auc(x, y)))


def radiologists_under_curve(
    targets: ArrayLike,
    scores: ArrayLike,
    labels: Sequence[str],
    points: Mapping[str, Sequence[tuple[float, float]]] = metrics.CHEXPERT_RADIOLOGISTS,
) -> Floats:
    """Count the readers below the last threshold whose false positive rate is lower than theirs: float64 (K,).

    Without such a threshold, they are compared with the curve's end, 1.

    Parameters and errors: see :func:`thoraxlib.metrics.radiologists_under_curve`.
    """

    def reached(curve: Curve, rate: Floats) -> Floats:
        return curve.y[np.searchsorted(curve.x, rate, side="left") - 1]

    return metrics.radiologists_under_curve(targets, scores, labels, points, reached)
