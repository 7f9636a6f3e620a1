"""Hold the findings of a batch of images, by heat maps or by regions."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from thoraxlib.localization import Boxes


class Seen(NamedTuple):
    """What a model sees in a batch of N images.

    Attributes
    ----------
    probabilities : Tensor
        (N, K).
    image, label : Tensor
        int64 (M,): of each finding, a label whose probability is at least its threshold.
    maps : Tensor
        (M, h, w): of each finding.
    boxes : Boxes
        In pixels of the input; ``image`` is the position among the findings, ``label`` that among
        the regions that are shown.
    """

    probabilities: Tensor
    image: Tensor
    label: Tensor
    maps: Tensor
    boxes: Boxes
