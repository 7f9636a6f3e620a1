"""Boxes of a batch, all in one table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Boxes", "area", "check_boxes", "check_inside"]


def area(xyxy: Tensor) -> Tensor:
    """Area (...) of boxes (..., 4), in float32 at least, whole numbers in int64; 0 for one turned inside out."""
    if not xyxy.is_floating_point():
        xyxy = xyxy.long()  # small types overflow
    elif xyxy.dtype.itemsize < 4:
        xyxy = xyxy.float()
    return (xyxy[..., 2:] - xyxy[..., :2]).clamp(min=0).prod(dim=-1)


def check_inside(xyxy: Tensor, size: tuple[int, int]) -> None:
    """Raise a ValueError where boxes (B, 4) are not finite, turned inside out, or leave an image of (H, W) pixels."""
    check_boxes("true boxes", xyxy)
    limit = torch.tensor([size[1], size[0]]) + 1  # a pixel more: lists are rounded
    outside = (xyxy[:, :2] < -1).any(dim=1) | (xyxy[:, 2:] > limit).any(dim=1)
    if outside.any():
        raise ValueError(
            f"true box {xyxy[outside][0].tolist()} leaves the image of {size[1]} x {size[0]} pixels: image and truth "
            "must have one frame"
        )


def check_boxes(name: str, xyxy: Tensor) -> None:
    """Raise a ValueError where boxes (B, 4) are not finite or turned inside out."""
    wrong = ~(xyxy.isfinite().all(dim=1) & (xyxy[:, 2:] >= xyxy[:, :2]).all(dim=1))
    if wrong.any():
        raise ValueError(f"{name} hold {xyxy[wrong][0].tolist()}: finite x1 <= x2 and y1 <= y2 are needed")


class Boxes(NamedTuple):
    """M boxes of several images and labels, on the CPU.

    Attributes
    ----------
    xyxy : Tensor
        float32 (M, 4): x1, y1, x2, y2 in pixels, x2 and y2 exclusive.
    image, label : Tensor
        int64 (M,): position in the batch, and in the model's labels.
    score : Tensor
        float32 (M,).
    """

    xyxy: Tensor
    image: Tensor
    label: Tensor
    score: Tensor

    def where(self, chosen: Tensor) -> Boxes:
        """Those that `chosen`, bool (M,) or positions, picks."""
        return Boxes(*(column[chosen] for column in self))

    @classmethod
    def concatenate(cls, parts: Sequence[Boxes]) -> Boxes:
        """One table of several; positions of images are those of the parts."""
        if not parts:
            return cls.from_lists([], [])
        return cls(*(torch.cat(columns) for columns in zip(*parts, strict=True)))

    @classmethod
    def from_lists(cls, boxes: Sequence[Tensor], labels: Sequence[Tensor]) -> Boxes:
        """True boxes as :func:`thoraxlib.datasets.collate` gives them: N of (B, 4), and N of (B,); scores are 1.

        Raises
        ------
        ValueError
            Boxes and labels of different lengths.
        """
        counts = [len(each) for each in boxes]
        if counts != [len(each) for each in labels]:
            raise ValueError(f"boxes of {counts} and labels of {[len(each) for each in labels]} entries do not match")
        image = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts, dtype=torch.long))
        if not counts:
            return cls(torch.zeros(0, 4), image, torch.zeros(0, dtype=torch.long), torch.zeros(0))
        xyxy = torch.cat([each.as_subclass(Tensor).reshape(-1, 4) for each in boxes]).float().cpu()
        return cls(xyxy, image, torch.cat(list(labels)).long().cpu(), torch.ones(len(xyxy)))
