"""Boxes of a batch, all in one table."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

_ROUNDING = 0.5  # pixels by which a box may leave its image


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


def from_xywh(xywh: Tensor, source: object) -> Tensor:
    """Bring boxes (M, 4) of a file, x y width height, to float32 x1 y1 x2 y2; `source` is the file.

    Raises
    ------
    ValueError
        A box that is not finite, or whose width or height is below 0.
    """
    xyxy = torch.cat([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], dim=1).float()
    for wrong, why in (
        (~xyxy.isfinite().all(dim=1), "is not finite"),
        ((xywh[:, 2:] < 0).any(dim=1), "has a width or height below 0"),
    ):
        if wrong.any():
            raise ValueError(
                f"{source}: {int(wrong.sum())} of {len(xywh)} boxes are wrong: bbox {xywh[wrong][0].tolist()}, number "
                f"{int(wrong.nonzero()[0]) + 1}, {why}"
            )
    return xyxy


def within(xyxy: Tensor, sizes: Tensor, source: object) -> tuple[Tensor, Tensor]:
    """Cut boxes (M, 4) off at the borders of their images, and say which are left; warn, with counts, of what is done.

    Parameters
    ----------
    xyxy : Tensor
        Float32 (M, 4).
    sizes : Tensor
        (M, 2): height and width of the image of each box.
    source : object
        The file, for the message.

    Returns
    -------
    xyxy : Tensor
        (L, 4): those that are left; a box that leaves its image by half a pixel at most stays as it is.
    left : Tensor
        bool (M,): False for boxes without area or wholly outside their image.

    Warns
    -----
    UserWarning
        Boxes that were left out or cut off.
    """
    inside = xyxy.clamp(min=0).minimum(sizes.to(xyxy).flip(1).repeat(1, 2))
    flat = (xyxy[:, 2:] <= xyxy[:, :2]).any(dim=1)
    outside = (inside[:, 2:] <= inside[:, :2]).any(dim=1) & ~flat
    left = ~(flat | outside)
    cut = ((inside - xyxy).abs() > _ROUNDING).any(dim=1) & left
    counts = {"without area left out": flat, "outside the image left out": outside, "cut off at the border": cut}
    told = [f"{int(rows.sum())} boxes {what}" for what, rows in counts.items() if rows.any()]
    if told:
        warnings.warn(f"{source}: {', '.join(told)}", stacklevel=4)
    return torch.where(cut[:, None], inside, xyxy)[left], left


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
