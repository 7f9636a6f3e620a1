"""Bootstrap intervals of scores, and of their differences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from thoraxlib.metrics.weighted import checked_for, weighted
from thoraxlib.utils.arrays import Floats, array

if TYPE_CHECKING:
    from torch import Tensor

_ROUNDING = 1e-12  # a difference of equal scores, summed in another order


class Interval(NamedTuple):
    """Percentile intervals of a bootstrap: ends for each label, float64 (K,), and for their mean."""

    low: Floats
    high: Floats
    macro_low: float
    macro_high: float

    def beside(self, values: Tensor) -> list[str]:
        """Format each of the values (K,), and their mean, with its interval, three digits each."""
        means = (*values.tolist(), float(values.nanmean()))
        lows, highs = (*self.low, self.macro_low), (*self.high, self.macro_high)
        ends = zip(means, lows, highs, strict=True)
        return [f"{value:.3f} ({low:.3f} to {high:.3f})" for value, low, high in ends]


class Difference(NamedTuple):
    """Percentile intervals of a difference, as in :class:`Interval`, with two-sided p-values of "no difference".

    A p-value is twice the share of the resamples in which the difference has the other sign or is 0, with 1 added to
    both counts: it is below 1 - level about where the interval excludes 0, and at least 2 / (resamples + 1).
    """

    low: Floats
    high: Floats
    macro_low: float
    macro_high: float
    p_value: Floats
    macro_p_value: float


def bootstrap(
    targets: ArrayLike,
    scores: ArrayLike,
    *,
    metric: str = "auroc",
    n_bootstrap: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    patient_ids: Sequence[str] | None = None,
) -> Interval:
    """Percentile bootstrap of a score (Efron and Tibshirani, 1993, chapter 13).

    Parameters
    ----------
    targets, scores : array_like
        (N, K); see :mod:`thoraxlib.metrics`.
    metric : {"auroc", "average_precision", "brier", "ece", "ece_mass", "sensitivity", "specificity"}
        The score. The calibration errors ("ece" with 15 bins of equal width, "ece_mass" of equal mass) and the Brier
        score need probabilities; sensitivity and specificity need decisions, ``scores >= thresholds``.
    n_bootstrap : int
        Number of resamples of the images, or patients.
    level : float
        Coverage, between 0 and 1.
    seed : int
        Seed of the resampling.
    patient_ids : sequence of str, optional
        Patient of each image: patients are resampled with all their images, instead of images. Without it, intervals
        are too narrow if patients have several images.

    Returns
    -------
    Interval
        NaN for labels that lack a class which the score needs (AUROC and average precision: both). Resamples that lack
        such a class of a label do not count for it. Intervals of calibration errors are not percentiles but reflected,
        see :func:`evaluate_calibration`.

    Raises
    ------
    ValueError
        An argument out of its range; scores of another kind than the metric needs.
    """
    y, s = checked_for(metric, targets, scores)
    draws = resampled_scores(y, [s], metric, n_bootstrap=n_bootstrap, level=level, seed=seed, patient_ids=patient_ids)
    return interval(draws[0], level, metric, weighted(metric).whole(y, s))


def bootstrap_difference(
    targets: ArrayLike,
    scores: ArrayLike,
    others: ArrayLike,
    *,
    metric: str = "auroc",
    n_bootstrap: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    patient_ids: Sequence[str] | None = None,
) -> Difference:
    """Percentile bootstrap of the score of `scores` minus that of `others`, on the same resamples.

    The interval is narrower than two intervals of :func:`bootstrap` suggest: both are scores of the same images.

    Parameters
    ----------
    targets, scores, others : array_like
        (N, K); see :mod:`thoraxlib.metrics`.
    metric, n_bootstrap, level, seed, patient_ids
        See :func:`bootstrap`.

    Returns
    -------
    Difference
        For the difference of each label, and for their mean: intervals and p-values.

    Raises
    ------
    ValueError
        See :func:`bootstrap`.
    """
    (y, s), (_, o) = checked_for(metric, targets, scores), checked_for(metric, targets, others)
    ours, theirs = resampled_scores(
        y, [s, o], metric, n_bootstrap=n_bootstrap, level=level, seed=seed, patient_ids=patient_ids
    )
    return difference(ours - theirs, level)


def bootstrap_mean(
    values: ArrayLike,
    *,
    n_bootstrap: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    patient_ids: Sequence[str] | None = None,
) -> Interval:
    """Percentile bootstrap of the mean of each column of `values`.

    Parameters
    ----------
    values : array_like
        (N, K) of N images; NaN is left out.
    n_bootstrap, level, seed, patient_ids
        See :func:`bootstrap`.

    Returns
    -------
    Interval
        NaN for columns with only NaN.

    Raises
    ------
    ValueError
        See :func:`bootstrap`.
    """
    table = array(values)
    known, table = ~np.isnan(table), np.nan_to_num(table, nan=0.0)
    draws = resampled_weights(len(table), n_bootstrap=n_bootstrap, level=level, seed=seed, patient_ids=patient_ids)
    with np.errstate(invalid="ignore"):
        means = [weights @ table / (weights @ known) for weights in draws]
    return percentiles(np.concatenate(means), level)


def resampled_scores(
    y: Floats,
    sides: Sequence[Floats],
    metric: str,
    *,
    n_bootstrap: int,
    level: float,
    seed: int,
    patient_ids: Sequence[str] | None,
) -> Floats:
    """Score each of S models (N, K), checked, on the same B resamples: (S, B, K)."""
    score, labels = weighted(metric), range(y.shape[1])
    draws = resampled_weights(len(y), n_bootstrap=n_bootstrap, level=level, seed=seed, patient_ids=patient_ids)
    parts = [
        [np.stack([score(y[:, k], side[:, k], weights) for k in labels], axis=1) for side in sides] for weights in draws
    ]
    return np.concatenate([np.stack(part) for part in parts], axis=1)


def resampled_weights(
    images: int, *, n_bootstrap: int, level: float, seed: int, patient_ids: Sequence[str] | None
) -> Iterator[Floats]:
    """Yield counts of each image in resamples of the patients, or without them of the images: (b, N), B rows in all.

    Parameters and errors: see :func:`bootstrap`.
    """
    if n_bootstrap < 1 or not 0 < level < 1:
        raise ValueError(f"n_bootstrap={n_bootstrap}, level={level}: at least 1 resample, and a level between 0 and 1")
    groups = patient_numbers(images, patient_ids)
    rng = np.random.default_rng(seed)
    count = int(groups.max()) + 1
    chunk = max(1, 4_000_000 // images)
    for start in range(0, n_bootstrap, chunk):
        drawn = rng.multinomial(count, np.full(count, 1 / count), size=min(chunk, n_bootstrap - start))
        yield drawn[:, groups].astype(np.float64)


def percentiles(resampled: Floats, level: float) -> Interval:
    """Interval of the scores (B, K) of B resamples."""
    ends = ((1 - level) / 2, (1 + level) / 2)
    scored = ~np.isnan(resampled).all(axis=0)
    low, high = np.full((2, resampled.shape[1]), np.nan)
    macro = (np.nan, np.nan)
    if scored.any():
        low[scored], high[scored] = np.nanquantile(resampled[:, scored], ends, axis=0)
        macro = tuple(np.nanquantile(row_means(resampled[:, scored]), ends).tolist())
    return Interval(low, high, *macro)


def patient_numbers(images: int, patient_ids: Sequence[str] | None) -> np.ndarray:
    """Number the patient of each image from 0; without `patient_ids`, every image has its own.

    Raises
    ------
    ValueError
        `patient_ids` has another length.
    """
    groups = np.arange(images) if patient_ids is None else np.unique(np.asarray(patient_ids), return_inverse=True)[1]
    if len(groups) != images:
        raise ValueError(f"patient_ids has {len(groups)} entries, targets have {images} rows")
    return groups


def interval(resampled: Floats, level: float, metric: str, values: Floats) -> Interval:
    """Interval of the scores (B, K) of B resamples around the values (K,) of all images.

    It is that of :func:`percentiles`, reflected at the value if chance adds to the score: the resamples lie above the
    value as far as the value lies above the truth (Efron and Tibshirani, 1993, section 10.2).
    """
    found = percentiles(resampled, level)
    if not weighted(metric).biased:
        return found
    value = np.append(values, row_means(values[None]))
    ends = ((*found.high, found.macro_high), (*found.low, found.macro_low))
    low, high = (np.maximum(0, 2 * value - np.array(end)) for end in ends)
    return Interval(low[:-1], high[:-1], float(low[-1]), float(high[-1]))


def difference(resampled: Floats, level: float) -> Difference:
    """Interval and p-values of the differences (B, K) of B resamples."""
    return Difference(
        *percentiles(resampled, level), _p_values(resampled), float(_p_values(row_means(resampled)[:, None])[0])
    )


def _p_values(resampled: Floats) -> Floats:
    """Two-sided p-value of "no difference" from each column of (B, K), which may hold NaN: (K,)."""
    count = (~np.isnan(resampled)).sum(axis=0)
    below, above = (resampled <= _ROUNDING).sum(axis=0), (resampled >= -_ROUNDING).sum(axis=0)
    return np.where(count > 0, np.minimum(1, 2 * (np.minimum(below, above) + 1) / (count + 1)), np.nan)


def row_means(values: Floats) -> Floats:
    """Mean of the values in each row of (B, K) that are not NaN; NaN for rows with only NaN."""
    count = (~np.isnan(values)).sum(axis=1)
    return np.where(count > 0, np.nansum(values, axis=1) / np.maximum(count, 1), np.nan)
