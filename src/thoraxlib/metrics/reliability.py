"""Agreement of probabilities with frequencies: reliability curves, calibration error, Brier score, and their table.

Targets are (N, K): 1, 0, or NaN for unknown; probabilities are (N, K), from 0 to 1. A label needs a known target, not
both classes.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from thoraxlib.metrics.intervals import bootstrap, row_means
from thoraxlib.metrics.weighted import BINS, WEIGHTED, bin_numbers, calibration_error, checked_for
from thoraxlib.utils.arrays import Floats
from thoraxlib.utils.text_tables import Table, decimals, span


class Reliability(NamedTuple):
    """Reliability curve of a label: a value for each of the M bins that are not empty.

    `probability` is the mean probability, `frequency` the share of positives (float64), `images` the number of known
    images (int64). `error` is the expected calibration error, with these bins.
    """

    probability: Floats
    frequency: Floats
    images: np.ndarray
    error: float


class BrierParts(NamedTuple):
    """Parts of the Brier score, float64 (K,) each: ``brier = reliability - resolution + uncertainty + within``.

    Mean squares over bins (Murphy 1973): reliability of probability minus frequency (0 is best), resolution of
    frequency minus share of positives (high is good), uncertainty is share * (1 - share), whatever the model. `within`
    is the part of the differences of probabilities in the same bin (Stephenson et al. 2008).
    """

    reliability: Floats
    resolution: Floats
    uncertainty: Floats
    within: Floats


def brier_score(targets: ArrayLike, probabilities: ArrayLike, labels: Sequence[str] | None = None) -> Floats:
    """Mean squared difference of probability and target of each label: float64 (K,); 0 is best.

    Parameters
    ----------
    targets, probabilities : array_like
        (N, K); see the module.
    labels : sequence of str, optional
        Names for the warning.

    Raises
    ------
    ValueError
        Shapes that differ, targets other than 0, 1 and NaN, probabilities outside [0, 1], or labels that are not K.

    Warns
    -----
    UserWarning
        Labels without a known target, which have NaN.

    Examples
    --------
    >>> brier_score([[0], [1], [float("nan")]], [[0.5], [0.9], [0.3]])
    array([0.13])
    """
    return WEIGHTED["brier"].whole(*_checked(targets, probabilities, labels))


def expected_calibration_error(
    targets: ArrayLike,
    probabilities: ArrayLike,
    labels: Sequence[str] | None = None,
    *,
    bins: int = BINS,
    binning: str = "width",
) -> Floats:
    """Mean distance of probability and frequency over bins of each label (Naeini et al. 2015): float64 (K,); 0 is best.

    It is the probability of the positive class that is compared, not that of the more likely class.

    Parameters
    ----------
    targets, probabilities, labels
        See :func:`brier_score`.
    bins : int
        Number of bins.
    binning : {"width", "mass"}
        Bins of equal width, or of about as many images each. Rare findings have most images in the first bin of equal
        width: equal mass then says more.

    Raises
    ------
    ValueError
        See :func:`brier_score`; an argument out of its range.

    Examples
    --------
    >>> expected_calibration_error([[0], [1], [0], [1]], [[0.2], [0.2], [0.9], [0.9]], bins=2)
    array([0.35])
    """
    y, p = _checked(targets, probabilities, labels)
    ones = np.ones((1, len(y)))
    columns = zip(y.T, p.T, strict=True)
    return np.array([calibration_error(*column, ones, bins=bins, binning=binning)[0] for column in columns])


def reliability_curves(
    targets: ArrayLike,
    probabilities: ArrayLike,
    labels: Sequence[str],
    *,
    bins: int = BINS,
    binning: str = "width",
) -> dict[str, Reliability]:
    """Mean probability and share of positives in each bin of each label that has a known target.

    Parameters
    ----------
    targets, probabilities, labels, bins, binning
        See :func:`expected_calibration_error`.

    Raises
    ------
    ValueError
        See :func:`expected_calibration_error`.

    Examples
    --------
    >>> curve = reliability_curves([[0], [1], [0], [1]], [[0.2], [0.2], [0.9], [0.9]], ["Mass"], bins=2)["Mass"]
    >>> curve.probability, curve.frequency, curve.images, round(curve.error, 2)
    (array([0.2, 0.9]), array([0.5, 0.5]), array([2, 2]), 0.35)
    """
    y, p = _checked(targets, probabilities, labels)
    curves = {}
    for label, truth, chance in zip(labels, y.T, p.T, strict=True):
        if (known := ~np.isnan(truth)).any():
            mean, share, images = _binned(truth[known], chance[known], bins, binning)
            error = float(images @ np.abs(mean - share) / images.sum())
            curves[label] = Reliability(mean, share, images, error)
    return curves


def brier_parts(
    targets: ArrayLike,
    probabilities: ArrayLike,
    labels: Sequence[str] | None = None,
    *,
    bins: int = BINS,
    binning: str = "width",
) -> BrierParts:
    """Reliability, resolution and uncertainty of each label's Brier score; see :func:`expected_calibration_error`.

    Examples
    --------
    >>> parts = brier_parts([[0], [1], [0], [1]], [[0.2], [0.2], [0.9], [0.9]])
    >>> [round(float(part[0]), 3) for part in parts]
    [0.125, 0.0, 0.25, 0.0]
    """
    return _parts(*_checked(targets, probabilities, labels), bins, binning)


def _parts(y: Floats, p: Floats, bins: int, binning: str) -> BrierParts:
    parts = np.full((4, y.shape[1]), np.nan)
    for k, (truth, chance) in enumerate(zip(y.T, p.T, strict=True)):
        if (known := ~np.isnan(truth)).any():
            mean, share, images = _binned(truth[known], chance[known], bins, binning)
            weights, overall = images / images.sum(), truth[known].mean()
            reliability, resolution = weights @ (mean - share) ** 2, weights @ (share - overall) ** 2
            uncertainty = overall * (1 - overall)
            brier = np.mean((chance[known] - truth[known]) ** 2)
            parts[:, k] = reliability, resolution, uncertainty, brier - (reliability - resolution + uncertainty)
    return BrierParts(*parts)


class CalibrationRow(NamedTuple):
    """One label of a :class:`CalibrationReport`; `ece_by_chance` is the error expected of a calibrated model."""

    label: str
    images: int
    positives: int
    frequency: float
    mean_probability: float
    brier: float
    brier_low: float
    brier_high: float
    reliability: float
    resolution: float
    uncertainty: float
    ece: float
    ece_low: float
    ece_high: float
    ece_by_chance: float
    ece_mass: float
    ece_mass_low: float
    ece_mass_high: float


@dataclass(frozen=True)
class CalibrationReport(Table):
    """Calibration of a test, label by label; ``str(report)`` is an aligned table.

    Attributes
    ----------
    rows : tuple of CalibrationRow
        One for each label.
    mean : CalibrationRow
        Means over the labels with a known target.
    level : float
        Coverage of the intervals.
    """

    rows: tuple[CalibrationRow, ...]
    mean: CalibrationRow
    level: float
    _name = "calibration"

    def _cells(self) -> list[list[str]]:
        percent = f"{100 * self.level:g} %"
        heading = ["finding", "images", "frequency", "predicted", "Brier", percent, "reliability", "resolution"]
        cells = [[*heading, "ECE", percent, "by chance", "ECE (equal mass)", percent]]
        for row in (*self.rows, self.mean):
            line = [row.label, str(row.images), decimals(row.frequency), decimals(row.mean_probability)]
            line += [decimals(row.brier), span(row.brier_low, row.brier_high)]
            line += [decimals(row.reliability), decimals(row.resolution)]
            line += [decimals(row.ece), span(row.ece_low, row.ece_high), decimals(row.ece_by_chance)]
            cells.append([*line, decimals(row.ece_mass), span(row.ece_mass_low, row.ece_mass_high)])
        return cells

    def _records(self) -> Iterator[Sequence[Any]]:
        """Rows in full precision."""
        return chain([CalibrationRow._fields], self.rows, [self.mean])


def evaluate_calibration(
    targets: ArrayLike,
    probabilities: ArrayLike,
    labels: Sequence[str],
    *,
    n_bootstrap: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    patient_ids: Sequence[str] | None = None,
) -> CalibrationReport:
    """Brier score and expected calibration errors of each label, with bootstrap intervals.

    Chance makes a calibration error larger: that of a calibrated model is about the column `ece_by_chance`, not 0. It
    is the expected absolute error of every bin if each target is 1 with its probability (normal approximation).
    Resamples are larger once more, so the intervals of the errors are reflected at the estimate, and cut at 0. In a
    simulation of miscalibrated logits (60 samples each of 200, 1000 and 5000 images, true errors of .057 and .112, bins
    of equal width) these intervals of 95 % held the true error in 85 to 97 % of the samples, percentile intervals in 3
    to 90 %. For calibrated logits, whose true error is 0, they held it in 40 to 45 % only (percentile intervals:
    never): ask there whether the error is near `ece_by_chance`. The Brier score has percentile intervals.

    Parameters
    ----------
    targets, probabilities, labels
        See :func:`brier_score`.
    n_bootstrap, level, seed, patient_ids
        See :func:`bootstrap`.

    Raises
    ------
    ValueError
        See :func:`brier_score` and :func:`bootstrap`.
    """
    y, p = _checked(targets, probabilities, labels)
    known, positive = ~np.isnan(y), y == 1
    images = known.sum(axis=0)
    columns: dict[str, Floats] = {
        "frequency": row_means(y.T),
        "mean_probability": row_means(np.where(known, p, np.nan).T),
    }
    for metric in ("brier", "ece", "ece_mass"):
        ends = bootstrap(y, p, metric=metric, n_bootstrap=n_bootstrap, level=level, seed=seed, patient_ids=patient_ids)
        values = WEIGHTED[metric].whole(y, p)
        columns[metric] = np.append(values, row_means(values[None]))
        columns[f"{metric}_low"] = np.append(ends.low, ends.macro_low)
        columns[f"{metric}_high"] = np.append(ends.high, ends.macro_high)
    columns |= _parts(y, p, BINS, "width")._asdict()
    columns["ece_by_chance"] = np.array([_by_chance(p[known[:, k], k]) for k in range(y.shape[1])])
    for name, values in columns.items():
        columns[name] = values if len(values) > y.shape[1] else np.append(values, row_means(values[None]))
    counts = zip([*labels, "mean"], [*images, len(y)], [*positive.sum(axis=0), positive.sum()], strict=True)
    rows = tuple(
        CalibrationRow(label, int(count), int(hits), *(float(columns[name][k]) for name in CalibrationRow._fields[3:]))
        for k, (label, count, hits) in enumerate(counts)
    )
    return CalibrationReport(rows[:-1], rows[-1], level)


def _by_chance(p: Floats) -> float:
    """Expected error, with 15 bins of equal width, of targets that are drawn from the probabilities (N,)."""
    if not len(p):
        return np.nan
    variance = np.bincount(bin_numbers(p, BINS, "width"), p * (1 - p))
    return float(np.sqrt(2 / np.pi * variance).sum() / len(p))  # mean of |x| for x from N(0, variance)


def _binned(y: Floats, p: Floats, bins: int, binning: str) -> tuple[Floats, Floats, np.ndarray]:
    """Mean probability, share of positives, and number of images in each bin that is not empty."""
    number = bin_numbers(p, bins, binning)
    images = np.bincount(number, minlength=bins)
    full = images > 0
    mean, share = (np.bincount(number, values, minlength=bins)[full] / images[full] for values in (p, y))
    return mean, share, images[full]


def _checked(targets: ArrayLike, probabilities: ArrayLike, labels: Sequence[str] | None) -> tuple[Floats, Floats]:
    y, p = checked_for("brier", targets, probabilities)
    if labels is not None and len(labels) != y.shape[1]:
        raise ValueError(f"labels has {len(labels)} names, targets have {y.shape[1]} columns")
    empty = np.flatnonzero(np.isnan(y).all(axis=0))
    if len(empty):
        names = ", ".join(str(k) if labels is None else labels[k] for k in empty.tolist())
        warnings.warn(f"no score for labels without a known target: {names}", stacklevel=3)
    return y, p
