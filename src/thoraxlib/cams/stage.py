"""A network with several feature maps, seen through one of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from thoraxlib.localization.crops import paste
from thoraxlib.utils.modes import eval_view


class Stage:
    """``forward_features`` and ``forward_head`` of one map, for a network whose features have several (``maps``).

    The other maps stay as they were; what a map gave to the later ones does not count again. It keeps the features of
    the last images, so each call has one of its own (:meth:`for_call`).

    Parameters
    ----------
    model : nn.Module
        Whose ``forward_features`` gives a NamedTuple with ``maps`` and, it may be, other batched tensors.
    stage : int
        Which map.
    """

    def __init__(self, model: Any, stage: int = -1) -> None:
        self.model, self.stage = model, stage
        self._features: Any = None

    def for_call(self) -> Stage:
        """Return an object of the same map, for one call, of the model as it computes in eval mode."""
        return Stage(eval_view(self.model), self.stage)

    def forward_features(self, x: Tensor) -> Tensor:
        """The map (N, C, h, w) of images.

        Raises
        ------
        ValueError
            The model has no such map.
        """
        self._features = self.model.forward_features(x)
        maps = self._features.maps
        if not -len(maps) <= self.stage < len(maps):
            raise ValueError(f"target={self.stage}: {type(self.model).__name__} has {len(maps)} maps")
        chosen: Tensor = maps[self.stage]
        return chosen

    def forward_head(self, features: Tensor) -> Tensor:
        """Logits with `features` (M * N, C, h, w) as this map of the last images, M times over."""
        logits: Tensor = self.model.forward_head(self._with(features))
        return logits

    def logit_maps(self, features: Tensor, *, bias: bool = True) -> Tensor:
        """The model's per-location logits, with `features` as this map."""
        options = {"stage": self.stage} if hasattr(self.model, "window") else {}
        maps: Tensor = self.model.logit_maps(self._with(features), bias=bias, **options)
        return maps

    def in_image(self, maps: Tensor, size: tuple[int, int], images: Tensor | None = None) -> Tensor:
        """Maps (M, K, h, w) of the last images' features, in the frame of the whole images of `size` (H, W).

        They are already, unless the model's ``window(features, stage)`` gives the edges (N, 4) of what a map is of:
        then they become (M, K, H, W). `images`: of which image each map is, int64 (M,); default one of each.
        """
        window = self.model.window(self._features, self.stage) if hasattr(self.model, "window") else None
        if window is None:
            return maps
        return paste(maps, window if images is None else window[images], size)

    def _with(self, features: Tensor) -> Any:
        times = len(features) // max(len(self._features.maps[self.stage]), 1)

        def repeated(part: Any) -> Any:
            if isinstance(part, Tensor):
                return part.to(features.dtype).repeat(times, *[1] * (part.ndim - 1))
            return [repeated(one) for one in part] if isinstance(part, (list, tuple)) else part

        with torch.no_grad():
            others = [repeated(part) for part in self._features]
        whole = type(self._features)(*others)
        whole.maps[self.stage] = features
        return whole

    def __call__(self, x: Tensor) -> Tensor:
        """Logits of images."""
        logits: Tensor = self.model(x)
        return logits

    def __getattr__(self, name: str) -> Any:
        if name in ("labels", "parameters"):
            return getattr(self.model, name)
        raise AttributeError(name)
