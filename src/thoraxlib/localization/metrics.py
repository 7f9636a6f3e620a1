"""Detected boxes and heat maps against true boxes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from thoraxlib.localization.boxes import Boxes

__all__ = ["acc_afp", "box_iobb", "box_iou", "pointing_game"]


def _areas(boxes: Tensor) -> Tensor:
    return (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(dim=1)


def _intersections(a: Tensor, b: Tensor) -> Tensor:
    low = torch.maximum(a[:, None, :2], b[None, :, :2])
    high = torch.minimum(a[:, None, 2:], b[None, :, 2:])
    return (high - low).clamp(min=0).prod(dim=2)


def box_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union, (M, N), of boxes (M, 4) and (N, 4), x1 y1 x2 y2; 0 where both are empty."""
    shared = _intersections(a, b)
    union = _areas(a)[:, None] + _areas(b)[None] - shared
    return torch.where(union > 0, shared / union, torch.zeros_like(shared))


def box_iobb(detected: Tensor, truth: Tensor) -> Tensor:
    """Intersection over the area of the detected box, (M, N) (Wang et al. 2017, section 4.2).

    It favours small boxes: one inside the truth has 1, however small. Always show IoU beside it.
    """
    shared = _intersections(detected, truth)
    area = _areas(detected)[:, None]
    return torch.where(area > 0, shared / area, torch.zeros_like(shared))


_CRITERIA = {"iou": box_iou, "iobb": box_iobb}


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
    criterion : {"iou", "iobb"}
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
        An unknown criterion.
    """
    if criterion not in _CRITERIA:
        raise ValueError(f"criterion={criterion!r}: allowed are {', '.join(map(repr, _CRITERIA))}")
    same = (detected.image[:, None] == truth.image) & (detected.label[:, None] == truth.label)
    hits = same & (_CRITERIA[criterion](detected.xyxy, truth.xyxy) > threshold)
    of_truth = torch.bincount(truth.label, minlength=num_labels).double()
    hit = torch.bincount(truth.label[hits.any(dim=0)], minlength=num_labels).double()
    false = torch.bincount(detected.label[~hits.any(dim=1)], minlength=num_labels).double()
    accuracy = torch.where(of_truth > 0, hit / of_truth, torch.full_like(hit, torch.nan))
    return accuracy, false / max(len(truth.label) if denominator is None else denominator, 1)


def pointing_game(
    maps: Tensor, boxes: Sequence[Tensor], box_labels: Sequence[Tensor], size: tuple[int, int], tolerance: float = 0.0
) -> tuple[Tensor, Tensor]:
    """How often the highest point of a label's map lies in one of its true boxes (Zhang et al. 2016, arXiv 1608.00507).

    Parameters
    ----------
    maps : Tensor
        (N, K, h, w). The highest point is the centre of its highest cell.
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
    """
    truth = Boxes.from_lists(boxes, box_labels)
    n, k, h, w = maps.shape
    peak = maps.flatten(2).argmax(dim=2).cpu()
    x = ((peak % w) + 0.5) * (size[1] / w)
    y = (peak.div(w, rounding_mode="floor") + 0.5) * (size[0] / h)
    px, py = x[truth.image, truth.label], y[truth.image, truth.label]
    x1, y1, x2, y2 = truth.xyxy.unbind(dim=1)
    inside = (px >= x1 - tolerance) & (px < x2 + tolerance) & (py >= y1 - tolerance) & (py < y2 + tolerance)
    tried, hit = torch.zeros(n, k, dtype=torch.bool), torch.zeros(n, k, dtype=torch.bool)
    tried[truth.image, truth.label] = True
    hit[truth.image[inside], truth.label[inside]] = True
    return hit.sum(dim=0), tried.sum(dim=0)
