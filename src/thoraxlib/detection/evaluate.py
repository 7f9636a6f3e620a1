"""Compare detected regions with the true ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thoraxlib.detection.base import RegionDetector
from thoraxlib.detection.reading import batches, to_image
from thoraxlib.localization.metrics import paired_iou
from thoraxlib.metrics.intervals import Interval, bootstrap_mean, percentiles, resampled_weights
from thoraxlib.utils.arguments import one_of
from thoraxlib.utils.arrays import Floats, array
from thoraxlib.utils.modes import device_of, eval_view
from thoraxlib.utils.text_tables import Table

_HIT = 0.5
_RECALLS = np.linspace(0.0, 1.0, 101)


@dataclass(frozen=True)
class RegionReport(Table):
    """Agreement of each region's best box with the true one on every image; ``print`` shows a table.

    Attributes
    ----------
    region_names : tuple of str
        R names.
    iou : Tensor
        float32 (N, R): IoU of the best box, whatever its score, and the true one; NaN where the image has no true box.
    scores : Tensor
        float32 (N, R): score of the best box.
    detected : Tensor
        bool (N, R): the score is above the detector's threshold.
    ids, patient_ids : list of str
        The images.
    """

    region_names: tuple[str, ...]
    iou: Tensor
    scores: Tensor
    detected: Tensor
    ids: list[str]
    patient_ids: list[str]
    _name = "detection"

    @property
    def present(self) -> Tensor:
        """Mask of the true boxes, bool (N, R)."""
        return ~self.iou.isnan()

    def mean_iou(self) -> Tensor:
        """Mean IoU of each region over the images that show it, (R,); NaN if no image does."""
        return self.iou.nanmean(dim=0)

    def detection_rate(self) -> Tensor:
        """Fraction of the images that show a region in which it is detected, (R,)."""
        return (self.detected & self.present).sum(dim=0) / self.present.sum(dim=0)

    def false_rate(self) -> Tensor:
        """Fraction of the images without a region in which it is detected all the same, (R,)."""
        return (self.detected & ~self.present).sum(dim=0) / (~self.present).sum(dim=0)

    def ap50(self) -> Tensor:
        """Average precision of each region at an IoU of 0.5, (R,); see :func:`average_precision`."""
        return average_precision(self.iou, self.scores)

    def map50(self) -> float:
        """Mean of :meth:`ap50` over the regions that any image shows."""
        return float(self.ap50().nanmean())

    def interval(self, score: str = "iou", *, n_bootstrap: int = 1000, level: float = 0.95, seed: int = 0) -> Interval:
        """Compute percentile intervals of each region's score, and of their mean, over resampled patients.

        Parameters
        ----------
        score : {"iou", "ap50", "detection_rate"}
            The score.
        n_bootstrap, level, seed
            See :func:`thoraxlib.metrics.bootstrap`.

        Raises
        ------
        ValueError
            Another score, or numbers out of range.
        """
        one_of("score", score, ("iou", "ap50", "detection_rate"))
        options: dict[str, Any] = {"n_bootstrap": n_bootstrap, "level": level, "seed": seed}
        options["patient_ids"] = self.patient_ids
        if score != "ap50":
            values = self.iou if score == "iou" else torch.where(self.present, self.detected.double(), torch.nan)
            return bootstrap_mean(array(values), **options)
        parts = [
            np.stack(list(_weighted(self.iou, self.scores, weights)), axis=1)
            for weights in resampled_weights(len(self.ids), **options)
        ]
        return percentiles(np.concatenate(parts), level)

    def _cells(self) -> list[list[str]]:
        rate = self.detection_rate()
        columns = [
            ["region", *self.region_names, "mean"],
            ["images", *map(str, self.present.sum(dim=0).tolist()), str(len(self.ids))],
            ["IoU (95 %)", *self.interval("iou").beside(self.mean_iou())],
            ["AP@0.5 (95 %)", *self.interval("ap50").beside(self.ap50())],
            ["detected", *(f"{value:.3f}" for value in (*rate.tolist(), float(rate.nanmean())))],
        ]
        return [list(row) for row in zip(*columns, strict=True)]


def evaluate(
    detector: RegionDetector, dataset: Any, *, batch_size: int = 16, num_workers: int = 0, progress: bool = True
) -> RegionReport:
    """Compare a detector's regions with the true ones, in pixels of the original images.

    Parameters
    ----------
    detector : RegionDetector
        Runs on its own device, in eval mode.
    dataset : dataset
        Samples have ``regions``; the data set has the detector's ``region_names``.
    batch_size, num_workers : int
        Images in a batch, and processes that read them.
    progress : bool
        Show a progress bar.

    Raises
    ------
    ValueError
        No images, images without regions, or other regions than the detector's.
    """
    from tqdm.auto import tqdm

    detector = eval_view(detector)
    loader = batches(detector, dataset, batch_size=batch_size, num_workers=num_workers, truth=True)
    rows, ids = list[tuple[Tensor, ...]](), list[str]()
    with torch.inference_mode():
        for batch in tqdm(loader, desc="evaluate", disable=not progress, leave=False):
            regions = detector(batch["image"].to(device_of(detector)))
            boxes = to_image(regions.boxes.cpu(), detector.input_spec, batch["size"])
            iou = torch.where(batch["present"], paired_iou(boxes, torch.stack(batch["boxes"])), torch.nan)
            rows.append((iou, regions.scores.float().cpu(), regions.present.cpu()))
            ids += batch["id"]
    iou, scores, detected = map(torch.cat, zip(*rows, strict=True))
    return RegionReport(detector.region_names, iou, scores, detected, ids, list(dataset.patient_ids))


def average_precision(iou: Tensor, scores: Tensor) -> Tensor:
    """Compute COCO's average precision at an IoU of 0.5 of each region, for one box for each region and image.

    The images are ordered by score. A box is right if its IoU is at least 0.5, and wrong if there is no true box.
    Precision is the highest at this or a higher recall, averaged over 101 recalls from 0 to 1.

    Parameters
    ----------
    iou : Tensor
        (N, R): NaN where there is no true box.
    scores : Tensor
        (N, R).

    Returns
    -------
    Tensor
        float64 (R,), 0 to 1; NaN for a region without a true box.

    Raises
    ------
    ValueError
        Shapes that differ, no image, or scores that are not finite.

    Examples
    --------
    >>> nan = float("nan")
    >>> iou = torch.tensor([[0.8, nan], [0.3, nan], [nan, nan]])
    >>> average_precision(iou, torch.tensor([[0.9, 0.1], [0.6, 0.1], [0.2, 0.1]]))
    tensor([0.5050,    nan], dtype=torch.float64)
    """
    if iou.ndim != 2 or iou.shape != scores.shape or not len(iou) or not bool(scores.isfinite().all()):
        raise ValueError(
            f"iou and scores must both be (N, R), N > 0, the scores finite; got {tuple(iou.shape)} and "
            f"{tuple(scores.shape)}"
        )
    return torch.tensor([float(value[0]) for value in _weighted(iou, scores, np.ones((1, len(iou))))]).double()


def _weighted(iou: Tensor, scores: Tensor, weights: Floats) -> Iterator[Floats]:
    """Yield the average precision (B,) of each region, with images weighted by each row of `weights` (B, N)."""
    for overlap, score in zip(array(iou).T, array(scores).T, strict=True):
        order = np.argsort(-score, kind="stable")
        counted, hit = weights[:, order], overlap[order] >= _HIT  # NaN is no hit
        right = np.cumsum(counted * hit, axis=1)
        precision = right / np.maximum(np.cumsum(counted, axis=1), 1e-12)
        precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        total = weights @ ~np.isnan(overlap)
        recall = right / np.maximum(total, 1e-12)[:, None]
        yield np.where(total > 0, _at_recalls(recall, precision), np.nan)


def _at_recalls(recall: Floats, precision: Floats) -> Floats:
    """Average the precision of curves (B, N) at 101 recalls; 0 beyond the last recall."""
    ended = np.pad(precision, ((0, 0), (0, 1)))
    return np.array([p[np.searchsorted(r, _RECALLS)].mean() for r, p in zip(recall, ended, strict=True)])
