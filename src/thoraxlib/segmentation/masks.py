"""Organ masks: from the masks of a data set to the classes of a segmenter, and scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

#: Masks of a data set that form an organ, by default; any other class is the mask of the same name.
ORGAN_PARTS: Mapping[str, Sequence[str]] = {"lungs": ("lungs", "lung", "right lung", "left lung")}


def organ_masks(
    masks: Tensor,
    mask_names: Sequence[str],
    classes: Sequence[str],
    parts: Mapping[str, Sequence[str]] = ORGAN_PARTS,
) -> Tensor:
    """Convert a data set's masks to classes, exactly one at each pixel: uint8 (..., M, H, W).

    Where organs overlap, the later class counts. The first class, the background, has all pixels without an organ.

    Parameters
    ----------
    masks : Tensor
        (..., P, H, W), 0 or 1, from a sample of the data set.
    mask_names : sequence of str
        Names of the P masks.
    classes : sequence of str
        M names, the background first.
    parts : mapping of str to sequence of str
        Names of the masks that form a class.

    Raises
    ------
    ValueError
        A class without a mask, or a number of names that differs from that of the masks.

    Examples
    --------
    >>> masks = torch.tensor([[[1, 0, 0]], [[0, 1, 1]], [[0, 0, 1]]])
    >>> organ_masks(masks, ["right lung", "left lung", "heart"], ["background", "lungs", "heart"])[:, 0].tolist()
    [[0, 0, 0], [1, 1, 0], [0, 0, 1]]
    """
    if masks.shape[-3] != len(mask_names):
        raise ValueError(f"masks are {masks.shape[-3]} and mask_names {len(mask_names)}: must be equal")
    index = torch.zeros_like(masks[..., 0, :, :], dtype=torch.long)
    for number, organ in enumerate(classes[1:], start=1):
        wanted = parts.get(organ, (organ,))
        at = [position for position, name in enumerate(mask_names) if name in wanted]
        if not at:
            raise ValueError(
                f"no mask for the class {organ!r}: the data set has {list(mask_names)}; name its masks with parts="
            )
        index[masks[..., at, :, :].bool().any(dim=-3)] = number
    return torch.nn.functional.one_hot(index, len(classes)).movedim(-1, -3).to(torch.uint8)


def dice_score(predicted: Tensor, truth: Tensor) -> Tensor:
    """Compute the Dice score of each mask, ``2 |A and B| / (|A| + |B|)``: float32 (..., M).

    For the mean of an organ over images, take ``nanmean(dim=0)``.

    Parameters
    ----------
    predicted, truth : Tensor
        (..., M, H, W): 0 and 1, of any type. Apply a threshold to soft masks first.

    Returns
    -------
    Tensor
        0 to 1; NaN for an organ in neither mask.

    Raises
    ------
    ValueError
        Different shapes, fewer than three dimensions, or values other than 0 and 1.

    Examples
    --------
    >>> heart = torch.tensor([[[0, 1, 1, 0]]])
    >>> dice_score(heart, torch.tensor([[[0, 0, 1, 0]]])), iou_score(heart, torch.tensor([[[0, 0, 1, 0]]]))
    (tensor([0.6667]), tensor([0.5000]))
    """
    both, each = _areas(predicted, truth)
    return 2 * both / each


def iou_score(predicted: Tensor, truth: Tensor) -> Tensor:
    """Compute the intersection over union, ``|A and B| / |A or B|``: float32 (..., M); see :func:`dice_score`."""
    both, each = _areas(predicted, truth)
    return both / (each - both)


def _areas(predicted: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Count the pixels in both masks, and add up the pixels of each: (..., M)."""
    if predicted.ndim < 3 or predicted.shape != truth.shape:
        raise ValueError(
            f"predicted has shape {tuple(predicted.shape)} and truth {tuple(truth.shape)}: both must be (..., M, H, W)"
        )
    for name, masks in (("predicted", predicted), ("truth", truth)):
        odd = masks[(masks != 0) & (masks != 1)]
        if len(odd):
            raise ValueError(f"{name} must hold 0 and 1 only; {len(odd)} pixels do not, the first is {float(odd[0]):g}")
    a, b = predicted.bool(), truth.bool()
    # counted as integers: float32 is exact only up to 16.7 million pixels
    both, each = (a & b).sum((-2, -1)), a.sum((-2, -1)) + b.sum((-2, -1))
    return both.float(), each.float()
