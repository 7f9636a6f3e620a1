"""Boxes of a batch of images in one table, checks of true boxes, and boxes in the images' own pixels."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from thoraxlib.input_spec import InputSpec

_ROUNDING = 0.5  # pixels by which a box may leave its image


def area(xyxy: Tensor) -> Tensor:
    """Area (...) of boxes (..., 4), 0 where x2 < x1 or y2 < y1; in float32 or wider, or in int64 for integers."""
    if not xyxy.is_floating_point():
        xyxy = xyxy.long()  # small types overflow
    elif xyxy.dtype.itemsize < 4:
        xyxy = xyxy.float()
    return (xyxy[..., 2:] - xyxy[..., :2]).clamp(min=0).prod(dim=-1)


def check_inside(xyxy: Tensor, size: tuple[int, int]) -> None:
    """Raise ValueError for true boxes (B, 4) that :func:`check_boxes` refuses or that leave an image of (H, W)."""
    check_boxes("true boxes", xyxy)
    limit = torch.tensor([size[1], size[0]]) + 1  # one pixel more, as published boxes are rounded
    outside = (xyxy[:, :2] < -1).any(dim=1) | (xyxy[:, 2:] > limit).any(dim=1)
    if outside.any():
        raise ValueError(
            f"true box {xyxy[outside][0].tolist()} leaves the image of {size[1]} x {size[0]} pixels: images and true "
            "boxes must have the same frame"
        )


def check_boxes(name: str, xyxy: Tensor) -> None:
    """Raise ValueError for boxes (B, 4) that are not finite, or whose x2 < x1 or y2 < y1."""
    wrong = ~(xyxy.isfinite().all(dim=1) & (xyxy[:, 2:] >= xyxy[:, :2]).all(dim=1))
    if wrong.any():
        raise ValueError(f"{name} hold {xyxy[wrong][0].tolist()}: finite x1 <= x2 and y1 <= y2 are needed")


def check_indices(name: str, indices: Tensor, count: int) -> None:
    """Raise ValueError unless `indices` are from 0 to ``count - 1``."""
    if len(indices) and not (int(indices.min()) >= 0 and int(indices.max()) < count):
        raise ValueError(f"{name} have indices from {indices.min()} to {indices.max()}, but there are {count}")


def from_xywh(xywh: Tensor, source: object) -> Tensor:
    """Convert boxes (M, 4) of the file `source` from x, y, width, height to float32 x1, y1, x2, y2.

    Raises
    ------
    ValueError
        A box that is not finite, or whose width or height is below 0.
    """
    xyxy = torch.cat([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], dim=1).float()
    wrong = ~xyxy.isfinite().all(dim=1) | (xywh[:, 2:] < 0).any(dim=1)
    if wrong.any():
        raise ValueError(
            f"{source}: {int(wrong.sum())} of {len(xywh)} boxes are not finite or have a width or height below 0: bbox "
            f"{xywh[wrong][0].tolist()}, number {int(wrong.nonzero()[0]) + 1}"
        )
    return xyxy


def within(xyxy: Tensor, sizes: Tensor, source: object) -> tuple[Tensor, Tensor]:
    """Clip boxes (M, 4) to their images and drop the empty ones; warn with the number of changed boxes.

    Parameters
    ----------
    xyxy : Tensor
        float32 (M, 4).
    sizes : Tensor
        (M, 2): height and width of each box's image.
    source : object
        The file, for the message.

    Returns
    -------
    xyxy : Tensor
        (L, 4): the remaining boxes. A box that leaves its image by at most half a pixel stays unchanged.
    kept : Tensor
        bool (M,): False for boxes without area or completely outside their image.

    Warns
    -----
    UserWarning
        Boxes were dropped or clipped.
    """
    inside = xyxy.clamp(min=0).minimum(sizes.to(xyxy).flip(1).repeat(1, 2))
    flat = (xyxy[:, 2:] <= xyxy[:, :2]).any(dim=1)
    outside = (inside[:, 2:] <= inside[:, :2]).any(dim=1) & ~flat
    kept = ~(flat | outside)
    cut = ((inside - xyxy).abs() > _ROUNDING).any(dim=1) & kept
    counts = {"without area left out": flat, "outside the image left out": outside, "cut off at the border": cut}
    changes = [f"{int(rows.sum())} boxes {change}" for change, rows in counts.items() if rows.any()]
    if changes:
        warnings.warn(f"{source}: {', '.join(changes)}", stacklevel=4)
    return torch.where(cut[:, None], inside, xyxy)[kept], kept


class Boxes(NamedTuple):
    """M boxes of several images and labels, on the CPU.

    Attributes
    ----------
    xyxy : Tensor
        float32 (M, 4): x1, y1, x2, y2 in pixels, x2 and y2 exclusive.
    image, label : Tensor
        int64 (M,): index of the image in the batch, and of the label among the model's labels.
    score : Tensor
        float32 (M,).
    """

    xyxy: Tensor
    image: Tensor
    label: Tensor
    score: Tensor

    def where(self, chosen: Tensor) -> Boxes:
        """Return the boxes selected by a mask, bool (M,), or by indices."""
        return Boxes(*(column[chosen] for column in self))

    @classmethod
    def concatenate(cls, tables: Sequence[Boxes]) -> Boxes:
        """Join several tables; image indices are not changed."""
        return cls(*(torch.cat(columns) for columns in zip(cls.from_lists([], []), *tables, strict=True)))

    @classmethod
    def from_lists(cls, boxes: Sequence[Tensor], labels: Sequence[Tensor]) -> Boxes:
        """Convert true boxes of N images, (B, 4) and (B,) each (:func:`thoraxlib.datasets.collate`); scores are 1.

        Raises
        ------
        ValueError
            An image has another number of boxes than of labels.
        """
        counts = [len(each) for each in boxes]
        if counts != [len(each) for each in labels]:
            raise ValueError(f"boxes of {counts} and labels of {[len(each) for each in labels]} entries do not match")
        image = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts, dtype=torch.long))
        corners = [each.as_subclass(Tensor).reshape(-1, 4).float().cpu() for each in boxes]
        indices = [each.long().cpu() for each in labels]
        return cls(
            torch.cat([torch.zeros(0, 4), *corners]),
            image,
            torch.cat([torch.zeros(0, dtype=torch.long), *indices]),
            torch.ones(len(image)),
        )


def to_original(boxes: Boxes, spec: InputSpec, sizes: Sequence[tuple[int, int]]) -> Boxes:
    """Convert boxes from pixels of a model's input to pixels of the original images.

    Boxes are clipped to the image; boxes completely in the padding are dropped.

    Parameters
    ----------
    boxes : Boxes
        In pixels of the input, ``spec.size``.
    spec : InputSpec
        Resize, crop and padding of the images.
    sizes : sequence of (int, int)
        (H, W) of each image.

    Raises
    ------
    ValueError
        A box of an image that has no size.

    Examples
    --------
    >>> boxes = Boxes.from_lists([torch.tensor([[0.0, 0.0, 112.0, 224.0]])], [torch.tensor([0])])
    >>> to_original(boxes, InputSpec(size=224), [(1000, 2000)]).xyxy.tolist()
    [[0.0, 0.0, 1000.0, 1000.0]]
    """
    check_indices("images of the boxes", boxes.image, len(sizes))
    if not sizes:
        return boxes
    xyxy = in_originals(boxes.xyxy, boxes.image, spec, sizes)
    return boxes._replace(xyxy=xyxy).where(area(xyxy) > 0)


def in_originals(xyxy: Tensor, image: Tensor, spec: InputSpec, sizes: Sequence[tuple[int, int]]) -> Tensor:
    """Convert boxes (M, 4) of images (M,) as in :func:`to_original`; boxes in the padding get area 0."""
    from thoraxlib.images import placement

    placed = [placement(spec, height, width) for height, width in sizes]
    corner = torch.tensor([[each.left, each.top] * 2 for each in placed], dtype=torch.float32)
    scale = torch.tensor([[w / each.width, h / each.height] * 2 for each, (h, w) in zip(placed, sizes, strict=True)])
    limit = torch.tensor([[w, h] * 2 for h, w in sizes], dtype=torch.float32)
    return torch.minimum(((xyxy + corner[image]) * scale[image]).clamp(min=0), limit[image])
