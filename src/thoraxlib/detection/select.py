"""The best box of each region, for all images at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_SMALLEST = 1e-2  # pixels; torchvision drops boxes with a shorter side


def best_boxes(boxes: Tensor, scores: Tensor, counts: Sequence[int]) -> tuple[Tensor, Tensor]:
    """For each image and region, the candidate with the highest score.

    Non-maximum suppression would leave the same box on top of each region's list, so that none is needed.

    Parameters
    ----------
    boxes, scores : Tensor
        (P, R, 4) and (P, R), of the candidates of all images, one image after the other.
    counts : sequence of int
        N numbers of candidates, with the sum P.

    Returns
    -------
    tuple of Tensor
        Boxes (N, R, 4) and scores (N, R); zeros where an image has no candidate with sides of at least 0.01 pixels.

    Examples
    --------
    >>> boxes = torch.tensor([[[0.0, 0.0, 2.0, 2.0]], [[1.0, 1.0, 4.0, 4.0]]])
    >>> best_boxes(boxes, torch.tensor([[0.2], [0.6]]), [2, 0])[0].tolist()
    [[[1.0, 1.0, 4.0, 4.0]], [[0.0, 0.0, 0.0, 0.0]]]
    """
    usable = ((boxes[..., 2:] - boxes[..., :2]) >= _SMALLEST).all(dim=-1)
    scores = torch.where(usable, scores, -1.0)
    count = torch.tensor(counts, device=scores.device)
    image = torch.repeat_interleave(count, output_size=len(scores))
    place = torch.arange(len(scores), device=scores.device) - (count.cumsum(0) - count)[image]
    # a row of nothing at the end of each list, so that none is empty
    table = scores.new_full((len(counts), max(counts, default=0) + 1, scores.shape[1]), -1.0)
    table[image, place] = scores
    best, winner = table.max(dim=1)
    found = best >= 0
    row = torch.where(found, winner + (count.cumsum(0) - count)[:, None], len(boxes))
    boxes = torch.cat([boxes, boxes.new_zeros(1, *boxes.shape[1:])])
    return boxes[row, torch.arange(boxes.shape[1], device=boxes.device)], best.clamp(min=0)
