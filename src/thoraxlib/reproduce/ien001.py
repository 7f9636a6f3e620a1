"""Crop rules of the public AG-CNN codes, bit for bit: Ien001/AG-CNN and lawAfua/Attention-Guided-CNN-..."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from thoraxlib.localization.crops import register
from thoraxlib.localization.crops.components import Component
from thoraxlib.localization.crops.resample import Taps, at_once, down, taps
from thoraxlib.localization.crops.rules import OtsuCrop
from thoraxlib.reproduce.fixed_point import upsample_uint8

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet


@register("ien001_clean")
@dataclass(kw_only=True, eq=False)
class Ien001CleanCrop(OtsuCrop):
    """Crops of the boxes of Ien001/AG-CNN and its copies: Otsu's level of the channels' sum in 8 bits.

    The heat map is truncated to 8 bits first and then enlarged in whole numbers, see
    :func:`thoraxlib.reproduce.fixed_point.upsample_uint8`. Boxes are equal to those of the code.

    Parameters
    ----------
    tau : float, optional
        Fixed share of the highest level instead of Otsu's level, above 0 and below 1; in the code a comment, with 0.7.

    Other Parameters
    ----------------
    statistic, connectivity, size
        See :class:`CropRule`.
    """

    statistic: str | Callable[[Tensor], Tensor] = "sum"
    tau: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tau is not None and not 0 < self.tau < 1:
            raise ValueError(f"tau={self.tau}: above 0 and below 1, or None for Otsu's level")

    def levels(self, hot: Tensor, size: tuple[int, int]) -> Tensor:
        """See :meth:`CropRule.levels`."""
        return upsample_uint8((255 * hot).int(), size).float()

    def mask(self, levels: Tensor) -> Tensor:
        """See :meth:`CropRule.mask`."""
        return super().mask(levels) if self.tau is None else levels > 255 * self.tau


@register("ien001")
@dataclass(kw_only=True, eq=False)
class Ien001Crop(Ien001CleanCrop):
    """Boxes and crops of Ien001/AG-CNN and its copies: the boxes of "ien001_clean", cut out by :func:`tile_crop`.

    For their published weights, and for comparison. Crops are equal to those of the code, except for a few values in
    ten thousand, which differ by one grey level. The code's boxes lack their last row and column, so that a component
    one pixel high or wide has an empty crop: such an image is not valid here, and black in the code.

    Crops are rounded and have no gradient.

    Other Parameters
    ----------------
    tau, statistic, connectivity, size
        See :class:`Ien001CleanCrop`.
    """

    def region(self, mask: Tensor) -> Component:
        """See :meth:`CropRule.region`."""
        largest = super().region(mask)
        valid = largest.valid & (largest.box[:, 2:] - largest.box[:, :2] > 1).all(dim=1)
        return Component(largest.mask, largest.box, valid)  # torch 2.6 does not compile _replace

    def cut(self, images: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
        """See :meth:`CropRule.cut`."""
        return tile_crop(images, boxes, size)

    def window(self, boxes: Tensor, size: tuple[int, int]) -> Tensor:
        """See :meth:`CropRule.window`; the tile's displacement by two pixels is ignored."""
        low, high = boxes[:, :2].float(), boxes[:, 2:].float() - 1
        margin = torch.tensor([_margin(size[1]), _margin(size[0])], device=boxes.device)
        side = torch.tensor([size[1], size[0]], device=boxes.device) + 2 * margin
        edge = (high - low) * margin / side
        return torch.cat([low + edge, high - edge], dim=1)


def _margin(length: int) -> int:
    """Number of pixels that the code cuts off at either end: 16 of 256 for 224."""
    return length // 14


@torch.no_grad()
def tile_crop(images: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Crop normalised images (N, 3, H, W) to (N, 3, H', W') exactly as Ien001/AG-CNN does, including its bugs.

    1. The image's memory, stored channel by channel, is read as if it were stored pixel by pixel, and the middle third
       is cut out: mostly every third pixel of the green channel, of the whole field of view.
    2. That tile is enlarged to (H, W), and the box is cut out without its last row and column.
    3. Values times 256 become 8-bit by dropping all but the lowest byte, so that grey levels wrap around.
    4. The result is enlarged to 8/7 of `size` by Pillow's bilinear resize, columns first, rounded after each direction;
       its middle is cut out, divided by 255 and normalised again.

    Parameters
    ----------
    images : Tensor
        Floating point, normalised by the mean and standard deviation of ImageNet.
    boxes : Tensor
        int64 (N, 4): x1, y1, x2, y2 with x2 and y2 exclusive, at least two pixels wide and high.
    size : (int, int)
        (H', W') of the crops.

    Raises
    ------
    ValueError
        Images without three channels, or one pixel wide or high.
    """
    if images.shape[1] != 3 or min(images.shape[2:]) < 2:
        raise ValueError(
            f"the crop of 'ien001' needs images (N, 3, H, W) of 2 x 2 pixels at least, got {tuple(images.shape)}"
        )
    n, channels, h, w = images.shape
    y, x = (slice(int(length * 0.334), int(length * 0.667)) for length in (h, w))
    tile = images.float().reshape(n, h, w, channels)[:, y, x].permute(0, 3, 1, 2)
    x1, y1, x2, y2 = boxes.unbind(dim=1)
    zero = boxes.new_zeros(1)
    above, beside = (
        taps(zero, zero + side, length, torch.float32) for side, length in zip(tile.shape[2:], (h, w), strict=True)
    )
    rows, columns = (
        taps(low, high - 1, length, torch.float32, _margin(length))
        for low, high, length in ((y1, y2, size[0]), (x1, x2, size[1]))
    )
    if at_once(images):
        return _of_tile(tile, (above, beside), (rows, columns)).to(images.dtype)
    crops = images.new_empty(n, channels, *size)
    for k, (left, top, right, bottom) in enumerate(boxes.tolist()):
        in_box = above.between(top, bottom), beside.between(left, right)
        crops[k : k + 1] = _of_tile(tile[k : k + 1], in_box, (rows.of(k, top), columns.of(k, left)))
    return crops


def _of_tile(tile: Tensor, picture: tuple[Taps, Taps], crop: tuple[Taps, Taps]) -> Tensor:
    """Crops of tiles (N, 3, h, w): `picture` enlarges the tiles, `crop` the result, both as (rows, columns)."""
    (above, beside), (rows, columns) = picture, crop
    grey = down(down(tile, above).mT, beside)  # transposed
    grey = grey.mul_(256).int().bitwise_and_(255).float()
    grey = down(grey, columns).add_(0.5).floor_()
    grey = down(grey.mT, rows).add_(0.5).floor_()
    mean, std = (255 * grey.new_tensor(each)[:, None, None] for each in (_MEAN, _STD))
    return grey.sub_(mean).div_(std)
