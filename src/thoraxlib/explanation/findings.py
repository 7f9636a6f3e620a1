"""Findings of a batch of images: from heat maps of a classifier, or from the regions of a region model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from thoraxlib import cams, localization
from thoraxlib.layers.pooling import expansion, per_label
from thoraxlib.localization import Boxes, box_iogt
from thoraxlib.localization.boxes import area
from thoraxlib.metrics.studies import image_level
from thoraxlib.registry import Spec
from thoraxlib.utils.arguments import one_of
from thoraxlib.utils.modes import eval_view

_HELD = 0.75  # share of a smaller region inside a larger one: zones of a lung may extend a little beyond the lung


class Findings(NamedTuple):
    """Findings of a batch of N images: labels whose probability is at least the threshold.

    Attributes
    ----------
    probabilities : Tensor
        (N, K), of all labels.
    image, label : Tensor
        int64 (M,): index of each finding's image and label.
    maps : Tensor
        (M, h, w): heat map of each finding.
    boxes : Boxes
        B boxes of the findings, in pixels of the input.
    regions : Tensor
        int64 (B,): index of each box's anatomical region; (0,) for heat maps.
    """

    probabilities: Tensor
    image: Tensor
    label: Tensor
    maps: Tensor
    boxes: Boxes
    regions: Tensor


class MapExplainer:
    """Heat maps of a classifier, and boxes found in them by a rule.

    Raises
    ------
    TypeError
        A rule that is no name, mapping or callable.
    """

    regions: tuple[str, ...] = ()

    def __init__(self, model: Any, method: Spec | None, rule: Spec | Any | None) -> None:
        if method is None:
            pool: Any = getattr(getattr(model, "head", None), "pool", None)
            located = pool is not None and expansion(pool) == 1 and hasattr(model, "logit_maps")
            method = "gradcam" if not located else "pcam" if per_label(pool) else "cam"
        self.method, options = cams.registry.split_spec(method)
        self.cam = cams.build(self.method, model, **options)
        if rule is None:
            level = {"name": "level", "keep": 3}
            rule = level if self.method == "pcam" else {"name": "threshold", "levels": (180,), "keep": 3}
        self.boxes_of = localization.registry.resolve(rule)
        if not callable(self.boxes_of):
            raise TypeError(f"rule={rule!r}: a name, a mapping or a callable is needed")
        named = rule["name"] if isinstance(rule, Mapping) else rule
        self.rule = named if isinstance(named, str) else type(rule).__name__
        self.size = model.input_spec.size

    def __call__(self, x: Tensor, limits: Tensor) -> Findings:
        """Findings of images (N, C, h, w) with thresholds (K,)."""
        logits, maps = (each.cpu() for each in self.cam.with_logits(x))
        probabilities = logits.sigmoid()
        image, label = (probabilities >= limits).nonzero(as_tuple=True)
        chosen = maps[image, label]
        boxes: Boxes = self.boxes_of(chosen[:, None], self.size, probabilities[image, label][:, None])
        boxes = boxes._replace(image=image[boxes.image], label=label[boxes.image])
        return Findings(probabilities, image, label, chosen, boxes, image[:0])


class RegionExplainer:
    """Regions whose probability reaches the threshold; the probability of an image is the highest of its regions.

    Parameters
    ----------
    model : AnaXNet
        A region model with a detector.
    method : {"regions"}, optional
        The only method.
    rule : {"all", "specific"}, optional
        Which regions to return; see :func:`thoraxlib.explain`.

    Raises
    ------
    ValueError
        Another method or rule.
    """

    def __init__(self, model: Any, method: Any = None, rule: Any = None) -> None:
        one_of("method", method, (None, "regions"), " for a model of anatomical regions")
        one_of("rule", rule, (None, "all", "specific"), " for a model of anatomical regions")
        self.model, self.method, self.rule = model, "regions", rule or "all"
        self.regions: tuple[str, ...] = tuple(model.region_names)

    @torch.inference_mode()
    def __call__(self, x: Tensor, limits: Tensor) -> Findings:
        """Findings of images (N, C, h, w) with thresholds (K,)."""
        output = eval_view(self.model).forward_all(x)
        corners, present = output.regions.boxes.float().cpu(), output.regions.present.cpu()
        assessed = torch.where(present[..., None], output.logits.float().cpu().sigmoid(), torch.nan)
        probabilities, in_regions = image_level(assessed), assessed.nan_to_num(0.0)
        image, label = (probabilities >= limits).nonzero(as_tuple=True)
        corners, score = corners[image], in_regions[image, :, label]  # (M, R, 4), (M, R)
        shown = present[image] & (score >= limits[label][:, None])
        if self.rule == "specific":
            shown &= ~_holds_another(corners, shown)
        finding, region = shown.nonzero(as_tuple=True)
        boxes = Boxes(corners[finding, region], image[finding], label[finding], score[finding, region])
        maps = paint(corners, score, (x.shape[-2], x.shape[-1]))
        return Findings(probabilities, image, label, maps, boxes, region)


def explainer_for(
    model: Any, method: Spec | None = None, rule: Spec | Any | None = None
) -> MapExplainer | RegionExplainer:
    """Build the explainer of a model; `method` and `rule` as in :func:`thoraxlib.explain`."""
    return (RegionExplainer if hasattr(model, "region_names") else MapExplainer)(model, method, rule)


def paint(boxes: Tensor, scores: Tensor, size: tuple[int, int]) -> Tensor:
    """Draw maps (M, h, w) in which each box has its score, the highest where boxes overlap, and 0 elsewhere.

    Parameters
    ----------
    boxes : Tensor
        (M, R, 4): x1, y1, x2, y2 in pixels; a pixel belongs to a box that contains its centre.
    scores : Tensor
        (M, R), 0 or more.
    size : tuple of int
        (h, w).
    """
    y, x = (torch.arange(side, device=boxes.device) + 0.5 for side in size)
    columns = (x >= boxes[..., :1]) & (x < boxes[..., 2:3])
    rows = (y >= boxes[..., 1:2]) & (y < boxes[..., 3:])
    maps = scores.new_zeros(len(boxes), *size)
    for r in range(boxes.shape[1]):  # one region at a time: R maps for every finding would be large
        inside = rows[:, r, :, None] & columns[:, r, None, :]
        maps = torch.maximum(maps, inside * scores[:, r, None, None])
    return maps


def _holds_another(boxes: Tensor, shown: Tensor) -> Tensor:
    """Bool (M, R): True for regions that contain most of a smaller region that is also shown."""
    held = [box_iogt(each, each) for each in boxes]
    size = area(boxes)
    smaller = (size[:, None, :] < size[:, :, None]) & shown[:, None, :]
    return ((torch.stack(held) > _HELD) & smaller).any(dim=2) if held else shown
