"""Localisation tables: accuracy and false positives of each label, as ChestX-ray8 reports them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from thoraxlib.localization.boxes import Boxes, area
from thoraxlib.localization.metrics import acc_afp, hits
from thoraxlib.metrics.intervals import bootstrap_mean
from thoraxlib.utils.arguments import one_of
from thoraxlib.utils.text_tables import Table

#: Criteria and thresholds of ChestX-ray8's tables 4 and 7 (Wang et al. 2017).
WANG_ROWS: tuple[tuple[str, float], ...] = (
    *(("iobb", threshold) for threshold in (0.1, 0.25, 0.5, 0.75, 0.9)),
    *(("iou", threshold) for threshold in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)),
)
_NAMES = {"iobb": "IoBB", "iou": "IoU", "iogt": "IoGT"}


@dataclass(frozen=True, eq=False)
class LocalizationTable(Table):
    """Accuracy and average false positives of labels at thresholds; ``print`` it.

    Attributes
    ----------
    labels : tuple of str
        K.
    rows : tuple of (str, float)
        R criteria and thresholds.
    accuracy, afp : Tensor
        float64 (R, K); accuracy is NaN for a label without true boxes.
    boxes : Tensor
        int64 (K,): true boxes of each label.
    low, high : Tensor
        float64 (R, K): bootstrap interval of the accuracy; NaN without resamples.
    area_ratio : Tensor
        float64 (K,): mean area of the detected boxes over that of the true ones. Far above 1, IoBB cannot be high; far
        below, it is easily so.
    """

    labels: tuple[str, ...]
    rows: tuple[tuple[str, float], ...]
    accuracy: Tensor
    afp: Tensor
    boxes: Tensor
    low: Tensor
    high: Tensor
    area_ratio: Tensor
    _name = "localization"

    def mean_accuracy(self, criterion: str, threshold: float) -> float:
        """Of the labels that have true boxes, at one row.

        Raises
        ------
        ValueError
            No such row.
        """
        if (criterion, threshold) not in self.rows:
            raise ValueError(f"no row {(criterion, threshold)}; there are {self.rows}")
        return float(self.accuracy[self.rows.index((criterion, threshold))].nanmean())

    def _cells(self) -> list[list[str]]:
        shown = self.boxes.nonzero().flatten().tolist()
        cells = [
            ["", *(self.labels[k] for k in shown)],
            ["true boxes", *(str(int(self.boxes[k])) for k in shown)],
            ["area ratio", *(f"{float(self.area_ratio[k]):.2f}" for k in shown)],
        ]
        for r, (criterion, threshold) in enumerate(self.rows):
            name = f"{_NAMES[criterion]} > {threshold:g}"
            cells.append([f"{name:<12}Acc", *(f"{float(self.accuracy[r, k]):.4f}" for k in shown)])
            if not self.low[r].isnan().all():
                cells.append(["", *(f"{float(self.low[r, k]):.2f}-{float(self.high[r, k]):.2f}" for k in shown)])
            cells.append([f"{'':<12}AFP", *(f"{float(self.afp[r, k]):.4f}" for k in shown)])
        return cells


def localization_table(
    detected: Boxes,
    truth: Boxes,
    labels: Sequence[str],
    *,
    rows: Sequence[tuple[str, float]] = WANG_ROWS,
    images: str = "all_annotated",
    denominator: int | None = None,
    n_bootstrap: int = 0,
    level: float = 0.95,
    seed: int = 0,
) -> LocalizationTable:
    """:func:`acc_afp` at several thresholds; by default those of ChestX-ray8's tables 4 and 7 (Wang et al. 2017).

    Parameters
    ----------
    detected, truth : Boxes
        Of one list of images.
    labels : sequence of str
        What the positions in both mean.
    rows : sequence of (str, float)
        Criteria ("iobb", "iou", "iogt") and thresholds.
    images : {"all_annotated", "with_label"}
        Whose detections count: of every image with a true box, or for each label only of those with a true box of it.
        Which of them the paper counts is not known.
    denominator : int, optional
        Of AFP; the paper's is the number of true boxes.
    n_bootstrap : int
        Of the images, for intervals of the accuracy (percentile bootstrap); 0 for none.
    level : float
        Of the intervals, above 0 and below 1.
    seed : int
        Of the resamples.

    Raises
    ------
    ValueError
        An option out of its range; a box has a position beyond `labels`.
    """
    one_of("images", images, ("all_annotated", "with_label"))
    if not rows:
        raise ValueError("rows is empty: (criterion, threshold) pairs are needed")
    if n_bootstrap < 0 or not 0 < level < 1:
        raise ValueError(f"n_bootstrap={n_bootstrap}, level={level}: at least 0, and above 0 and below 1")
    k = len(labels)
    if images == "all_annotated":
        counted = torch.isin(detected.image, truth.image)
    else:
        counted = torch.isin(detected.image * k + detected.label, truth.image * k + truth.label)
    detected = detected.where(counted)
    scores = [acc_afp(detected, truth, k, threshold=t, criterion=c, denominator=denominator) for c, t in rows]
    accuracy, afp = (torch.stack(column) for column in zip(*scores, strict=True))
    low, high = _intervals(detected, truth, k, rows, n_bootstrap, level, seed)
    mean_area = [
        torch.zeros(k, dtype=torch.float64).index_add_(0, boxes.label, area(boxes.xyxy).double())
        / torch.bincount(boxes.label, minlength=k)
        for boxes in (detected, truth)
    ]
    count = torch.bincount(truth.label, minlength=k)
    return LocalizationTable(tuple(labels), tuple(rows), accuracy, afp, count, low, high, mean_area[0] / mean_area[1])


def _intervals(
    detected: Boxes,
    truth: Boxes,
    num_labels: int,
    rows: Sequence[tuple[str, float]],
    n_bootstrap: int,
    level: float,
    seed: int,
) -> tuple[Tensor, Tensor]:
    """Bounds (R, K) of the accuracy when images are drawn anew, with all their true boxes."""
    shape = len(rows), num_labels
    if not n_bootstrap or not len(truth.label):
        return torch.full(shape, torch.nan).double(), torch.full(shape, torch.nan).double()
    hit = torch.stack([hits(detected, truth, num_labels, threshold=t, criterion=c)[1] for c, t in rows], dim=1)
    own = truth.label[:, None] == torch.arange(num_labels)
    values = torch.where(own[:, None], hit[..., None].double(), torch.nan)
    images = [str(image) for image in truth.image.tolist()]
    found = bootstrap_mean(values.flatten(1), n_bootstrap=n_bootstrap, level=level, seed=seed, patient_ids=images)
    return torch.from_numpy(found.low).view(shape), torch.from_numpy(found.high).view(shape)
