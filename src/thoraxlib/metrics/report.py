"""The table of a test: scores of every label with their intervals, beside published scores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from thoraxlib.metrics.intervals import bootstrap
from thoraxlib.metrics.scores import checked_with_labels, per_label
from thoraxlib.utils.text_tables import Table, aligned, decimals, span

_METRICS = ("auroc", "average_precision")


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
class Report(Table):
    """Scores of a test, label by label; ``str(report)`` is an aligned table.

    Attributes
    ----------
    rows : tuple of Row
        One for each label.
    mean : Row
        Means over the labels that have both classes; its reference is the mean over the same labels, or None if one of
        them has none.
    level : float
        Coverage of the intervals.
    """

    rows: tuple[Row, ...]
    mean: Row
    level: float
    _name = "metrics"

    @property
    def macro_auroc(self) -> float:
        """Mean AUROC over the labels that have both classes."""
        return self.mean.auroc

    @property
    def macro_average_precision(self) -> float:
        """Mean average precision over the labels that have both classes."""
        return self.mean.average_precision

    def _cells(self) -> list[list[str]]:
        with_reference = any(row.reference is not None for row in self.rows)
        percent = f"{100 * self.level:g} %"
        heading = ["finding", "images", "positive", "AUROC", percent, "AP", percent]
        cells = [heading + ["published"] * with_reference]
        for row in (*self.rows, self.mean):
            line = [row.label, str(row.images), str(row.positives)]
            line += [decimals(row.auroc), span(row.auroc_low, row.auroc_high)]
            line += [decimals(row.average_precision), span(row.average_precision_low, row.average_precision_high)]
            line += ["" if row.reference is None else f"{row.reference:.4f}"] * with_reference
            cells.append(line)
        return cells

    def _records(self) -> Iterator[Sequence[Any]]:
        """Rows in full precision."""
        return chain([(*Row._fields[:-1], "published")], self.rows, [self.mean])

    def __str__(self) -> str:
        lines = aligned(self._cells())
        rule = "-" * len(lines[0])
        return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])


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
) -> Report:
    """AUROC and average precision of each label, with bootstrap intervals, beside published values.

    Parameters
    ----------
    targets, scores : array_like
        (N, K); see :mod:`thoraxlib.metrics`.
    labels : sequence of str
        The K labels.
    n_bootstrap, level, seed, patient_ids
        See :func:`bootstrap`.
    reference : mapping of str to float, optional
        Published AUROC of each label; labels without one have an empty cell.

    Raises
    ------
    ValueError
        See :func:`auroc`.
    """
    y, s = checked_with_labels(targets, scores, labels, stacklevel=2)
    options: dict[str, Any] = {"n_bootstrap": n_bootstrap, "level": level, "seed": seed, "patient_ids": patient_ids}
    areas, precisions = (per_label(y, s, metric) for metric in _METRICS)
    of_area, of_precision = (bootstrap(y, s, metric=metric, **options) for metric in _METRICS)
    counts = (~np.isnan(y)).sum(axis=0), (y == 1).sum(axis=0)
    columns = (*counts, areas, of_area.low, of_area.high, precisions, of_precision.low, of_precision.high)
    reference = reference or {}
    rows = tuple(
        Row._make([label, *values, reference.get(label)])
        for label, *values in zip(labels, *(column.tolist() for column in columns), strict=True)
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
    return Report(rows, mean, level)
