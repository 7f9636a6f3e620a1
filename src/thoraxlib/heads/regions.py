"""Heads for anatomical regions: a vector for each region -> logits for each region. A registry of their own."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from thoraxlib.registry import Registry


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


_PARTS = ("region_linear", "region_graph")

registry: Registry[RegionHead] = Registry("heads.regions", modules=[f"thoraxlib.heads.{name}" for name in _PARTS])
build, register, names, describe = registry.build, registry.register, registry.names, registry.describe
