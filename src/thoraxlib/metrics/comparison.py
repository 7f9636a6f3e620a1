"""Comparison of models on the same images: paired bootstrap, DeLong's test, and a table of several models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from thoraxlib.metrics.intervals import difference, interval, patient_numbers, resampled_scores, row_means
from thoraxlib.metrics.scores import checked, checked_with_labels, known_columns
from thoraxlib.metrics.weighted import checked_for, weighted
from thoraxlib.utils.arguments import one_of
from thoraxlib.utils.arrays import Floats
from thoraxlib.utils.text_tables import Table, decimals, span

_ROUNDING = 1e-14  # a variance or difference of 0, summed in another order


class DeLong(NamedTuple):
    """DeLong's test of paired AUROCs, float64 (K,) each, but `auroc` (K, 2) and their `covariance` (K, 2, 2)."""

    auroc: Floats
    covariance: Floats
    difference: Floats
    standard_error: Floats
    z: Floats
    p_value: Floats


def delong(
    targets: ArrayLike, scores: ArrayLike, others: ArrayLike, *, patient_ids: Sequence[str] | None = None
) -> DeLong:
    """Test whether two models have the same AUROC, label by label (DeLong et al. 1988), two-sided.

    The components come from midranks, in O(N log N) (Sun and Xu 2014). With `patient_ids` they are summed by patient
    (Obuchowski 1997), since several images of a patient are not independent. The normal approximation needs some tens
    of positives. In a simulation of equal models (200 samples of 300 patients with three similar images each), p was
    below .05 in 4.5 % of the samples with `patient_ids`, in 28.5 % without.

    Parameters
    ----------
    targets, scores, others : array_like
        (N, K); see :mod:`thoraxlib.metrics`.
    patient_ids : sequence of str, optional
        Patient of each image. Without it, every image counts as a patient.

    Returns
    -------
    DeLong
        The difference is that of `scores` minus `others`. NaN for labels with fewer than two patients with positives,
        or with negatives. If the standard error is 0, z and p-value are 0 and 1 for equal areas, else NaN: the test has
        no answer for two perfect orders.

    Raises
    ------
    ValueError
        See :func:`auroc`; `patient_ids` that are not N.

    Examples
    --------
    >>> found = delong([[1], [1], [0], [0]], [[3.0], [1.0], [2.0], [0.0]], [[3.0], [2.0], [1.0], [0.0]])
    >>> found.auroc, found.standard_error.round(4), found.p_value.round(4)
    (array([[0.75, 1.  ]]), array([0.3536]), array([0.4795]))
    """
    from scipy.stats import norm

    (y, s), (_, o) = checked(targets, scores), checked(targets, others)
    patients = patient_numbers(len(y), patient_ids)
    labels = y.shape[1]
    auroc, covariance = np.full((labels, 2), np.nan), np.full((labels, 2, 2), np.nan)
    for k, truth, _ in known_columns(y, s):
        known = ~np.isnan(y[:, k])
        pair = np.stack([s[known, k], o[known, k]])
        auroc[k], covariance[k] = _areas(truth == 1, pair, patients[known])
    change = auroc[:, 0] - auroc[:, 1]
    variance = covariance[:, 0, 0] + covariance[:, 1, 1] - 2 * covariance[:, 0, 1]
    error = np.sqrt(np.where(variance < _ROUNDING, 0, variance))
    with np.errstate(invalid="ignore", divide="ignore"):
        z = np.where(error > 0, change / error, np.where((error == 0) & (np.abs(change) < _ROUNDING), 0, np.nan))
    return DeLong(auroc, covariance, change, error, z, 2 * norm.sf(np.abs(z)))


def _areas(positive: np.ndarray, scores: Floats, patients: np.ndarray) -> tuple[Floats, Floats]:
    """AUROCs (2,) of scores (2, N), and their covariance (2, 2), with the images of a patient as a cluster."""
    from scipy.stats import rankdata

    hits, misses = int(positive.sum()), int((~positive).sum())
    rank = rankdata(scores, axis=1)
    # share of negatives below each positive, and of positives above each negative; half for equal scores
    above = (rank[:, positive] - rankdata(scores[:, positive], axis=1)) / misses
    below = 1 - (rank[:, ~positive] - rankdata(scores[:, ~positive], axis=1)) / hits
    area = above.mean(axis=1)
    sums = np.zeros((2, 2, patients.max() + 1))  # class, model, patient
    for model in range(2):
        sums[0, model] = np.bincount(patients[positive], above[model] - area[model], minlength=sums.shape[2])
        sums[1, model] = np.bincount(patients[~positive], below[model] - area[model], minlength=sums.shape[2])
    with_hits, with_misses, all_of_them = (len(np.unique(patients[side])) for side in (positive, ~positive, ...))
    if with_hits < 2 or with_misses < 2:
        return area, np.full((2, 2), np.nan)
    of_hits = with_hits / (with_hits - 1) * sums[0] @ sums[0].T / hits**2
    of_misses = with_misses / (with_misses - 1) * sums[1] @ sums[1].T / misses**2
    mixed = all_of_them / (all_of_them - 1) * sums[0] @ sums[1].T / (hits * misses)
    return area, of_hits + of_misses + mixed + mixed.T


def holm(p_values: ArrayLike) -> Floats:
    """Adjust p-values (K,) for their number (Holm 1979): the chance of any false "difference" stays below the level.

    Examples
    --------
    >>> holm([0.01, 0.04, float("nan"), 0.03])
    array([0.03, 0.06,  nan, 0.06])
    """
    p = np.asarray(p_values, np.float64)
    adjusted, order = np.full(p.shape, np.nan), np.argsort(p)[: int((~np.isnan(p)).sum())]
    steps = p[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(steps))
    return adjusted


class ComparisonRow(NamedTuple):
    """One model and label of a :class:`Comparison`; the first model has NaN from `difference` on."""

    label: str
    model: str
    score: float
    low: float
    high: float
    difference: float
    difference_low: float
    difference_high: float
    p_bootstrap: float
    p_delong: float


@dataclass(frozen=True)
class Comparison(Table):
    """Scores of several models, label by label, and their differences from the first; ``str(comparison)`` is a table.

    Attributes
    ----------
    rows : tuple of ComparisonRow
        Every model of the first label, of the next ones, and of "mean".
    metric : str
        Name of the score.
    level : float
        Coverage of the intervals.
    corrected : bool
        p-values of labels are Holm's, over the labels of a model; those of the mean are not.
    """

    rows: tuple[ComparisonRow, ...]
    metric: str
    level: float
    corrected: bool
    _name = "comparison"

    def _cells(self) -> list[list[str]]:
        percent, holm = f"{100 * self.level:g} %", ", Holm" * self.corrected
        title, with_delong = weighted(self.metric).title, self.metric == "auroc"
        heading = ["finding", "model", title, percent, "difference", percent, f"p (bootstrap{holm})"]
        cells = [heading + [f"p (DeLong{holm})"] * with_delong]
        for row in self.rows:
            line = [row.label, row.model, decimals(row.score), span(row.low, row.high)]
            first = row.model == self.rows[0].model
            change = "-" if np.isnan(row.difference) else f"{row.difference:+.4f}"
            line += (
                ["", "", ""] if first else [change, span(row.difference_low, row.difference_high), _p(row.p_bootstrap)]
            )
            cells.append(line + ["" if first else _p(row.p_delong)] * with_delong)
        return cells

    def _records(self) -> Iterator[Sequence[Any]]:
        """Rows in full precision."""
        return chain([ComparisonRow._fields], self.rows)


def _p(value: float) -> str:
    return "< 0.0001" if value < 0.0001 else decimals(value)


def compare(
    targets: ArrayLike,
    models: Mapping[str, ArrayLike],
    labels: Sequence[str],
    *,
    metric: str = "auroc",
    correction: str | None = None,
    n_bootstrap: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    patient_ids: Sequence[str] | None = None,
) -> Comparison:
    """Score several models on the same images, and test their differences from the first one.

    Parameters
    ----------
    targets : array_like
        (N, K): 1, 0, or NaN for unknown.
    models : mapping of str to array_like
        Scores (N, K) of each model, by its name. The first one is the baseline.
    labels : sequence of str
        The K labels.
    metric : str
        See :func:`bootstrap`.
    correction : {None, "holm"}
        Correct the p-values of each model for the number of labels, see :func:`holm`.
    n_bootstrap, level, seed, patient_ids
        See :func:`bootstrap`. All models are scored on the same resamples. The smallest p-value is
        2 / (n_bootstrap + 1): take 10000 resamples for small ones, or to correct many labels.

    Returns
    -------
    Comparison
        For AUROC also with the p-value of :func:`delong`; there is none for the mean.

    Raises
    ------
    ValueError
        Fewer than two models; see :func:`bootstrap`.

    Warns
    -----
    UserWarning
        See :func:`auroc`.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> truth = (rng.random((200, 1)) < 0.3).astype(float)
    >>> noise = rng.normal(size=(200, 1))
    >>> found = compare(truth, {"small": truth + 2 * noise, "large": 3 * truth + 2 * noise}, ["Mass"], n_bootstrap=200)
    >>> [(row.label, row.model, round(row.score, 2), round(row.difference, 2)) for row in found.rows[:2]]
    [('Mass', 'small', 0.68, nan), ('Mass', 'large', 0.89, 0.21)]
    """
    one_of("correction", correction, (None, "holm"))
    if len(models) < 2:
        raise ValueError(f"models={list(models)}: at least two, to be compared")
    score, sides = weighted(metric), []
    for name, scores in models.items():
        try:
            y, side = checked_for(metric, targets, scores)
        except ValueError as error:
            raise ValueError(f"model {name!r}: {error}") from error
        sides.append(side)
        if score.needs:
            checked_with_labels(targets, scores, labels, stacklevel=2)
    if len(labels) != y.shape[1]:
        raise ValueError(f"labels has {len(labels)} names, targets have {y.shape[1]} columns")
    draws = resampled_scores(y, sides, metric, n_bootstrap=n_bootstrap, level=level, seed=seed, patient_ids=patient_ids)
    rows: list[list[ComparisonRow]] = []
    base = score.whole(y, sides[0])
    for number, (name, side, drawn) in enumerate(zip(models, sides, draws, strict=True)):
        values = score.whole(y, side)
        ends = interval(drawn, level, metric, values)
        columns = [values, ends.low, ends.high, *np.full((5, len(values)), np.nan)]
        mean = [float(row_means(values[None])[0]), ends.macro_low, ends.macro_high, *[np.nan] * 5]
        if number:
            change = difference(drawn - draws[0], level)
            tests = [change.p_value, np.full(len(values), np.nan)]
            if metric == "auroc":
                tests[1] = delong(y, side, sides[0], patient_ids=patient_ids).p_value
            if correction:
                tests = [holm(test) for test in tests]
            columns[3:] = [values - base, change.low, change.high, *tests]
            gain = float(row_means((values - base)[None])[0])
            mean[3:] = [gain, change.macro_low, change.macro_high, change.macro_p_value, np.nan]
        found = [ComparisonRow(label, name, *map(float, row)) for label, *row in zip(labels, *columns, strict=True)]
        rows.append([*found, ComparisonRow("mean", name, *mean)])
    return Comparison(tuple(chain.from_iterable(zip(*rows, strict=True))), metric, level, correction is not None)
