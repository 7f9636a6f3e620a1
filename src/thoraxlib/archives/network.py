"""A model as a scorer: batches to probabilities, and where they are wanted to boxes."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from thoraxlib.explanation.findings import explainer_for
from thoraxlib.explanation.images import thresholds
from thoraxlib.localization import Boxes
from thoraxlib.models.optimize import optimize_for_inference
from thoraxlib.registry import Spec
from thoraxlib.utils.precision import autocast


class BoxSettings(NamedTuple):
    """Which findings get boxes, and how; see :func:`thoraxlib.explain`."""

    method: Spec | None = None
    rule: Spec | None = None
    threshold: float | Sequence[float] | Mapping[str, float] = 0.5


def device_of(device: str | torch.device | None) -> torch.device:
    """The device asked for; by default this process's GPU, where there is one."""
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    chosen = torch.device(device)
    if chosen.type == "cuda" and chosen.index is None:
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)) % max(torch.cuda.device_count(), 1))
    return chosen


class Network:
    """An optimised copy of a model, on a device: ``network(x)`` of images (N, C, h, w), N at least 1.

    Gives probabilities float32 (N, K), and boxes in pixels of the images: none without `boxes`.
    """

    def __init__(self, model: Any, device: torch.device, precision: str, boxes: BoxSettings | None) -> None:
        self.device, self.precision = device, precision
        # nothing reaches infinity
        self.limits = (
            torch.full((len(model.labels),), torch.inf) if boxes is None else thresholds(boxes.threshold, model.labels)
        )
        self.model = optimize_for_inference(copy.deepcopy(model).eval()).to(device)
        regional = hasattr(model, "region_names")
        nothing = "the model found no region in the image, or its" if regional else "the model's"
        self.why_nan = f"{nothing} output is NaN: is the precision too low?"
        method, rule, _ = boxes or BoxSettings()
        self.explainer = None if boxes is None and not regional else explainer_for(self.model, method, rule)

    def __call__(self, x: Tensor) -> tuple[Tensor, Boxes]:
        """Probabilities and boxes."""
        x = x.to(self.device, memory_format=torch.channels_last, non_blocking=True)
        with autocast(self.device, self.precision):
            if self.explainer is None:
                with torch.inference_mode():
                    return self.model(x).float().sigmoid().cpu(), Boxes.from_lists([], [])
            found = self.explainer(x, self.limits)
        boxes = found.boxes
        return found.probabilities.float(), boxes._replace(xyxy=boxes.xyxy.float(), score=boxes.score.float())
