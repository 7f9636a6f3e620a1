"""Scores of multi-label classification with unknown labels, their intervals, and the table of a test.

Targets are (N, K): 1, 0, or NaN for unknown; scores are (N, K), probabilities or logits. Both may be tensors or
arrays. Scores come from scikit-learn; a label without both classes has the score NaN, is left out of the mean, and is
named in a warning. Curves (:mod:`thoraxlib.curves`) are at hand here too; the scores of organ masks are in
:mod:`thoraxlib.segmentation`.
"""

from __future__ import annotations

import csv
import io
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from thoraxlib.arrays import Floats, array, check_names, checked, scorable
from thoraxlib.curves import (
    CHEXPERT_RADIOLOGISTS,
    Curve,
    macro_roc,
    micro_roc,
    precision_recall_curves,
    radiologists_under_curve,
    roc_curves,
)
from thoraxlib.files import replacing
from thoraxlib.text_tables import aligned, decimals, markdown, write

__all__ = [
    "CHEXPERT_RADIOLOGISTS",
    "JF_RULES",
    "Averages",
    "Curve",
    "Interval",
    "Report",
    "Row",
    "aggregate",
    "auroc",
    "average_precision",
    "best_thresholds",
    "bootstrap",
    "bootstrap_difference",
    "confusion",
    "evaluate",
    "macro_roc",
    "micro_roc",
    "multilabel_report",
    "precision_recall_curves",
    "radiologists_under_curve",
    "roc_curves",
]


def auroc(targets: ArrayLike, scores: ArrayLike, labels: Sequence[str] | None = None) -> Floats:
    """Area under the ROC curve of each label: float64 (K,).

    Parameters
    ----------
    targets, scores : array_like
        (N, K); see the module.
    labels : sequence of str, optional
        Names for the warning.

    Raises
    ------
    ValueError
        Shapes that differ, targets other than 0, 1 and NaN, scores that are NaN or infinite, or labels that are not K.

    Warns
    -----
    UserWarning
        Labels without both classes.

    Examples
    --------
    >>> auroc([[0, 1], [1, 0], [1, float("nan")]], [[0.2, 0.3], [0.4, 0.6], [0.1, 0.9]])
    array([0.5, 0. ])
    """
    from sklearn.metrics import roc_auc_score

    return _each(targets, scores, labels, roc_auc_score)


def average_precision(targets: ArrayLike, scores: ArrayLike, labels: Sequence[str] | None = None) -> Floats:
    """Average precision (area under the precision-recall curve) of each label: float64 (K,); see :func:`auroc`."""
    from sklearn.metrics import average_precision_score

    return _each(targets, scores, labels, average_precision_score)


def _each(targets: ArrayLike, scores: ArrayLike, labels: Sequence[str] | None, score: Callable[..., Any]) -> Floats:
    y, s = checked(targets, scores)
    check_names(labels, y)
    known = ~np.isnan(y)
    values = np.full(y.shape[1], np.nan)
    for k in scorable(y, labels, stacklevel=3):
        values[k] = score(y[known[:, k], k], s[known[:, k], k])
    return values


# -- intervals -----------------------------------------------------------------------------------------------------


class Interval(NamedTuple):
    """Percentile intervals of a bootstrap: of each label, float64 (K,), and of their mean."""

    low: Floats
    high: Floats
    macro_low: float
    macro_high: float


def bootstrap(
    targets: ArrayLike,
    scores: ArrayLike,
    *,
    metric: str = "auroc",
    n: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    patient_ids: Sequence[str] | None = None,
) -> Interval:
    """Percentile bootstrap of a score (Efron and Tibshirani, 1993, chapter 13).

    Parameters
    ----------
    targets, scores : array_like
        (N, K); see the module.
    metric : {"auroc", "average_precision"}
        The score.
    n : int
        Resamples.
    level : float
        Coverage, between 0 and 1.
    seed : int
        Of the resampling.
    patient_ids : sequence of str, optional
        Patient of each image: patients are resampled with all their images, instead of images. Use it where patients
        have several, or the intervals come out too narrow.

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
    return percentiles(_resampled(y, s, metric, n, level, seed, patient_ids), level)


def bootstrap_difference(
    targets: ArrayLike,
    scores: ArrayLike,
    others: ArrayLike,
    *,
    metric: str = "auroc",
    n: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    patient_ids: Sequence[str] | None = None,
) -> Interval:
    """Percentile bootstrap of how much better `scores` are than `others`, both on the same resamples.

    Narrower than what two intervals of :func:`bootstrap` suggest, as both are scores of the same films.

    Parameters
    ----------
    targets, scores, others : array_like
        (N, K); see the module.
    metric, n, level, seed, patient_ids
        See :func:`bootstrap`.

    Returns
    -------
    Interval
        Of the differences, label by label and of their mean.

    Raises
    ------
    ValueError
        As :func:`bootstrap`.
    """
    (y, s), (_, o) = checked(targets, scores), checked(targets, others)
    ours, theirs = (_resampled(y, each, metric, n, level, seed, patient_ids) for each in (s, o))
    return percentiles(ours - theirs, level)


def _resampled(
    y: Floats, s: Floats, metric: str, n: int, level: float, seed: int, patient_ids: Sequence[str] | None
) -> Floats:
    """The score of each of n resamples, (n, K); the same resamples for the same seed and patients."""
    if metric not in _WEIGHTED:
        raise ValueError(f"metric={metric!r}: allowed are {', '.join(map(repr, _WEIGHTED))}")
    values = []
    for weights in resampled_weights(len(y), n=n, level=level, seed=seed, patient_ids=patient_ids):
        columns = [_WEIGHTED[metric](y[:, k], s[:, k], weights) for k in range(y.shape[1])]
        values.append(np.stack(columns, axis=1))
    return np.concatenate(values)


def resampled_weights(
    images: int, *, n: int, level: float, seed: int, patient_ids: Sequence[str] | None
) -> Iterator[Floats]:
    """How often each image is in each of n resamples of the patients, or without them of the images: parts of (n, N).

    Parameters and errors: see :func:`bootstrap`.
    """
    if n < 1 or not 0 < level < 1:
        raise ValueError(f"n={n}, level={level}: at least 1 resample, and a level between 0 and 1")
    groups = np.arange(images) if patient_ids is None else np.unique(np.asarray(patient_ids), return_inverse=True)[1]
    if len(groups) != images:
        raise ValueError(f"patient_ids has {len(groups)} entries, targets have {images} rows")
    rng = np.random.default_rng(seed)
    count = int(groups.max()) + 1
    chunk = max(1, 4_000_000 // images)
    for start in range(0, n, chunk):
        drawn = rng.multinomial(count, np.full(count, 1 / count), size=min(chunk, n - start))
        yield drawn[:, groups].astype(np.float64)


def percentiles(resampled: Floats, level: float) -> Interval:
    """The interval of scores (n, K)."""
    ends = ((1 - level) / 2, (1 + level) / 2)
    scored = ~np.isnan(resampled).all(axis=0)
    low, high = np.full((2, resampled.shape[1]), np.nan)
    macro = (np.nan, np.nan)
    if scored.any():
        low[scored], high[scored] = np.nanquantile(resampled[:, scored], ends, axis=0)
        macro = tuple(np.nanquantile(_row_means(resampled[:, scored]), ends).tolist())
    return Interval(low, high, *macro)


def _row_means(values: Floats) -> Floats:
    """Mean of what is not NaN in each row; NaN for a row of nothing else."""
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
    found, false = np.cumsum(positive, axis=1), np.cumsum(negative, axis=1)
    total = found[:, -1]
    precision = found / np.maximum(found + false, 1e-12)
    value = (precision * positive).sum(axis=1) / np.maximum(total, 1e-12)
    return np.where((total > 0) & (false[:, -1] > 0), value, np.nan)


def _by_score(y: Floats, s: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Weight of positives and negatives at each distinct score, ascending: two (B, G)."""
    known = ~np.isnan(y)
    order = np.flatnonzero(known)[np.argsort(s[known], kind="stable")]
    if not len(order):
        return np.zeros((len(weights), 1)), np.zeros((len(weights), 1))
    starts = np.flatnonzero(np.diff(s[order], prepend=-np.inf))
    sorted_weights = weights[:, order]
    positive = sorted_weights * y[order]
    return tuple(np.add.reduceat(part, starts, axis=1) for part in (positive, sorted_weights - positive))  # type: ignore[return-value]


_WEIGHTED: dict[str, Callable[[Floats, Floats, Floats], Floats]] = {
    "auroc": _weighted_auroc,
    "average_precision": _weighted_average_precision,
}


# -- the table of a test -------------------------------------------------------------------------------------------


class Row(NamedTuple):
    """One label of a :class:`Report`: counts of known images, scores with intervals, a reference AUROC or None."""

    label: str
    images: int
    positives: int
    auroc: float
    auroc_low: float
    auroc_high: float
    average_precision: float
    average_precision_low: float
    average_precision_high: float
    reference: float | None


@dataclass(frozen=True)
class Report:
    """Scores of a test, label by label; ``str(report)`` is an aligned table.

    Attributes
    ----------
    rows : tuple of Row
        One for each label.
    mean : Row
        Means over the labels that have both classes; its reference is the mean over the same labels, where all of them
        have one.
    level : float
        Coverage of the intervals.
    reference_name : str
        Heading of the reference column.
    """

    rows: tuple[Row, ...]
    mean: Row
    level: float
    reference_name: str = "published"

    @property
    def macro_auroc(self) -> float:
        """Mean AUROC over the labels that have both classes."""
        return self.mean.auroc

    @property
    def macro_average_precision(self) -> float:
        """Mean average precision over the labels that have both classes."""
        return self.mean.average_precision

    def __str__(self) -> str:
        return self.to_text()

    def _cells(self) -> list[list[str]]:
        with_reference = any(row.reference is not None for row in self.rows)
        percent = f"{100 * self.level:g} %"
        heading = ["finding", "images", "positive", "AUROC", percent, "AP", percent]
        cells = [heading + [self.reference_name] * with_reference]
        for row in (*self.rows, self.mean):
            line = [row.label, str(row.images), str(row.positives)]
            line += [decimals(row.auroc), f"{decimals(row.auroc_low)} - {decimals(row.auroc_high)}"]
            line += [decimals(row.average_precision)]
            line += [f"{decimals(row.average_precision_low)} - {decimals(row.average_precision_high)}"]
            line += ["" if row.reference is None else f"{row.reference:.4f}"] * with_reference
            cells.append(line)
        return cells

    def to_text(self) -> str:
        """An aligned table."""
        lines = aligned(self._cells())
        rule = "-" * len(lines[0])
        return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])

    def to_markdown(self) -> str:
        """A Markdown table."""
        return markdown(self._cells())

    def to_csv(self, path: str | os.PathLike[str] | None = None) -> str:
        """CSV with full precision, also written to `path` if one is given; NaN is empty."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([*Row._fields[:-1], self.reference_name])
        for row in (*self.rows, self.mean):
            writer.writerow(["" if value is None or value != value else value for value in row])
        if path is not None:
            with replacing(path) as scratch:
                scratch.write_text(text.getvalue(), encoding="utf-8")
        return text.getvalue()

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write ``metrics.csv``, ``metrics.md`` and ``metrics.txt`` into `folder`, which is made if need be."""
        write(folder, {"metrics.csv": self.to_csv(), "metrics.md": self.to_markdown(), "metrics.txt": f"{self}\n"})


def evaluate(
    targets: ArrayLike,
    scores: ArrayLike,
    labels: Sequence[str],
    *,
    n_bootstrap: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    patient_ids: Sequence[str] | None = None,
    reference: Mapping[str, float] | None = None,
    reference_name: str = "published",
) -> Report:
    """AUROC and average precision of each label, with bootstrap intervals, beside published values.

    Parameters
    ----------
    targets, scores : array_like
        (N, K); see the module.
    labels : sequence of str
        The K labels.
    n_bootstrap, level, seed, patient_ids
        See :func:`bootstrap`.
    reference : mapping of str to float, optional
        AUROC of each label elsewhere; labels without one have an empty cell.
    reference_name : str
        Heading of that column.

    Raises
    ------
    ValueError
        As :func:`auroc`; or labels that are not K.
    """
    y, s = checked(targets, scores)
    check_names(labels, y)
    options: dict[str, Any] = {"n": n_bootstrap, "level": level, "seed": seed, "patient_ids": patient_ids}
    areas = auroc(y, s, labels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # said once already
        precisions = average_precision(y, s)
    of_area, of_precision = (bootstrap(y, s, metric=metric, **options) for metric in _WEIGHTED)
    known, ones = (~np.isnan(y)).sum(axis=0), np.nansum(y, axis=0)
    reference = reference or {}
    rows = tuple(
        Row(
            label,
            int(known[k]),
            int(ones[k]),
            float(areas[k]),
            float(of_area.low[k]),
            float(of_area.high[k]),
            float(precisions[k]),
            float(of_precision.low[k]),
            float(of_precision.high[k]),
            reference.get(label),
        )
        for k, label in enumerate(labels)
    )
    scored = [row for row in rows if not np.isnan(row.auroc)]
    references = [row.reference for row in scored if row.reference is not None]
    mean = Row(
        "mean",
        len(y),
        int(sum(row.positives for row in rows)),
        float(np.mean([row.auroc for row in scored])) if scored else np.nan,
        of_area.macro_low,
        of_area.macro_high,
        float(np.mean([row.average_precision for row in scored])) if scored else np.nan,
        of_precision.macro_low,
        of_precision.macro_high,
        float(np.mean(references)) if scored and len(references) == len(scored) else None,
    )
    return Report(rows, mean, level, reference_name)


# -- thresholds ----------------------------------------------------------------------------------------------------


def best_thresholds(targets: ArrayLike, scores: ArrayLike, criterion: str = "f1") -> Floats:
    """Threshold of each label for ``score >= threshold``: float64 (K,).

    By `criterion`, that with the highest F1 ("f1"), the highest Youden's J ("youden"), or where sensitivity and
    specificity are closest ("equal", as alinstein/X_RAY). Choose it on validation data, never on the test. A label
    without both classes has NaN.

    Raises
    ------
    ValueError
        As :func:`auroc`; or an unknown `criterion`.
    """
    from sklearn.metrics import precision_recall_curve, roc_curve

    if criterion not in ("f1", "youden", "equal"):
        raise ValueError(f"criterion={criterion!r}: allowed are 'f1', 'youden', 'equal'")
    y, s = checked(targets, scores)
    best = np.full(y.shape[1], np.nan)
    for k in range(y.shape[1]):
        known = ~np.isnan(y[:, k])
        truth, score = y[known, k], s[known, k]
        if len(np.unique(truth)) < 2:
            continue
        if criterion == "f1":
            precision, recall, thresholds = precision_recall_curve(truth, score)
            value = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
            best[k] = thresholds[value[:-1].argmax()]
        else:
            false, true, thresholds = roc_curve(truth, score)
            value = true - false if criterion == "youden" else -np.abs(true + false - 1)
            best[k] = thresholds[1:][value[1:].argmax()]
    return best


def confusion(targets: ArrayLike, scores: ArrayLike, thresholds: ArrayLike = 0.5) -> dict[str, Floats]:
    """Sensitivity, specificity, precision, F1 and accuracy of each label at ``score >= threshold``: float64 (K,) each.

    1 - accuracy is the label's Hamming loss.

    Parameters
    ----------
    targets, scores : array_like
        (N, K); see the module.
    thresholds : float or array_like
        One, or K.

    Returns
    -------
    dict
        ``"sensitivity"``, ``"specificity"``, ``"precision"``, ``"f1"``, ``"accuracy"``; NaN where the denominator is 0.

    Raises
    ------
    ValueError
        As :func:`auroc`; or thresholds that are not one number or K.
    """
    y, s = checked(targets, scores)
    called = s >= _limits(thresholds, y.shape[1])
    tp, fp = (called & (y == 1)).sum(axis=0), (called & (y == 0)).sum(axis=0)
    fn, tn = (~called & (y == 1)).sum(axis=0), (~called & (y == 0)).sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return {
            "sensitivity": tp / (tp + fn),
            "specificity": tn / (tn + fp),
            "precision": tp / (tp + fp),
            "f1": 2 * tp / (2 * tp + fp + fn),
            "accuracy": (tp + tn) / (tp + fp + fn + tn),
        }


def _limits(thresholds: ArrayLike, labels: int) -> Floats:
    limits = array(thresholds)
    if limits.shape not in ((), (1,), (labels,)):
        raise ValueError(f"thresholds must be one number or {labels}, got shape {limits.shape}")
    return np.broadcast_to(limits, (labels,))


class Averages(NamedTuple):
    """Precision, recall and F1 of one kind of average."""

    precision: float
    recall: float
    f1: float


def multilabel_report(targets: ArrayLike, scores: ArrayLike, thresholds: ArrayLike = 0.5) -> dict[str, Averages]:
    """Precision, recall and F1 at ``score > threshold``, averaged in three ways.

    As jaydurant/ChestX-ray_classification_and_localization prints them, by scikit-learn's definitions: what has the
    denominator 0 counts as 0. Unknown labels take no part.

    Parameters
    ----------
    targets, scores : array_like
        (N, K); see the module.
    thresholds : float or array_like
        One, or K.

    Returns
    -------
    dict
        ``"micro"``: of all labels of all images together; ``"macro"``: means over the labels that are known of any
        image; ``"samples"``: means over the images of which any label is known.

    Raises
    ------
    ValueError
        As :func:`confusion`.

    Examples
    --------
    >>> multilabel_report([[1, 0], [1, 1]], [[0.9, 0.8], [0.7, 0.2]])["samples"]
    Averages(precision=0.75, recall=0.75, f1=0.6666666666666666)
    """
    y, s = checked(targets, scores)
    known = ~np.isnan(y)
    called = known & (s > _limits(thresholds, y.shape[1]))
    hits, positive = called & (y == 1), y == 1
    found = {"micro": _averages(hits.sum(), called.sum(), positive.sum())}
    for name, axis in (("macro", 0), ("samples", 1)):
        told = known.any(axis=axis)
        found[name] = _averages(*(cells.sum(axis=axis)[told] for cells in (hits, called, positive)))
    return found


def _averages(hits: Any, called: Any, positive: Any) -> Averages:
    """Means of precision, recall and F1 of numbers of hits, calls and positives."""
    ratios = ((hits, called), (hits, positive), (2 * hits, called + positive))
    return Averages(
        *(float(np.mean(above / np.maximum(below, 1))) if np.size(below) else np.nan for above, below in ratios)
    )


#: How jfhealthcare/Chexpert joins the films of a study, for the labels of "chexpert5".
JF_RULES = ("min", "max", "mean", "mean", "mean")


def aggregate(values: ArrayLike, groups: Sequence[str], how: str | Sequence[str] = "mean") -> tuple[Floats, list[str]]:
    """Values of films joined to values of studies or patients.

    Parameters
    ----------
    values : array_like
        (N, K): scores, or labels (of which the maximum is usual). NaN where unknown, left out.
    groups : sequence of str
        N: which study, or patient, a film belongs to.
    how : {"mean", "max", "min"} or sequence of them
        One rule, or one for each label, such as :data:`JF_RULES`.

    Returns
    -------
    tuple
        float64 (G, K), NaN where a group has no value; and the G groups, in the order in which they first come.

    Raises
    ------
    ValueError
        Values that are not (N, K) for N groups; an unknown rule, or rules that are not K.

    Examples
    --------
    >>> aggregate([[0.2], [0.6], [0.5]], ["a", "a", "b"], "max")
    (array([[0.6],
           [0.5]]), ['a', 'b'])
    """
    table = array(values)
    if table.ndim != 2 or len(table) != len(groups):
        raise ValueError(f"values must be (N, K) for {len(groups)} groups, got shape {table.shape}")
    rules = [how] * table.shape[1] if isinstance(how, str) else list(how)
    if len(rules) != table.shape[1] or not set(rules) <= {"mean", "max", "min"}:
        raise ValueError(f"how={how!r}: one of 'mean', 'max', 'min', or {table.shape[1]} of them")
    place = {name: number for number, name in enumerate(dict.fromkeys(groups))}
    number = np.array([place[name] for name in groups], dtype=np.intp)
    order = np.argsort(number, kind="stable")
    begin = np.flatnonzero(np.diff(number[order], prepend=-1))
    ufuncs = {"max": np.fmax, "min": np.fmin}
    joined = np.empty((len(place), table.shape[1]))
    for k, rule in enumerate(rules):
        column = table[order, k]
        if rule == "mean":
            known = ~np.isnan(column)
            with np.errstate(invalid="ignore"):
                joined[:, k] = np.add.reduceat(np.where(known, column, 0), begin) / np.add.reduceat(known, begin)
        else:
            joined[:, k] = ufuncs[rule].reduceat(column, begin)
    return joined, list(place)
