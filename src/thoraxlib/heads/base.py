"""The contract of a head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

#: What a head sees: one map (N, C, h, w), or several, finest first, from a fusion.
Features = Tensor | Sequence[Tensor]


class Head(nn.Module):
    """``forward(features: (N, C, h, w)) -> logits (N, K)``.

    Heads for fused pyramids take several maps: a sequence of (N, C_i, h_i, w_i).
    """

    def forward(self, features: Any) -> Tensor:
        """Logits (N, K) of `features`."""
        raise NotImplementedError

    def logit_maps(self, features: Any, *, bias: bool = True) -> Tensor:
        """Per-location logits (N, K, h, w), where the head has them; `bias`: with their constant part.

        Raises
        ------
        NotImplementedError
            The head has no logits of places.
        """
        raise NotImplementedError(f"{type(self).__name__} has no per-location logits; use a gradient-based CAM")


def one_map(name: str, in_channels: object) -> None:
    """Raise ValueError unless `in_channels` of the head `name` are those of one map."""
    if not isinstance(in_channels, int):
        raise ValueError(f"the head {name!r} takes one map, got in_channels={in_channels}; use the head 'linear'")
