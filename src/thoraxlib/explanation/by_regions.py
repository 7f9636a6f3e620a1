"""Findings of a model of anatomical regions: which region shows them, and where it lies."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from thoraxlib.explanation.look import Seen
from thoraxlib.localization import Boxes
from thoraxlib.localization.boxes import area
from thoraxlib.localization.metrics import box_iogt
from thoraxlib.metrics.studies import image_level
from thoraxlib.utils.arguments import one_of
from thoraxlib.utils.modes import eval_view

_RULES = ("all", "specific")
_HELD = 0.75  # of a smaller region's area: zones of a lung are cut a little differently from the lung


class ByRegions:
    """Findings in regions that reach the threshold; an image's probability is the highest of its regions.

    Parameters
    ----------
    model : AnaXNet
        With a detector.
    method : {"regions"}, optional
        There is no other.
    rule : {"all", "specific"}, optional
        Which regions are told; see :func:`thoraxlib.explain`.

    Raises
    ------
    ValueError
        Another method or rule.
    """

    def __init__(self, model: Any, method: Any = None, rule: Any = None) -> None:
        one_of("method", method, (None, "regions"), " for a model of anatomical regions")
        one_of("rule", rule, (None, *_RULES), " for a model of anatomical regions")
        self.model, self.method, self.rule = model, "regions", rule or "all"
        self.regions: tuple[str, ...] = tuple(model.region_names)

    @torch.inference_mode()
    def __call__(self, x: Tensor, limits: Tensor) -> Seen:
        """What is seen in images (N, C, h, w) with thresholds (K,)."""
        output = eval_view(self.model).forward_all(x)
        boxes, present = output.regions.boxes.float().cpu(), output.regions.present.cpu()
        assessed = torch.where(present[..., None], output.logits.float().cpu().sigmoid(), torch.nan)
        probabilities, in_regions = image_level(assessed), assessed.nan_to_num(0.0)
        image, label = (probabilities >= limits).nonzero(as_tuple=True)
        score = in_regions[image, :, label]  # (M, R)
        told = present[image] & (score >= limits[label][:, None])
        if self.rule == "specific":
            told &= ~_holds_another(boxes[image], told)
        finding, region = told.nonzero(as_tuple=True)
        found = Boxes(boxes[image[finding], region], finding, region, score[finding, region])
        height, width = x.shape[-2:]
        return Seen(probabilities, image, label, paint(boxes[image], score, (height, width)), found)


def paint(boxes: Tensor, scores: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (M, h, w) in which each box holds its score, the highest where boxes overlap, and 0 elsewhere.

    Parameters
    ----------
    boxes : Tensor
        (M, R, 4): x1, y1, x2, y2 in pixels; a pixel belongs to the box that holds its centre.
    scores : Tensor
        (M, R), 0 or more.
    size : tuple of int
        (h, w).
    """
    y, x = (torch.arange(side, device=boxes.device) + 0.5 for side in size)
    columns = (x >= boxes[..., :1]) & (x < boxes[..., 2:3])
    rows = (y >= boxes[..., 1:2]) & (y < boxes[..., 3:])
    maps = scores.new_zeros(len(boxes), *size)
    for r in range(boxes.shape[1]):  # of one region at a time: R maps of every finding would be large
        inside = rows[:, r, :, None] & columns[:, r, None, :]
        maps = torch.maximum(maps, inside * scores[:, r, None, None])
    return maps


def _holds_another(boxes: Tensor, told: Tensor) -> Tensor:
    """Bool (M, R): whether a region that is told holds most of a smaller one that is told, too."""
    held = (
        torch.stack([box_iogt(each, each) for each in boxes])
        if len(boxes)
        else boxes.new_zeros(0, *[boxes.shape[1]] * 2)
    )
    size = area(boxes)
    smaller = size[:, None, :] < size[:, :, None]
    return ((held > _HELD) & smaller & told[:, None, :]).any(dim=2)
