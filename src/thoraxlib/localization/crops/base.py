"""Crop rules: from a feature map to the box that is cut out of the image."""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from thoraxlib.localization.crops.components import Component, largest_component
from thoraxlib.localization.crops.resample import crop_and_resize
from thoraxlib.localization.maps import upsample
from thoraxlib.utils.arguments import height_and_width, one_of

#: Statistics over the K channels of (N, K, h, w). A mean would give the same as the sum, as heat is stretched.
STATISTICS: dict[str, Callable[[Tensor], Tensor]] = {
    "max_abs": lambda features: features.abs().amax(dim=1),
    "l1": lambda features: features.abs().sum(dim=1),
    "l2": lambda features: features.square().sum(dim=1).sqrt(),
    "sum": lambda features: features.sum(dim=1),
}


def heat(features: Tensor, statistic: str | Callable[[Tensor], Tensor] = "max_abs") -> Tensor:
    """Compute the heat (N, h, w) of a feature map (N, K, h, w), stretched to [0, 1]; a constant map becomes 0.

    Guan et al. 2018 (arXiv 1801.09927), section III-B, for the first three of the statistics:

    ========= ==========================================================
    max_abs   largest absolute value
    l1, l2    norms
    sum       sum of the signed values, as in Ien001/AG-CNN
    ========= ==========================================================

    A map of one channel, such as the heat map of a label, is used unchanged: its highest value is the hottest, whatever
    the statistic.

    The result is float32 or wider, also under autocast, as half precision moves the boxes. A map with values that are
    not finite becomes 0.

    Parameters
    ----------
    features : Tensor
        (N, K, h, w), floating point.
    statistic : str or callable
        A name from the table, or a function (N, K, h, w) -> (N, h, w).
    """
    wide = features if features.dtype.itemsize >= 4 else features.float()
    if isinstance(statistic, str):
        statistic = STATISTICS["sum" if features.shape[1] == 1 else statistic]
    raw = statistic(wide)
    low, high = (extreme[:, None, None] for extreme in raw.flatten(1).aminmax(dim=1))
    span = high - low
    # comparisons with NaN are false
    return torch.where((span > 0) & (span < float("inf")), (raw - low) / span, 0.0)


class Crop(NamedTuple):
    """Result of a crop rule for N images of (H, W) pixels.

    Attributes
    ----------
    crop : Tensor
        (N, C, H', W'): the image inside the box, resized.
    box : Tensor
        int64 (N, 4): x1, y1, x2, y2 in the image's pixels, x2 and y2 exclusive.
    valid : Tensor
        bool (N,): False if the rule selected nothing, so that the box is the whole image.
    heat : Tensor
        (N, h, w): heat of the feature map in [0, 1]; float32, or float64 for float64 features.
    mask : Tensor
        bool (N, H, W): the pixels that the rule selected.
    component : Tensor
        bool (N, H, W): the mask's largest connected component.
    window : Tensor
        float32 (N, 4): x1, y1, x2, y2, the edges of the region that the crop shows, for
        :func:`thoraxlib.localization.crops.paste`.
    """

    crop: Tensor
    box: Tensor
    valid: Tensor
    heat: Tensor
    mask: Tensor
    component: Tensor
    window: Tensor

    @property
    def yxyx(self) -> Tensor:
        """`box` in the format of AG-CNN's codes: ymin, xmin, ymax, xmax, all inclusive."""
        x1, y1, x2, y2 = self.box.unbind(dim=1)
        return torch.stack([y1, x1, y2 - 1, x2 - 1], dim=1)


@dataclass(kw_only=True, eq=False)
class CropRule(abc.ABC):
    """Base class of rules that cut the largest hot region of a feature map out of the image and resize it.

    The heat of the feature map is stretched to [0, 1] and resized to the image. The rule selects pixels by their heat.
    The crop is the bounding box of the largest connected component of these pixels. The whole image is used for a map
    that is constant or not finite, and if no pixel is selected. Guan et al. 2018 (arXiv 1801.09927), section III-B; the
    paper does not define stretching, the resolution of the threshold or the connectivity.

    No gradient goes through heat and box; the crop is differentiable with respect to the image.

    Parameters
    ----------
    statistic : {"max_abs", "l1", "l2", "sum"} or callable
        Statistic of the channels, see :func:`heat`; or a function (N, K, h, w) -> (N, h, w).
    connectivity : {8, 4}
        Neighbours of a pixel: 8 connects pixels that touch at a corner, 4 does not.
    size : int or (int, int), optional
        Size of the crop, (H', W'); default the image's size.

    Raises
    ------
    ValueError
        An option outside its range.
    """

    statistic: str | Callable[[Tensor], Tensor] = "max_abs"
    connectivity: int = 8
    size: int | Sequence[int] | None = None

    def __post_init__(self) -> None:
        if not callable(self.statistic):
            one_of("statistic", self.statistic, STATISTICS, ", or a function (N, K, h, w) -> (N, h, w)")
        one_of("connectivity", self.connectivity, (4, 8))
        if self.size is not None:
            self.size = height_and_width(self.size)

    def __call__(self, images: Tensor, features: Tensor) -> Crop:
        """Crop images.

        Parameters
        ----------
        images : Tensor
            (N, C, H, W), floating point.
        features : Tensor
            (N, K, h, w), floating point, of the same images on the same device.

        Raises
        ------
        TypeError
            Images or features that are not floating-point tensors.
        ValueError
            Images or features of another shape, or on two devices; a rule or statistic that returns another shape than
            it should.
        """
        _check("images", "(N, C, H, W)", images)
        _check("features", "(N, K, h, w)", features)
        count = images.shape[0]  # len(images) would fix it for torch.export
        if count != features.shape[0]:
            raise ValueError(f"features are of {features.shape[0]} images, but there are {count}")
        if images.device != features.device:
            raise ValueError(f"features are on {features.device}, images on {images.device}")
        frame = (images.shape[2], images.shape[3])
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            hot = heat(features, self.statistic)
            _expect("statistic", hot, (count, *features.shape[2:]))
            mask = self.mask(self.levels(hot, frame))
            _expect("mask", mask, (count, *frame))
            component, box, valid = self.region(mask)
            valid = valid & (hot > 0).flatten(1).any(dim=1)
            box = torch.where(valid[:, None], box, box.new_tensor([0, 0, frame[1], frame[0]]))
            component = component & valid[:, None, None]
        size = frame if self.size is None else height_and_width(self.size)
        return Crop(self.cut(images, box, size), box, valid, hot, mask, component, self.window(box, size))

    def levels(self, hot: Tensor, size: tuple[int, int]) -> Tensor:
        """Convert heat (N, h, w) in [0, 1] to grey levels from 0 to 255 at `size`: float (N, H, W)."""
        return upsample(255 * hot[:, None], size)[:, 0]

    @abc.abstractmethod
    def mask(self, levels: Tensor) -> Tensor:
        """Select pixels, bool (N, H, W), by their grey levels from 0 to 255, float (N, H, W)."""

    def region(self, mask: Tensor) -> Component:
        """Choose the component of a mask (N, H, W) whose box is cut out."""
        return largest_component(mask, self.connectivity)

    def cut(self, images: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
        """Cut boxes (N, 4) out of images (N, C, H, W), and resize them to `size`."""
        return crop_and_resize(images, boxes, size)

    def window(self, boxes: Tensor, size: tuple[int, int]) -> Tensor:
        """Edges of the region that a crop of `size` shows, float32 (N, 4)."""
        return boxes.float()


def _check(name: str, shape: str, tensor: Tensor) -> None:
    if not (isinstance(tensor, Tensor) and tensor.is_floating_point()):
        kind = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
        raise TypeError(f"{name} must be a floating-point tensor {shape}, got {kind}")
    if tensor.ndim != 4 or 0 in tensor.shape[1:]:
        raise ValueError(f"{name} must be {shape}, with at least one channel and pixel, got {tuple(tensor.shape)}")


def _expect(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != shape:
        raise ValueError(f"the rule's {name} must give {shape}, it gave {tuple(tensor.shape)}")
