"""Scores of subgroups of the images (sex, age, view, site), and the gaps between them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from thoraxlib.metrics.intervals import interval, percentiles, resampled_weights, row_means
from thoraxlib.metrics.scores import checked
from thoraxlib.metrics.thresholds import decisions
from thoraxlib.metrics.weighted import checked_for, weighted
from thoraxlib.utils.arrays import Floats
from thoraxlib.utils.text_tables import Table, decimals, span

#: First year of each age band: 0-17, 18-39, 40-64, 65+.
AGE_BANDS = (0, 18, 40, 65)
_UNKNOWN = ("", "None", "nan", "<NA>")  # the last one is pandas'
_MOST = 50  # groups of an attribute; more are numbers without bands, or names of patients


class SubgroupRow(NamedTuple):
    """Score of a label in one group; `note` says why there is none, or how many labels the mean has."""

    attribute: str
    group: str
    label: str
    images: int
    positives: int
    score: float
    low: float
    high: float
    note: str


class Gap(NamedTuple):
    """Largest minus smallest score of a label over the groups of an attribute, and these two groups."""

    attribute: str
    label: str
    largest: str
    smallest: str
    gap: float
    low: float
    high: float


@dataclass(frozen=True)
class Subgroups(Table):
    """Scores of subgroups with their gaps; ``str(subgroups)`` is a table, and ``to_csv`` has all digits.

    Attributes
    ----------
    rows : tuple of SubgroupRow
        By attribute, label ("mean" is the last), and group.
    gaps : tuple of Gap
        By attribute and label, where at least two groups have a score.
    metric : str
        Name of the score.
    level : float
        Coverage of the intervals.
    """

    rows: tuple[SubgroupRow, ...]
    gaps: tuple[Gap, ...]
    metric: str
    level: float
    _name = "subgroups"

    def _lines(self) -> Iterator[SubgroupRow]:
        """Rows of groups, and of gaps after the groups of their label."""
        gaps = {(gap.attribute, gap.label): gap for gap in self.gaps}
        for number, row in enumerate(self.rows):
            yield row
            key, following = (row.attribute, row.label), self.rows[number + 1 : number + 2]
            if key in gaps and not (following and (following[0].attribute, following[0].label) == key):
                gap = gaps[key]
                note = f"{gap.largest} minus {gap.smallest}"
                yield SubgroupRow(row.attribute, "gap", row.label, 0, 0, gap.gap, gap.low, gap.high, note)

    def _cells(self) -> list[list[str]]:
        title = weighted(self.metric).title
        cells = [["attribute", "finding", "group", "images", "positive", title, f"{100 * self.level:g} %", "note"]]
        for row in self._lines():
            counts = ["", ""] if row.group == "gap" else [str(row.images), str(row.positives)]
            values = [decimals(row.score), "" if np.isnan(row.low) else span(row.low, row.high)]
            cells.append([row.attribute, row.label, row.group, *counts, *values, row.note])
        return cells

    def _records(self) -> Iterator[Sequence[Any]]:
        """Rows in full precision."""
        return chain([SubgroupRow._fields], self._lines())


def subgroups(
    targets: ArrayLike,
    scores: ArrayLike,
    groups: Mapping[str, Sequence[Any]],
    labels: Sequence[str],
    *,
    metric: str = "auroc",
    thresholds: ArrayLike | None = None,
    bands: Mapping[str, Sequence[float]] | None = None,
    minimum: int = 10,
    n_bootstrap: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    patient_ids: Sequence[str] | None = None,
) -> Subgroups:
    """Score subgroups of the images, with intervals, and the gaps between the groups of each attribute.

    Parameters
    ----------
    targets, scores : array_like
        (N, K); see :mod:`thoraxlib.metrics`.
    groups : mapping of str to sequence
        By attribute ("sex", "age", "view", "site", ...) the group of each image, N values. None, NaN and "" are
        unknown: these images are left out of the attribute, with a warning.
    labels : sequence of str
        The K labels.
    metric : str
        See :func:`bootstrap`.
    thresholds : float or array_like, optional
        One, or K, for "sensitivity" and "specificity": decisions are ``scores >= thresholds``, see :func:`confusion`.
    bands : mapping of str to sequence of float, optional
        Attributes that are numbers: the first number of each band, ascending; the last one has no end. By default the
        attribute "age" has :data:`AGE_BANDS`. Numbers below the first band are unknown.
    minimum : int
        Known positives, and negatives, of a label that a group needs for a score; known images for the Brier score and
        calibration errors, the class that counts for sensitivity and specificity.
    n_bootstrap, level, seed, patient_ids
        See :func:`bootstrap`. All groups are scored on the same resamples of the whole data set.

    Returns
    -------
    Subgroups
        The mean is over the labels that have a score in every group of the attribute that has any. The gap's two groups
        are chosen on the data; its interval is that of their difference. Among many groups, chance finds two that
        differ: in a simulation without differences (200 samples of 1000 images), intervals of 95 % excluded 0 in 6 % of
        the samples with two groups and in 20 % with four. With G groups, ``level=1 - 0.1 / (G * (G - 1))`` is safe.

    Raises
    ------
    ValueError
        See :func:`bootstrap`; groups that are not N, are more than 50, or are no numbers where there are bands;
        thresholds without a metric that needs them, or none with one.

    Warns
    -----
    UserWarning
        Images whose group is unknown.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> truth, age = (rng.random((400, 1)) < 0.4).astype(float), rng.integers(18, 90, 400)
    >>> found = subgroups(truth, truth + rng.normal(size=(400, 1)), {"age": age}, ["Mass"], n_bootstrap=100)
    >>> [(row.group, row.images, round(row.score, 2)) for row in found.rows if row.label == "Mass"]
    [('18-39', 118, 0.74), ('40-64', 156, 0.79), ('65+', 126, 0.78)]
    """
    if (thresholds is not None) != (weighted(metric).takes == "decisions"):
        raise ValueError(f"metric={metric!r}, thresholds={thresholds!r}: sensitivity and specificity need them, alone")
    if thresholds is None:
        y, s = checked_for(metric, targets, scores)
    else:
        called, y = decisions(*checked(targets, scores), thresholds)
        s = called.astype(np.float64)
    if len(labels) != y.shape[1]:
        raise ValueError(f"labels has {len(labels)} names, targets have {y.shape[1]} columns")
    if not groups:
        raise ValueError("groups is empty: at least one attribute, with the group of each image")
    bands = {"age": AGE_BANDS} if bands is None else bands
    members = [
        (attribute, name, rows)
        for attribute in groups
        for name, rows in _members(attribute, groups[attribute], bands, len(y))
    ]
    cells = [_Cell(attribute, name, rows, y[rows], s[rows], metric, minimum) for attribute, name, rows in members]
    draws = resampled_weights(len(y), n_bootstrap=n_bootstrap, level=level, seed=seed, patient_ids=patient_ids)
    drawn = np.concatenate(
        [np.stack([cell.score(weights[:, cell.images]) for cell in cells], axis=1) for weights in draws]
    )  # (B, G, K)
    rows: list[SubgroupRow] = []
    gaps: list[Gap] = []
    for attribute in dict.fromkeys(cell.attribute for cell in cells):
        chosen = [number for number, cell in enumerate(cells) if cell.attribute == attribute]
        of_attribute = _attribute([cells[number] for number in chosen], drawn[:, chosen], labels, metric, level)
        rows += of_attribute[0]
        gaps += of_attribute[1]
    return Subgroups(tuple(rows), tuple(gaps), metric, level)


class _Cell:
    """A group: its images, its targets, unknown for labels with too few, and its scores."""

    def __init__(
        self, attribute: str, name: str, images: np.ndarray, y: Floats, s: Floats, metric: str, minimum: int
    ) -> None:
        self.attribute, self.name, self.images, self.s = attribute, name, images, s
        self.metric = weighted(metric)
        self.positives = (y == 1).sum(axis=0)
        self.known = (~np.isnan(y)).sum(axis=0)
        counts = {"positives": self.positives, "negatives": self.known - self.positives, "images": self.known}
        needed = [("negatives", "positives")[side] for side in self.metric.needs] or ["images"]
        few = [
            [f"{counts[side][k]} {side}" for side in needed if counts[side][k] < max(minimum, 1)]
            for k in range(y.shape[1])
        ]
        self.notes = [f"too few: {', '.join(words)}" if words else "" for words in few]
        self.y = np.where([bool(note) for note in self.notes], np.nan, y)

    def score(self, weights: Floats) -> Floats:
        """Score each label under weights (B, n): (B, K)."""
        columns = zip(self.y.T, self.s.T, strict=True)
        return np.stack([self.metric(*column, weights) for column in columns], axis=1)


def _attribute(
    cells: Sequence[_Cell], drawn: Floats, labels: Sequence[str], metric: str, level: float
) -> tuple[list[SubgroupRow], list[Gap]]:
    """Rows and gaps of the groups of an attribute, from their resampled scores (B, G, K)."""
    values = np.stack([cell.score(np.ones((1, len(cell.images))))[0] for cell in cells])
    scored = ~np.isnan(values)
    shared = scored[scored.any(axis=1)].all(axis=0) if scored.any() else np.zeros(len(labels), bool)
    count = f"{shared.sum()} of {len(labels)} labels" if not shared.all() else ""
    means = np.stack([row_means(drawn[:, number][:, shared]) for number in range(len(cells))], axis=1)
    drawn = np.concatenate([drawn, means[:, :, None]], axis=2)
    values = np.concatenate([values, row_means(values[:, shared])[:, None]], axis=1)
    ends = interval(drawn.reshape(len(drawn), -1), level, metric, values.ravel())
    low, high = ends.low.reshape(values.shape), ends.high.reshape(values.shape)
    rows, gaps = [], []
    for k, label in enumerate([*labels, "mean"]):
        for number, cell in enumerate(cells):
            mean = k == len(labels)
            images, positives = (len(cell.images), cell.positives.sum()) if mean else (cell.known[k], cell.positives[k])
            ends_here = float(values[number, k]), float(low[number, k]), float(high[number, k])
            note = cell.notes[k] if not mean else count if scored[number].any() else "no label has enough"
            rows.append(SubgroupRow(cell.attribute, cell.name, label, int(images), int(positives), *ends_here, note))
        ascending = np.argsort(values[:, k])[: (~np.isnan(values[:, k])).sum()].tolist()
        if len(ascending) > 1:
            smallest, *_, largest = ascending
            between = percentiles((drawn[:, largest, k] - drawn[:, smallest, k])[:, None], level)
            gap = float(values[largest, k] - values[smallest, k])
            pair = cells[largest].name, cells[smallest].name
            gaps.append(Gap(cells[0].attribute, label, *pair, gap, float(between.low[0]), float(between.high[0])))
    return rows, gaps


def _members(
    attribute: str, values: Sequence[Any], bands: Mapping[str, Sequence[float]], images: int
) -> list[tuple[str, np.ndarray]]:
    """Name and images of each group: bands in their order, other groups by name."""
    if len(values) != images:
        raise ValueError(f"groups[{attribute!r}] has {len(values)} values, targets have {images} rows")
    plain = [None if str(value) in _UNKNOWN else value for value in np.asarray(values, object)]
    if attribute in bands:
        names, number = _banded(attribute, plain, bands[attribute])
    else:
        names = sorted({str(value) for value in plain if value is not None})
        position = {name: place for place, name in enumerate(names)}
        number = np.array([-1 if value is None else position[str(value)] for value in plain])
    if len(names) > _MOST:
        raise ValueError(f"groups[{attribute!r}] has {len(names)} groups, at most {_MOST}; numbers need bands")
    if (number < 0).all():
        raise ValueError(f"groups[{attribute!r}] has no known value")
    if unknown := int((number < 0).sum()):
        warnings.warn(f"{attribute} of {unknown} images is unknown: they are in none of its groups", stacklevel=4)
    found = ((name, np.flatnonzero(number == place)) for place, name in enumerate(names))
    return [(name, rows) for name, rows in found if len(rows)]


def _banded(attribute: str, values: Sequence[Any], starts: Sequence[float]) -> tuple[list[str], np.ndarray]:
    """Names of the bands, and the band of each number; -1 for unknown."""
    edges = np.asarray(starts, np.float64)
    if edges.ndim != 1 or not len(edges) or not np.isfinite(edges).all() or (np.diff(edges) <= 0).any():
        raise ValueError(f"bands[{attribute!r}]={list(starts)}: the first numbers of the bands, ascending")
    try:
        numbers = np.array([np.nan if value is None else float(value) for value in values])
    except (TypeError, ValueError) as error:
        raise ValueError(f"groups[{attribute!r}] must be numbers, as it has bands: {error}") from error
    whole = (edges == edges.round()).all()
    ends = [f"{start:g}-{end - 1:g}" if whole else f"{start:g} to {end:g}" for start, end in pairwise(edges)]
    number = np.searchsorted(edges, numbers, side="right") - 1
    return [*ends, f"{edges[-1]:g}+"], np.where(np.isnan(numbers), -1, number)
