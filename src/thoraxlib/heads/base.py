"""The contract of a head."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["Head"]


class Head(nn.Module):
    """``forward(features: (N, C, h, w)) -> logits (N, K)``."""

    def forward(self, features: Tensor) -> Tensor:
        """Logits (N, K) of `features`."""
        raise NotImplementedError

    def logit_maps(self, features: Tensor, *, bias: bool = True) -> Tensor:
        """Per-location logits (N, K, h, w), where the head has them; `bias`: with their constant part."""
        raise NotImplementedError(f"{type(self).__name__} has no per-location logits; use a gradient-based CAM")
