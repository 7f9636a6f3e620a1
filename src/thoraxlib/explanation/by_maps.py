"""Findings of a classifier: heat maps, and boxes by a rule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from thoraxlib import cams, localization
from thoraxlib.explanation.look import Seen
from thoraxlib.layers.pooling import expansion, per_label
from thoraxlib.localization import Boxes
from thoraxlib.registry import Spec


class ByMaps:
    """Findings on heat maps, and boxes by a rule.

    Raises
    ------
    TypeError
        A rule that is no name, mapping or callable.
    """

    regions: tuple[str, ...] = ()

    def __init__(self, model: Any, method: Spec | None, rule: Spec | Any | None) -> None:
        self.method, options = cams.registry.split_spec(_default_method(model) if method is None else method)
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

    def __call__(self, x: Tensor, limits: Tensor) -> Seen:
        """What is seen."""
        logits, maps = (each.cpu() for each in self.cam.with_logits(x))
        probabilities = logits.sigmoid()
        image, label = (probabilities >= limits).nonzero(as_tuple=True)
        chosen = maps[image, label]
        boxes: Boxes = self.boxes_of(chosen[:, None], self.size, probabilities[image, label][:, None])
        return Seen(probabilities, image, label, chosen, boxes)


def _default_method(model: Any) -> str:
    head = getattr(model, "head", None)
    pool = getattr(head, "pool", None)
    if pool is None or expansion(pool) != 1 or not hasattr(model, "logit_maps"):
        return "gradcam"
    return "pcam" if per_label(pool) else "cam"
