"""Detected boxes and heat maps against true boxes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from thoraxlib.localization.boxes import Boxes, area, check_boxes, check_inside
from thoraxlib.utils.arguments import one_of


def _shared(a: Tensor, b: Tensor) -> Tensor:
    low = torch.maximum(a[..., :2], b[..., :2])
    high = torch.minimum(a[..., 2:], b[..., 2:])
    return area(torch.cat([low, high], dim=-1))


def paired_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union, (...), of boxes (..., 4), pair by pair; 0 where both are empty."""
    shared = _shared(a, b)
    union = area(a) + area(b) - shared
    return torch.where(union > 0, shared / union, 0.0)


def _iobb(detected: Tensor, truth: Tensor) -> Tensor:
    own = area(detected)
    return torch.where(own > 0, _shared(detected, truth) / own, 0.0)


def _iogt(detected: Tensor, truth: Tensor) -> Tensor:
    return _iobb(truth, detected)


_CRITERIA = {"iou": paired_iou, "iobb": _iobb, "iogt": _iogt}


def box_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union, (M, N), of boxes (M, 4) and (N, 4), x1 y1 x2 y2; 0 where both are empty."""
    return paired_iou(a[:, None], b)


def box_iobb(detected: Tensor, truth: Tensor) -> Tensor:
    """Intersection over the area of the detected box, (M, N) (Wang et al. 2017, section 4.2).

    It favours small boxes: one inside the truth has 1, however small. Always show IoU beside it.
    """
    return _iobb(detected[:, None], truth)


def box_iogt(detected: Tensor, truth: Tensor) -> Tensor:
    """Intersection over the area of the true box, (M, N): how much of it is found.

    What alinstein/X_RAY calls IoBB. It favours large boxes: one around the whole image has 1.
    """
    return _iogt(detected[:, None], truth)


def acc_afp(
    detected: Boxes,
    truth: Boxes,
    num_labels: int,
    *,
    threshold: float,
    criterion: str = "iobb",
    denominator: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Accuracy and average false positives of each label, as ChestX-ray8 counts them (Wang et al. 2017, section 4.2).

    Accuracy: true boxes that a detection of the same label and image hits (IoU or IoBB strictly above the threshold),
    over true boxes. AFP: detections that hit none, over all true boxes of all labels (984 on the released list: how the
    published tables were counted).

    Parameters
    ----------
    detected, truth : Boxes
        Of one list of images.
    num_labels : int
        K.
    threshold : float
        The paper's: 0.1, 0.25, 0.5, 0.75, 0.9 for IoBB; 0.1 to 0.7 for IoU.
    criterion : {"iobb", "iou", "iogt"}
        Which overlap.
    denominator : int, optional
        Of AFP, e.g. the number of images.

    Returns
    -------
    tuple of Tensor
        Accuracy (K,), NaN for a label without true boxes; AFP (K,).

    Raises
    ------
    ValueError
        An unknown criterion; a threshold outside [0, 1]; a denominator below 1; a label that is not 0 to below
        `num_labels`; a box that is not finite or turned inside out.
    """
    if denominator is not None and denominator < 1:
        raise ValueError(f"denominator={denominator}: at least 1 is needed")
    hitting, hit = hits(detected, truth, num_labels, threshold=threshold, criterion=criterion)
    accuracy = _count(truth.label[hit], num_labels) / _count(truth.label, num_labels)  # 0 / 0 is NaN
    false = _count(detected.label[~hitting], num_labels)
    return accuracy, false / max(len(truth.label) if denominator is None else denominator, 1)


def hits(
    detected: Boxes, truth: Boxes, num_labels: int, *, threshold: float, criterion: str = "iobb"
) -> tuple[Tensor, Tensor]:
    """Which detections hit a true box of their label and image, and which true boxes are hit: bool (M,), (T,).

    Parameters and errors: see :func:`acc_afp`.
    """
    one_of("criterion", criterion, _CRITERIA)
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold={threshold}: an overlap from 0 to 1 is needed")
    for name, boxes in (("detected", detected), ("truth", truth)):
        check_boxes(f"{name} boxes", boxes.xyxy)
        if len(boxes.label) and not (int(boxes.label.min()) >= 0 and int(boxes.label.max()) < num_labels):
            given = f"{boxes.label.min()} to {boxes.label.max()}"
            raise ValueError(f"{name} has labels from {given}: allowed are 0 to {num_labels - 1}")
    d, t = _pairs(detected, truth, num_labels)
    over = _CRITERIA[criterion](detected.xyxy[d], truth.xyxy[t]) > threshold
    hitting, hit = torch.zeros(len(detected.label), dtype=torch.bool), torch.zeros(len(truth.label), dtype=torch.bool)
    hitting[d[over]], hit[t[over]] = True, True
    return hitting, hit


def _count(labels: Tensor, num_labels: int) -> Tensor:
    return torch.bincount(labels, minlength=num_labels).double()


def _pairs(detected: Boxes, truth: Boxes, num_labels: int) -> tuple[Tensor, Tensor]:
    """Positions (P,), (P,) of all pairs of a detected and a true box of the same image and label."""
    key, order = (truth.image * num_labels + truth.label).sort(stable=True)
    wanted = detected.image * num_labels + detected.label
    first = torch.searchsorted(key, wanted)
    count = torch.searchsorted(key, wanted, right=True) - first
    d = torch.repeat_interleave(count)
    place = torch.arange(len(d)) - (count.cumsum(0) - count)[d]
    return d, order[first[d] + place]


def pointing_game(
    maps: Tensor, boxes: Sequence[Tensor], box_labels: Sequence[Tensor], size: tuple[int, int], tolerance: float = 0.0
) -> tuple[Tensor, Tensor]:
    """How often the highest point of a label's map lies in one of its true boxes (Zhang et al. 2016, arXiv 1608.00507).

    Parameters
    ----------
    maps : Tensor
        (N, K, h, w). The highest point is the centre of its highest cell; a constant map has none, and never hits.
    boxes, box_labels : sequence of Tensor
        For each image: (B, 4) in pixels, and (B,).
    size : (int, int)
        Of the image that the boxes belong to, (H, W).
    tolerance : float
        Pixels around the boxes that count too; the paper's is 15, on images of their own size.

    Returns
    -------
    tuple of Tensor
        Hits and trials, int64 (K,): one trial for each image and label that has a box.

    Raises
    ------
    ValueError
        Maps that are empty or not finite; not as many images as maps; a label that has no map; a box that leaves the
        image.
    """
    truth = Boxes.from_lists(boxes, box_labels)
    if maps.ndim != 4 or not maps.shape[2] or not maps.shape[3] or not maps.isfinite().all():
        raise ValueError(f"maps must be (N, K, h, w), finite, with at least one place, got {tuple(maps.shape)}")
    if len(boxes) != len(maps):
        raise ValueError(f"{len(maps)} images have maps, {len(boxes)} have boxes")
    if len(truth.label) and not (int(truth.label.min()) >= 0 and int(truth.label.max()) < maps.shape[1]):
        raise ValueError(f"box_labels are {truth.label.min()} to {truth.label.max()}, of {maps.shape[1]} labels")
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
