"""Scores of findings in anatomical regions: of every finding in every region, over all regions, and of images.

Targets are (N, R, K): 1, 0, or NaN for unknown or absent; scores are (N, R, K), probabilities or logits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from thoraxlib import labels as label_sets
from thoraxlib.metrics.intervals import row_means
from thoraxlib.metrics.report import Report, evaluate
from thoraxlib.metrics.scores import checked, per_label
from thoraxlib.metrics.studies import image_level
from thoraxlib.utils.arrays import Floats, array
from thoraxlib.utils.text_tables import Table, decimals, span


@dataclass(frozen=True, eq=False)
class RegionScores(Table):
    """Scores of K findings in R regions; ``str(report)`` is a table of the findings.

    Attributes
    ----------
    labels, regions : tuple of str
        K and R names.
    auroc : ndarray
        float64 (K, R): of each finding in each region; NaN without both classes.
    positives : ndarray
        int64 (K, R).
    minimum : int
        Positives, and negatives, that a region needs to count in :attr:`per_finding`.
    pooled : Report
        Every region of every image as a case of its own, with intervals.
    images : Report
        Images: positive if a region is, detected or not; scored by the highest of the detected regions. Images without
        a detected region are left out.
    """

    labels: tuple[str, ...]
    regions: tuple[str, ...]
    auroc: Floats
    positives: np.ndarray
    minimum: int
    pooled: Report
    images: Report
    _enough: np.ndarray
    _name = "regions"

    @property
    def per_finding(self) -> Floats:
        """AUROC of each finding, float64 (K,): the mean over its regions, as AnaXNet reports it.

        A region with two positives weighs as much as one with 20,000, unless ``minimum`` leaves it out.
        """
        return row_means(np.where(self._enough, self.auroc, np.nan))

    @property
    def mean(self) -> float:
        """The mean of :attr:`per_finding`."""
        return float(row_means(self.per_finding[None])[0])

    def _cells(self) -> list[list[str]]:
        percent = f"{100 * self.pooled.level:g} %"
        cells = [["finding", "positive", "regions", "AUROC", "pooled", percent, "image", percent]]
        rows = zip((*self.pooled.rows, self.pooled.mean), (*self.images.rows, self.images.mean), strict=True)
        means = [*self.per_finding, self.mean]
        counted = [*self._enough.sum(axis=1).tolist(), int(self._enough.sum())]
        for (pooled, image), value, regions in zip(rows, means, counted, strict=True):
            line = [pooled.label, str(pooled.positives), str(regions), decimals(value)]
            for row in (pooled, image):
                line += [decimals(row.auroc), span(row.auroc_low, row.auroc_high)]
            cells.append(line)
        return cells

    def _records(self) -> Iterator[Sequence[Any]]:
        """AUROC and positives of every finding in every region, a line each."""
        yield "finding", "region", "positives", "auroc"
        for k, label in enumerate(self.labels):
            for r, region in enumerate(self.regions):
                yield label, region, int(self.positives[k, r]), float(self.auroc[k, r])


def evaluate_regions(
    targets: ArrayLike,
    scores: ArrayLike,
    *,
    regions: str | Sequence[str],
    labels: str | Sequence[str],
    present: ArrayLike | None = None,
    minimum: int = 1,
    patient_ids: Sequence[str] | None = None,
    reference: Mapping[str, float] | None = None,
    n_bootstrap: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> RegionScores:
    """AUROC of every finding in every region, over all regions, and of images.

    Parameters
    ----------
    targets, scores : array_like
        (N, R, K); see the module. Scores of regions that are not `present` may be anything.
    regions, labels : str or sequence of str
        R and K names.
    present : array_like, optional
        bool (N, R): the regions that were detected; others are not scored. By default all.
    minimum : int
        See :class:`RegionScores`.
    patient_ids : sequence of str, optional
        For each image; whole patients are resampled for the intervals.
    reference : mapping of str to float, optional
        Published AUROC of each finding, beside that of the images.
    n_bootstrap, level, seed
        See :func:`thoraxlib.metrics.bootstrap`.

    Raises
    ------
    ValueError
        Shapes that do not fit; and see :func:`thoraxlib.metrics.auroc`.
    """
    names, findings = label_sets.resolve(regions), label_sets.resolve(labels)
    y, s = torch.from_numpy(array(targets).copy()), torch.from_numpy(array(scores).copy())
    shape = (len(names), len(findings))
    if y.ndim != 3 or tuple(y.shape[1:]) != shape or s.shape != y.shape:
        raise ValueError(
            f"targets and scores must be (N, {shape[0]}, {shape[1]}), got {tuple(y.shape)}, {tuple(s.shape)}"
        )
    if minimum < 1:
        raise ValueError(f"minimum={minimum}: at least 1")
    there = torch.ones(y.shape[:2], dtype=torch.bool) if present is None else torch.as_tensor(present).cpu()
    if there.dtype != torch.bool or there.shape != y.shape[:2]:
        raise ValueError(f"present must be bool {tuple(y.shape[:2])}, got {there.dtype} {tuple(there.shape)}")
    if patient_ids is not None and len(patient_ids) != len(y):
        raise ValueError(f"patient_ids has {len(patient_ids)} entries, targets have {len(y)} images")
    # an image's labels do not depend on the regions that the detector found
    of_images = torch.where(there.any(dim=1, keepdim=True), image_level(y), torch.nan)
    y, s = torch.where(there[..., None], y, torch.nan), torch.where(there[..., None], s, 0.0)
    scored = partial(evaluate, labels=findings, n_bootstrap=n_bootstrap, level=level, seed=seed)
    every = None if patient_ids is None else [patient for patient in patient_ids for _ in names]
    # most regions never have most findings: no warning for each
    areas = per_label(*checked(y.flatten(1), s.flatten(1)), "auroc").reshape(shape).T
    pooled = scored(y.flatten(0, 1), s.flatten(0, 1), patient_ids=every)
    highest = image_level(torch.where(there[..., None], s, torch.nan)).nan_to_num(0.0)
    images = scored(of_images, highest, patient_ids=patient_ids, reference=reference)
    ones, zeros = ((y == value).sum(dim=0).T.numpy() for value in (1, 0))
    return RegionScores(findings, names, areas, ones, minimum, pooled, images, (ones >= minimum) & (zeros >= minimum))
