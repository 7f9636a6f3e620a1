"""Heads for anatomical regions: a vector for each region -> logits for each region. A registry of their own."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from thoraxlib.registry import Registry

__all__ = ["RegionHead", "RegionLogits", "build", "describe", "image_level", "names", "register", "registry"]

_IMAGE_RULES = ("max", "mean", "noisy_or")


class RegionLogits(NamedTuple):
    """What a :class:`RegionHead` computes.

    Attributes
    ----------
    logits : Tensor
        (N, R, K).
    attention : Tensor or None
        (N, R, R): how much region r looked at each region, where the head has that.
    """

    logits: Tensor
    attention: Tensor | None


class RegionHead(nn.Module):
    """``forward(features: (N, R, D), present: bool (N, R)) -> logits (N, R, K)``; without `present` all regions are.

    The logits of an absent region are finite and mean nothing.
    """

    def forward(self, features: Tensor, present: Tensor | None = None) -> Tensor:
        """Logits (N, R, K)."""
        return self.forward_all(features, present).logits

    def forward_all(self, features: Tensor, present: Tensor | None = None) -> RegionLogits:
        """Logits, and what they come from."""
        raise NotImplementedError


def image_level(probabilities: Tensor, present: Tensor, rule: str = "max") -> Tensor:
    """Probabilities (N, K) of images, of those of their regions; NaN where no region is present.

    Parameters
    ----------
    probabilities : Tensor
        (N, R, K), or logits for "max".
    present : Tensor
        bool (N, R).
    rule : {"max", "mean", "noisy_or"}
        Over the regions that are present. "noisy_or" is 1 less the product of (1 - p).

    Raises
    ------
    ValueError
        Another rule.
    """
    if rule not in _IMAGE_RULES:
        raise ValueError(f"rule={rule!r}: allowed are {', '.join(map(repr, _IMAGE_RULES))}")
    there = present[..., None]
    if rule == "max":
        values = torch.where(there, probabilities, -torch.inf).amax(dim=1)
    elif rule == "mean":
        values = torch.where(there, probabilities, 0.0).sum(dim=1) / present.sum(dim=1, keepdim=True).clamp(min=1)
    else:
        values = 1 - torch.where(there, 1 - probabilities, 1.0).prod(dim=1)
    return torch.where(present.any(dim=1, keepdim=True), values, torch.nan)


_PARTS = ("region_linear", "region_graph")

registry: Registry[RegionHead] = Registry("region_heads", modules=[f"thoraxlib.heads.{name}" for name in _PARTS])
build, register, names, describe = registry.build, registry.register, registry.names, registry.describe
