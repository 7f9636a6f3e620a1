"""Scores of one label under many weightings of the images at once, for resamples and subgroups."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import ArrayLike

from thoraxlib.metrics.scores import checked
from thoraxlib.utils.arguments import one_of
from thoraxlib.utils.arrays import Floats

BINS = 15  # of the calibration error, as Guo et al. (2017)


@dataclass(frozen=True)
class WeightedScore:
    """A score of targets (N,), which may be NaN, and scores (N,) under each row of weights (B, N): (B,).

    Attributes
    ----------
    title : str
        Name for tables and figures.
    needs : tuple of int
        Classes that a label must have; the score is NaN where one of them has no weight.
    takes : {"scores", "probabilities", "decisions"}
        Kind of the scores: any numbers, numbers from 0 to 1, or 0 and 1.
    biased : bool
        Chance adds to the score, and resampling adds once more.
    """

    title: str
    needs: tuple[int, ...]
    takes: str
    function: Callable[[Floats, Floats, Floats], Floats]
    biased: bool = False

    def __call__(self, y: Floats, s: Floats, weights: Floats) -> Floats:
        """Score each row of `weights`."""
        return self.function(y, s, weights)

    def whole(self, y: Floats, s: Floats) -> Floats:
        """Score each label of (N, K), all images with the weight 1: (K,)."""
        ones = np.ones((1, len(y)))
        return np.array([self(y[:, k], s[:, k], ones)[0] for k in range(y.shape[1])])


def weighted(metric: str) -> WeightedScore:
    """Look up a score by the argument `metric`.

    Raises
    ------
    ValueError
        An unknown name.
    """
    one_of("metric", metric, WEIGHTED)
    return WEIGHTED[metric]


def checked_for(metric: str, targets: ArrayLike, scores: ArrayLike) -> tuple[Floats, Floats]:
    """Both as float64 (N, K), if the scores are of the kind that the metric takes.

    Raises
    ------
    ValueError
        See :func:`thoraxlib.metrics.auroc`; an unknown metric; scores of another kind.
    """
    takes = weighted(metric).takes
    y, s = checked(targets, scores)
    if takes == "probabilities":
        check_probabilities(s)
    if takes == "decisions" and (odd := s[~np.isin(s, (0, 1))]).size:
        raise ValueError(
            f"metric={metric!r} takes decisions: scores must be 0 or 1, that is scores >= thresholds; "
            f"{odd.size} are not, the first is {odd[0]:g}"
        )
    return y, s


def check_probabilities(scores: Floats) -> None:
    """Raise ValueError unless all scores are from 0 to 1."""
    odd = scores[(scores < 0) | (scores > 1)]
    if odd.size:
        raise ValueError(
            f"probabilities must be from 0 to 1; {odd.size} are not, the first is {odd[0]:g}: "
            "are they logits, without the sigmoid?"
        )


def bin_numbers(probabilities: Floats, bins: int, binning: str) -> np.ndarray:
    """Number the bin of each probability (N,), from 0 to ``bins - 1``; a bin includes its upper end.

    Parameters
    ----------
    probabilities : ndarray
        (N,), not NaN.
    bins : int
        Number of bins, at least 1.
    binning : {"width", "mass"}
        Bins of equal width in [0, 1], or between the quantiles of the probabilities.

    Raises
    ------
    ValueError
        An argument out of its range.
    """
    one_of("binning", binning, ("width", "mass"))
    if bins < 1:
        raise ValueError(f"bins={bins}: at least 1")
    inner = np.linspace(0, 1, bins + 1)[1:-1]
    if binning == "mass" and len(probabilities):
        inner = np.quantile(probabilities, inner)
    return np.searchsorted(inner, probabilities)


def calibration_error(y: Floats, p: Floats, weights: Floats, *, bins: int, binning: str) -> Floats:
    """Expected calibration error of one label: (B,). The bins are those of all images, not of each resample."""
    known = ~np.isnan(y)
    excess = np.zeros((len(y), bins))
    excess[known, bin_numbers(p[known], bins, binning)] = (p - y)[known]
    with np.errstate(invalid="ignore"):
        return np.asarray(np.abs(weights @ excess).sum(axis=1) / (weights @ known))


def _auroc(y: Floats, s: Floats, weights: Floats) -> Floats:
    positive, negative = np.flatnonzero(y == 1), np.flatnonzero(y == 0)
    negative = negative[np.argsort(s[negative])]
    lower = np.zeros((len(weights), len(negative) + 1))  # weight of the first negatives, from none to all
    np.cumsum(weights[:, negative], axis=1, out=lower[:, 1:])
    below, to = (np.searchsorted(s[negative], s[positive], side) for side in ("left", "right"))
    of_positive = weights[:, positive]
    wins = (of_positive * (lower[:, below] + lower[:, to])).sum(axis=1) / 2
    pairs = of_positive.sum(axis=1) * lower[:, -1]
    return np.where(pairs > 0, wins / np.maximum(pairs, 1e-12), np.nan)


def _average_precision(y: Floats, s: Floats, weights: Floats) -> Floats:
    positive, negative = (side[:, ::-1] for side in _by_score(y, s, weights))
    true, false = np.cumsum(positive, axis=1), np.cumsum(negative, axis=1)
    total = true[:, -1]
    precision = true / np.maximum(true + false, 1e-12)
    value = (precision * positive).sum(axis=1) / np.maximum(total, 1e-12)
    return np.where((total > 0) & (false[:, -1] > 0), value, np.nan)


def _by_score(y: Floats, s: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Weights of positives and of negatives at each distinct score, ascending: two (B, G)."""
    known = ~np.isnan(y)
    order = np.flatnonzero(known)[np.argsort(s[known], kind="stable")]
    if not len(order):
        return np.zeros((len(weights), 1)), np.zeros((len(weights), 1))
    starts = np.flatnonzero(np.diff(s[order], prepend=-np.inf))
    sorted_weights = weights[:, order]
    positive = sorted_weights * y[order]
    return tuple(np.add.reduceat(part, starts, axis=1) for part in (positive, sorted_weights - positive))  # type: ignore[return-value]


def _brier(y: Floats, p: Floats, weights: Floats) -> Floats:
    known = ~np.isnan(y)
    with np.errstate(invalid="ignore"):
        return np.asarray(weights @ np.where(known, (p - y) ** 2, 0) / (weights @ known))


def _share_right(y: Floats, decisions: Floats, weights: Floats, *, of: int) -> Floats:
    """Share of right decisions among the images of one class."""
    those = y == of
    with np.errstate(invalid="ignore"):
        return np.asarray(weights @ (those & (decisions == of)) / (weights @ those))


WEIGHTED = {
    "auroc": WeightedScore("AUROC", (1, 0), "scores", _auroc),
    "average_precision": WeightedScore("AP", (1, 0), "scores", _average_precision),
    "brier": WeightedScore("Brier", (), "probabilities", _brier),
    "ece": WeightedScore(
        "ECE", (), "probabilities", partial(calibration_error, bins=BINS, binning="width"), biased=True
    ),
    "ece_mass": WeightedScore(
        "ECE (equal mass)", (), "probabilities", partial(calibration_error, bins=BINS, binning="mass"), biased=True
    ),
    "sensitivity": WeightedScore("sensitivity", (1,), "decisions", partial(_share_right, of=1)),
    "specificity": WeightedScore("specificity", (0,), "decisions", partial(_share_right, of=0)),
}
