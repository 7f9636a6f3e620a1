"""Losses of organ masks: logits (N, C, H, W) and masks of the same shape to a number.

A mask is 1, 0, anything between, or NaN for unknown pixels, which take no part, of any type; a value outside [0, 1]
makes the loss NaN. They are in the room of :mod:`thoraxlib.losses`.

>>> import torch
>>> from thoraxlib import losses
>>> masks = torch.zeros(2, 3, 8, 8)
>>> masks[:, 0] = 1
>>> float(losses.build("dice")(torch.where(masks > 0, 50.0, -50.0), masks))
0.0
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from thoraxlib.losses import BCE, full_precision, known_labels, register

__all__ = ["Dice", "DiceBCE"]


@register("dice")
class Dice(nn.Module):
    """1 - Dice of soft masks, ``(2 sum p t + s) / (sum p + sum t + s)`` with p = sigmoid(logit).

    Parameters
    ----------
    smooth : float
        s, above 0: what an organ that is in neither mask has instead of 0 / 0.
    per_class : bool
        False sums over the batch and all channels together, as QUST-SmartData/CXRClassification does, so that large
        organs, and background where it has a channel, decide. True is the mean over channels of the Dice of each.

    Raises
    ------
    ValueError
        `smooth` not above 0.
    """

    def __init__(self, *, smooth: float = 1.0, per_class: bool = False) -> None:
        super().__init__()
        if not smooth > 0:
            raise ValueError(f"smooth={smooth}: above 0")
        self.smooth, self.per_class = smooth, per_class

    def forward(self, logits: Tensor, masks: Tensor) -> Tensor:
        """Loss, a scalar, of logits (N, C, H, W) and masks (N, C, H, W)."""
        _check_shapes(logits, masks)
        logits = full_precision(logits)
        truth, known = known_labels(masks, logits.dtype)
        shares = torch.where(known, logits.sigmoid(), logits.new_zeros(()))
        over = (0, 2, 3) if self.per_class else (0, 1, 2, 3)
        overlap, sizes = (shares * truth).sum(over), (shares + truth).sum(over)
        return 1 - ((2 * overlap + self.smooth) / (sizes + self.smooth)).mean()


@register("dice_bce")
class DiceBCE(nn.Module):
    """Mean binary cross-entropy of all pixels plus "dice": how QUST-SmartData/CXRClassification trains its UNet.

    Parameters
    ----------
    smooth : float
        As for "dice".
    per_class : bool
        As for "dice".
    """

    def __init__(self, *, smooth: float = 1.0, per_class: bool = False) -> None:
        super().__init__()
        self.bce, self.dice = BCE(), Dice(smooth=smooth, per_class=per_class)

    def forward(self, logits: Tensor, masks: Tensor) -> Tensor:
        """Loss, a scalar, of logits (N, C, H, W) and masks (N, C, H, W)."""
        _check_shapes(logits, masks)
        loss: Tensor = self.bce(logits, masks) + self.dice(logits, masks)
        return loss


def _check_shapes(logits: Tensor, masks: Tensor) -> None:
    if logits.ndim != 4 or logits.shape != masks.shape:
        raise ValueError(
            f"logits have shape {tuple(logits.shape)} and masks {tuple(masks.shape)}: both must be (N, C, H, W), with "
            "one channel for each class of the segmenter"
        )
