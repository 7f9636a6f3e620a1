"""Base class of the segmenters, and masks from their logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from thoraxlib.checkpoints.saving import Persistent
from thoraxlib.input_spec import InputSpec
from thoraxlib.utils.arguments import few, one_of, repeated

#: Default classes of a segmenter; the first is the background.
ORGANS = ("background", "lungs", "heart")

RULES = ("hard", "soft")


class Segmenter(Persistent):
    """Base class, ``forward(x: (N, in_chans, H, W)) -> logits (N, M, H, W)`` at the image's size, a map for each class.

    Parameters
    ----------
    classes : sequence of str
        At least two names, without repetition; the first is the background.
    in_chans : int
        Channels of the image.

    Attributes
    ----------
    classes : tuple of str
        The M names. A pixel belongs to the class with the largest logit.
    in_chans : int
        Channels of the image.
    input_spec : InputSpec
        Input that the network expects: pixels in [0, 1], by default 224 x 224.

    Raises
    ------
    ValueError
        Fewer than two classes, or a name twice.
    """

    subpackage: ClassVar[str] = "segmentation"
    classes: tuple[str, ...]
    in_chans: int
    input_spec: InputSpec

    def __init__(self, classes: Sequence[str], in_chans: int) -> None:
        super().__init__()
        self.classes, self.in_chans = tuple(classes), in_chans
        if len(self.classes) < 2 or repeated(self.classes):
            raise ValueError(
                f"classes must be the background and at least one organ, no name twice; got [{few(self.classes)}]"
            )
        self.input_spec = InputSpec(channels=in_chans, mean=(0.0,), std=(1.0,))

    def forward(self, x: Tensor) -> Tensor:
        """Compute logits (N, M, H, W) of images (N, in_chans, H, W)."""
        raise NotImplementedError


def foreground(logits: Tensor, rule: str = "hard") -> Tensor:
    """Compute one mask of all organs, (N, 1, H, W) in [0, 1], from logits (N, M, H, W).

    Parameters
    ----------
    logits : Tensor
        Output of a :class:`Segmenter`; channel 0 is the background.
    rule : {"hard", "soft"}
        "hard": 1 where the background does not have the largest logit, without gradient. "soft": the probability of the
        organs, 1 - softmax(logits)[:, 0], with gradient.

    Raises
    ------
    TypeError
        `logits` is no tensor.
    ValueError
        An unknown `rule`, or logits of a single class.
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
