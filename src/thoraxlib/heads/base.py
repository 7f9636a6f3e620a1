"""Base class of the heads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

#: Input of a head: one map (N, C, h, w), or several maps of a fusion, finest first.
Features = Tensor | Sequence[Tensor]


class Head(nn.Module):
    """Base class, ``forward(features: (N, C, h, w)) -> logits (N, K)``.

    Heads after a fusion take several maps: a sequence of (N, C_i, h_i, w_i).
    """

    def forward(self, features: Any) -> Tensor:
        """Compute the logits (N, K)."""
        raise NotImplementedError

    def logit_maps(self, features: Any, *, bias: bool = True) -> Tensor:
        """Compute per-location logits (N, K, h, w); `bias` includes their constant part.

        Raises
        ------
        NotImplementedError
            The head has no per-location logits.
        """
        raise NotImplementedError(f"{type(self).__name__} has no per-location logits; use a gradient-based CAM")


def one_map(name: str, in_channels: object) -> None:
    """Raise ValueError unless the head `name` gets the `in_channels` of a single map."""
    if not isinstance(in_channels, int):
        raise ValueError(f"the head {name!r} takes one map, got in_channels={in_channels}; use the head 'linear'")
