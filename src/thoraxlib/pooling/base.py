"""The contract of a pooling."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["Pool", "expansion", "per_label"]


class Pool(nn.Module):
    """``forward(x: (N, C, h, w)) -> (N, C)``. Any module that does this is a pooling; the attributes are optional.

    Attributes
    ----------
    expansion : int
        The result is (N, C * expansion).
    per_label : bool
        ``forward(x, logits)``, with logit maps (N, K, h, w), gives each label a vector of its own, (N, K, C);
        ``forward(x)`` takes `x` as its own logit maps, (N, C).
    """

    expansion: int = 1
    per_label: bool = False

    def forward(self, x: Tensor) -> Tensor:
        """Pool `x`, (N, C, h, w)."""
        raise NotImplementedError


def expansion(pool: nn.Module) -> int:
    """How many times as wide as its input a pooling's result is; 1 if it does not say."""
    return int(getattr(pool, "expansion", 1))


def per_label(pool: nn.Module) -> bool:
    """Whether a pooling has a vector for each label."""
    return bool(getattr(pool, "per_label", False))
