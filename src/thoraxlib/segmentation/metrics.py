"""Scores of organ masks: Dice and IoU of each organ in each image."""

from __future__ import annotations

from torch import Tensor


def dice_score(predicted: Tensor, truth: Tensor) -> Tensor:
    """Dice, ``2 |A and B| / (|A| + |B|)``, of each mask: float32 (..., M).

    For the mean of an organ over images, take ``nanmean(dim=0)``.

    Parameters
    ----------
    predicted, truth : Tensor
        (..., M, H, W): 0 and 1, of any type. Soft masks are for the caller to cut off.

    Returns
    -------
    Tensor
        0 to 1; NaN where an organ is in neither mask.

    Raises
    ------
    ValueError
        Shapes that differ or have fewer than three dimensions, or other values.

    Examples
    --------
    >>> import torch
    >>> heart = torch.tensor([[[0, 1, 1, 0]]])
    >>> dice_score(heart, torch.tensor([[[0, 0, 1, 0]]])), iou_score(heart, torch.tensor([[[0, 0, 1, 0]]]))
    (tensor([0.6667]), tensor([0.5000]))
    """
    both, each = _areas(predicted, truth)
    return 2 * both / each


def iou_score(predicted: Tensor, truth: Tensor) -> Tensor:
    """Intersection over union, ``|A and B| / |A or B|``, of each mask: float32 (..., M); see :func:`dice_score`."""
    both, each = _areas(predicted, truth)
    return both / (each - both)


def _areas(predicted: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels that are in both masks, and those of the two added: (..., M)."""
    if predicted.ndim < 3 or predicted.shape != truth.shape:
        raise ValueError(
            f"predicted has shape {tuple(predicted.shape)} and truth {tuple(truth.shape)}: both must be (..., M, H, W)"
        )
    for name, masks in (("predicted", predicted), ("truth", truth)):
        odd = masks[(masks != 0) & (masks != 1)]
        if len(odd):
            raise ValueError(f"{name} must hold 0 and 1 only; {len(odd)} pixels do not, the first is {float(odd[0]):g}")
    a, b = predicted.bool(), truth.bool()
    # counted as integers: float32 is exact to 16.7 million pixels only
    both, each = (a & b).sum((-2, -1)), a.sum((-2, -1)) + b.sum((-2, -1))
    return both.float(), each.float()
