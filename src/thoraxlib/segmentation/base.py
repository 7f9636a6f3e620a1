"""The contract of a segmenter, and masks from its logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from thoraxlib.checkpoints.saving import Persistent
from thoraxlib.input_spec import InputSpec
from thoraxlib.utils.arguments import few, one_of

#: Classes of a segmenter unless others are named; the first is what belongs to no organ.
ORGANS = ("background", "lungs", "heart")

RULES = ("hard", "soft")


class Segmenter(Persistent):
    """``forward(x: (N, in_chans, H, W)) -> logits (N, M, H, W)``, one map for each class, at the image's size.

    Attributes
    ----------
    classes : tuple of str
        M names; the first is the background. A place belongs to the class with the largest logit.
    in_chans : int
        Channels of the image.
    input_spec : InputSpec
        For which input it was made: pixels in [0, 1], 224 x 224 unless set otherwise.
    """

    subpackage: ClassVar[str] = "segmentation"
    classes: tuple[str, ...]
    in_chans: int
    input_spec: InputSpec

    def __init__(self, classes: Sequence[str], in_chans: int) -> None:
        super().__init__()
        self.classes, self.in_chans = check_classes(classes), in_chans
        self.input_spec = InputSpec(channels=in_chans, mean=(0.0,), std=(1.0,))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, M, H, W) of images (N, in_chans, H, W)."""
        raise NotImplementedError


def check_classes(classes: Sequence[str]) -> tuple[str, ...]:
    """`classes` as a tuple of at least two names, none twice.

    Raises
    ------
    ValueError
        Otherwise.
    """
    names = tuple(classes)
    if len(names) < 2 or len(set(names)) != len(names):
        raise ValueError(f"classes must be the background and at least one organ, no name twice; got [{few(names)}]")
    return names


def foreground(logits: Tensor, rule: str = "hard") -> Tensor:
    """One mask of all organs, (N, 1, H, W) in [0, 1], from logits (N, M, H, W).

    Parameters
    ----------
    logits : Tensor
        Of a :class:`Segmenter`; channel 0 is the background.
    rule : {"hard", "soft"}
        "hard": 1 where another class than the background has the largest logit, without gradient. "soft": the
        probability of the organs, 1 - softmax(logits)[:, 0], with gradient.

    Raises
    ------
    TypeError
        Logits that are no tensor.
    ValueError
        Another rule, or a single class, for which every mask would be empty.
    """
    one_of("rule", rule, RULES)
    if not isinstance(logits, Tensor):
        raise TypeError(f"a segmenter must give logits (N, M, H, W), got {type(logits).__name__}")
    if logits.ndim != 4 or logits.shape[1] < 2:
        raise ValueError(f"logits must be (N, M, H, W) with the background and organs, got {tuple(logits.shape)}")
    if rule == "hard":
        return (logits.argmax(dim=1, keepdim=True) > 0).to(logits.dtype)
    organs = torch.softmax(logits.float(), dim=1)[:, 1:]
    return organs.sum(dim=1, keepdim=True).clamp(max=1).to(logits.dtype)
