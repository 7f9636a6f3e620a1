"""A way to see findings on a batch of images: what the ways have in common."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor

from thoraxlib.localization import Boxes

__all__ = ["Look", "Seen"]


class Seen(NamedTuple):
    """What a model sees in a batch of N films.

    Attributes
    ----------
    probabilities : Tensor
        (N, K).
    image, label : Tensor
        int64 (M,): of each finding, a label whose probability is at least its threshold.
    maps : Tensor
        (M, h, w): of each finding.
    boxes : Boxes
        In pixels of the input; ``image`` is the position among the findings, ``label`` that in the look's `regions`.
    """

    probabilities: Tensor
    image: Tensor
    label: Tensor
    maps: Tensor
    boxes: Boxes


class Look(Protocol):
    """A way to see findings: ``look(x, limits)`` of a batch (N, C, h, w) and thresholds (K,), on the CPU."""

    method: str
    rule: str
    regions: tuple[str, ...]

    def __call__(self, x: Tensor, limits: Tensor) -> Seen:
        """What is seen."""
        ...
