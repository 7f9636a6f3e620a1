"""Bootstrap intervals of scores, and of their differences."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from thoraxlib.metrics.scores import checked
from thoraxlib.utils.arguments import one_of
from thoraxlib.utils.arrays import Floats, array

if TYPE_CHECKING:
    from torch import Tensor


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
    metric : {"auroc", "average_precision"}
        The score.
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
        NaN for labels without both classes. Resamples that lack a class of a label do not count for it.

    Raises
    ------
    ValueError
        An argument out of its range.
    """
    y, s = checked(targets, scores)
    return percentiles(_resampled(y, s, metric, n_bootstrap, level, seed, patient_ids), level)


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
) -> Interval:
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
    Interval
        For the difference of each label, and for their mean.

    Raises
    ------
    ValueError
        See :func:`bootstrap`.
    """
    (y, s), (_, o) = checked(targets, scores), checked(targets, others)
    ours, theirs = (_resampled(y, each, metric, n_bootstrap, level, seed, patient_ids) for each in (s, o))
    return percentiles(ours - theirs, level)


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


def _resampled(
    y: Floats, s: Floats, metric: str, n_bootstrap: int, level: float, seed: int, patient_ids: Sequence[str] | None
) -> Floats:
    """Score of each of B resamples, (B, K); the same seed and patients give the same resamples."""
    one_of("metric", metric, WEIGHTED)
    score, labels = WEIGHTED[metric], range(y.shape[1])
    draws = resampled_weights(len(y), n_bootstrap=n_bootstrap, level=level, seed=seed, patient_ids=patient_ids)
    return np.concatenate([np.stack([score(y[:, k], s[:, k], weights) for k in labels], axis=1) for weights in draws])


def resampled_weights(
    images: int, *, n_bootstrap: int, level: float, seed: int, patient_ids: Sequence[str] | None
) -> Iterator[Floats]:
    """Yield counts of each image in resamples of the patients, or without them of the images: (b, N), B rows in all.

    Parameters and errors: see :func:`bootstrap`.
    """
    if n_bootstrap < 1 or not 0 < level < 1:
        raise ValueError(f"n_bootstrap={n_bootstrap}, level={level}: at least 1 resample, and a level between 0 and 1")
    groups = np.arange(images) if patient_ids is None else np.unique(np.asarray(patient_ids), return_inverse=True)[1]
    if len(groups) != images:
        raise ValueError(f"patient_ids has {len(groups)} entries, targets have {images} rows")
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


def row_means(values: Floats) -> Floats:
    """Mean of the values in each row of (B, K) that are not NaN; NaN for rows with only NaN."""
    count = (~np.isnan(values)).sum(axis=1)
    return np.where(count > 0, np.nansum(values, axis=1) / np.maximum(count, 1), np.nan)


def _weighted_auroc(y: Floats, s: Floats, weights: Floats) -> Floats:
    """AUROC of one label under each row of `weights` (B, N): (B,), NaN where a class has no weight."""
    positive, negative = _by_score(y, s, weights)
    below = np.cumsum(negative, axis=1) - negative
    pairs = positive.sum(axis=1) * negative.sum(axis=1)
    wins = (positive * (below + 0.5 * negative)).sum(axis=1)
    return np.where(pairs > 0, wins / np.maximum(pairs, 1e-12), np.nan)


def _weighted_average_precision(y: Floats, s: Floats, weights: Floats) -> Floats:
    """Average precision, in the same form."""
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


#: Functions that score one label under many weightings of the images at once.
WEIGHTED: dict[str, Callable[[Floats, Floats, Floats], Floats]] = {
    "auroc": _weighted_auroc,
    "average_precision": _weighted_average_precision,
}
