"""Compare detected boxes and heat maps with true boxes; localization tables as in ChestX-ray8."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from thoraxlib.localization.boxes import Boxes, area, check_boxes, check_indices, check_inside
from thoraxlib.localization.maps import check_maps
from thoraxlib.metrics.intervals import bootstrap_mean
from thoraxlib.utils.arguments import one_of
from thoraxlib.utils.text_tables import Table

#: Criteria and thresholds of ChestX-ray8's tables 4 and 7 (Wang et al. 2017).
WANG_ROWS: tuple[tuple[str, float], ...] = (
    *(("iobb", threshold) for threshold in (0.1, 0.25, 0.5, 0.75, 0.9)),
    *(("iou", threshold) for threshold in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)),
)
_NAMES = {"iou": "IoU", "iobb": "IoBB", "iogt": "IoGT"}


def _overlap(a: Tensor, b: Tensor, criterion: str) -> Tensor:
    """Overlap (...) of detected boxes `a` and true boxes `b`, both (..., 4); 0 if the denominator is 0."""
    shared = area(torch.cat([torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])], dim=-1))
    detected, true = area(a), area(b)
    denominator = {"iou": detected + true - shared, "iobb": detected, "iogt": true}[criterion]
    return torch.where(denominator > 0, shared / denominator, 0.0)


def paired_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union (...) of pairs of boxes (..., 4); 0 if both are empty."""
    return _overlap(a, b, "iou")


def box_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union (M, N) of boxes (M, 4) and (N, 4), x1 y1 x2 y2; 0 if both are empty."""
    return _overlap(a[:, None], b, "iou")


def box_iobb(detected: Tensor, truth: Tensor) -> Tensor:
    """Intersection over the area of the detected box, (M, N) (Wang et al. 2017, section 4.2).

    It favours small boxes: a box inside the true box has 1, however small it is. Always report IoU as well.
    """
    return _overlap(detected[:, None], truth, "iobb")


def box_iogt(detected: Tensor, truth: Tensor) -> Tensor:
    """Intersection over the area of the true box, (M, N).

    alinstein/X_RAY calls it IoBB. It favours large boxes: a box around the whole image has 1.
    """
    return _overlap(detected[:, None], truth, "iogt")


def acc_afp(
    detected: Boxes,
    truth: Boxes,
    num_labels: int,
    *,
    threshold: float,
    criterion: str = "iobb",
    denominator: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Accuracy and average false positives of each label as in ChestX-ray8 (Wang et al. 2017, section 4.2).

    Accuracy is the share of true boxes that a detection of the same label and image hits (IoU or IoBB strictly above
    the threshold). AFP is the number of detections that hit no true box, divided by the number of true boxes of all
    labels (984 on the released list, as in the published tables).

    Parameters
    ----------
    detected, truth : Boxes
        Boxes of the same list of images.
    num_labels : int
        Number of labels, K.
    threshold : float
        Minimum overlap. The paper uses 0.1, 0.25, 0.5, 0.75, 0.9 for IoBB and 0.1 to 0.7 for IoU.
    criterion : {"iobb", "iou", "iogt"}
        Kind of overlap.
    denominator : int, optional
        Denominator of AFP, such as the number of images.

    Returns
    -------
    tuple of Tensor
        Accuracy (K,), NaN for a label without true boxes; AFP (K,).

    Raises
    ------
    ValueError
        An argument outside its range; a label index of `num_labels` or more; a box that is not finite, or whose x2 < x1
        or y2 < y1.
    """
    if denominator is not None and denominator < 1:
        raise ValueError(f"denominator={denominator}: at least 1 is needed")
    hitting, hit = hits(detected, truth, num_labels, threshold=threshold, criterion=criterion)
    accuracy = _count(truth.label[hit], num_labels) / _count(truth.label, num_labels)  # 0 / 0 is NaN
    false = _count(detected.label[~hitting], num_labels)
    return accuracy, false / max(len(truth.label) if denominator is None else denominator, 1)


def _count(labels: Tensor, num_labels: int) -> Tensor:
    return torch.bincount(labels, minlength=num_labels).double()


def hits(
    detected: Boxes, truth: Boxes, num_labels: int, *, threshold: float, criterion: str = "iobb"
) -> tuple[Tensor, Tensor]:
    """Find detections that hit a true box of their label and image, bool (M,), and the true boxes hit, bool (T,).

    Parameters and errors: see :func:`acc_afp`.
    """
    one_of("criterion", criterion, _NAMES)
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold={threshold}: an overlap from 0 to 1 is needed")
    for name, boxes in (("detected", detected), ("truth", truth)):
        check_boxes(f"{name} boxes", boxes.xyxy)
        check_indices(f"labels of the {name} boxes", boxes.label, num_labels)
    # all pairs of a detected and a true box of the same image and label
    key, order = (truth.image * num_labels + truth.label).sort(stable=True)
    wanted = detected.image * num_labels + detected.label
    first = torch.searchsorted(key, wanted)
    count = torch.searchsorted(key, wanted, right=True) - first
    d = torch.repeat_interleave(count)
    t = order[first[d] + torch.arange(len(d)) - (count.cumsum(0) - count)[d]]
    over = _overlap(detected.xyxy[d], truth.xyxy[t], criterion) > threshold
    hitting, hit = torch.zeros(len(detected.label), dtype=torch.bool), torch.zeros(len(truth.label), dtype=torch.bool)
    hitting[d[over]], hit[t[over]] = True, True
    return hitting, hit


@dataclass(frozen=True, eq=False)
class LocalizationTable(Table):
    """Accuracy and average false positives of labels at several thresholds; ``print`` it.

    Attributes
    ----------
    labels : tuple of str
        The K labels.
    rows : tuple of (str, float)
        R criteria and thresholds.
    accuracy, afp : Tensor
        float64 (R, K); accuracy is NaN for a label without true boxes.
    boxes : Tensor
        int64 (K,): number of true boxes of each label.
    low, high : Tensor
        float64 (R, K): bootstrap interval of the accuracy; NaN without resamples.
    area_ratio : Tensor
        float64 (K,): mean area of the detected boxes divided by that of the true boxes. If it is far above 1, IoBB
        cannot be high; if it is far below 1, a high IoBB is easy.
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
        """Mean accuracy of the labels that have true boxes, in one row.

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
    """Compute :func:`acc_afp` at several thresholds, by default those of ChestX-ray8's tables 4 and 7.

    Source: Wang et al. 2017.

    Parameters
    ----------
    detected, truth : Boxes
        Boxes of the same list of images.
    labels : sequence of str
        Names of the labels.
    rows : sequence of (str, float)
        Criteria ("iobb", "iou", "iogt") and thresholds.
    images : {"all_annotated", "with_label"}
        Which detections count: those on every image with a true box, or for each label only those on images with a true
        box of that label. The paper does not say which it uses.
    denominator : int, optional
        Denominator of AFP; the paper's is the number of true boxes.
    n_bootstrap : int
        Number of resamples of the images for intervals of the accuracy (percentile bootstrap); 0 for none.
    level : float
        Coverage of the intervals, above 0 and below 1.
    seed : int
        Random seed of the resamples.

    Raises
    ------
    ValueError
        An argument outside its range; a box whose label index is beyond `labels`.
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
    low = high = torch.full_like(accuracy, torch.nan)
    if n_bootstrap and len(truth.label):  # images are resampled with all their true boxes
        hit = torch.stack([hits(detected, truth, k, threshold=t, criterion=c)[1] for c, t in rows], dim=1)
        own = truth.label[:, None] == torch.arange(k)
        values = torch.where(own[:, None], hit[..., None].double(), torch.nan).flatten(1)
        groups = [str(image) for image in truth.image.tolist()]
        interval = bootstrap_mean(values, n_bootstrap=n_bootstrap, level=level, seed=seed, patient_ids=groups)
        low, high = (torch.from_numpy(end).view_as(accuracy) for end in interval[:2])
    detected_area, true_area = (
        torch.zeros(k, dtype=torch.float64).index_add_(0, boxes.label, area(boxes.xyxy).double())
        / _count(boxes.label, k)
        for boxes in (detected, truth)
    )
    count, ratio = torch.bincount(truth.label, minlength=k), detected_area / true_area
    return LocalizationTable(tuple(labels), tuple(rows), accuracy, afp, count, low, high, ratio)


def pointing_game(
    maps: Tensor, boxes: Sequence[Tensor], box_labels: Sequence[Tensor], size: tuple[int, int], tolerance: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Count how often the maximum of a label's map lies in one of its true boxes (Zhang et al. 2016, arXiv 1608.00507).

    Parameters
    ----------
    maps : Tensor
        (N, K, h, w). The maximum is the centre of the pixel with the highest value; a constant map never hits.
    boxes, box_labels : sequence of Tensor
        For each image: (B, 4) in pixels, and (B,).
    size : (int, int)
        (H, W) of the image that the boxes belong to.
    tolerance : float
        Margin around the boxes in pixels; the paper uses 15, in pixels of the original images.

    Returns
    -------
    tuple of Tensor
        Hits and trials, int64 (K,): one trial for each image and label that has a box.

    Raises
    ------
    ValueError
        Maps that are empty or not finite; another number of images than of maps; a label that has no map; a box that
        leaves the image.
    """
    truth = Boxes.from_lists(boxes, box_labels)
    check_maps(maps)
    if len(boxes) != len(maps):
        raise ValueError(f"{len(maps)} images have maps, {len(boxes)} have boxes")
    check_indices("box_labels", truth.label, maps.shape[1])
    check_inside(truth.xyxy, size)
    n, k, h, w = maps.shape
    flat = maps.detach().flatten(2).cpu()
    peak, has_peak = flat.argmax(dim=2), flat.amax(dim=2) > flat.amin(dim=2)
    x = ((peak % w) + 0.5) * (size[1] / w)
    y = (peak.div(w, rounding_mode="floor") + 0.5) * (size[0] / h)
    px, py = x[truth.image, truth.label], y[truth.image, truth.label]
    x1, y1, x2, y2 = truth.xyxy.unbind(dim=1)
    inside = (px >= x1 - tolerance) & (px < x2 + tolerance) & (py >= y1 - tolerance) & (py < y2 + tolerance)
    inside &= has_peak[truth.image, truth.label]
    tried, hit = torch.zeros(n, k, dtype=torch.bool), torch.zeros(n, k, dtype=torch.bool)
    tried[truth.image, truth.label] = True
    hit[truth.image[inside], truth.label[inside]] = True
    return hit.sum(dim=0), tried.sum(dim=0)
