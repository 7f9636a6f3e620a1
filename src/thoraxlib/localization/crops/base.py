"""What all rules share: from a feature map to a crop."""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from thoraxlib.localization.crops.components import Component, largest_component
from thoraxlib.localization.crops.heat import STATISTICS, heat
from thoraxlib.localization.crops.resample import crop_and_resize
from thoraxlib.localization.scaling import upsample
from thoraxlib.utils.arguments import height_and_width, one_of


class Crop(NamedTuple):
    """What a rule found in N images of (H, W) pixels.

    Attributes
    ----------
    crop : Tensor
        (N, C, H', W'): what the image shows in the box, enlarged.
    box : Tensor
        int64 (N, 4): x1, y1, x2, y2 in the image's pixels, x2 and y2 exclusive.
    valid : Tensor
        bool (N,): False where there was nothing to find, so that the box is the whole image.
    heat : Tensor
        (N, h, w): of the feature map, stretched to [0, 1]; float32, or float64 as the features are.
    mask : Tensor
        bool (N, H, W): what the rule picked.
    component : Tensor
        bool (N, H, W): its largest connected component.
    window : Tensor
        float32 (N, 4): x1, y1, x2, y2, the edges of what the crop shows, for
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
        """`box` as AG-CNN's codes have it: ymin, xmin, ymax, xmax, all four inclusive."""
        x1, y1, x2, y2 = self.box.unbind(dim=1)
        return torch.stack([y1, x1, y2 - 1, x2 - 1], dim=1)


@dataclass(kw_only=True, eq=False)
class CropRule(abc.ABC):
    """The box of the largest region of what a rule picks from a feature map, cut out of the image and enlarged.

    The heat of the map's channels is stretched to [0, 1] and enlarged to the image; a rule says which pixels count; the
    bounding box of the largest connected component is cut out. A map that is constant or not finite, or in which the
    rule finds nothing, gives the whole image. Guan et al. 2018 (arXiv 1801.09927), section III-B; what the paper leaves
    open (stretching, where the threshold acts, connectivity) is an option or said here.

    No gradient goes through heat and box; the crop is differentiable with respect to the image.

    Parameters
    ----------
    statistic : {"max_abs", "l1", "l2", "sum"} or callable
        Heat of the channels, see :func:`thoraxlib.localization.crops.heat.heat`; or a function (N, K, h, w) -> (N, h,
        w).
    connectivity : {8, 4}
        Whether pixels that touch at a corner are connected.
    size : int or (int, int), optional
        Of the crop, (H', W'); default the image's own.
    on_empty : {"full", "raise"}
        What to do where nothing is found: the whole image, or a ValueError.

    Raises
    ------
    ValueError
        An option out of its range.
    """

    statistic: str | Callable[[Tensor], Tensor] = "max_abs"
    connectivity: int = 8
    size: int | Sequence[int] | None = None
    on_empty: str = "full"

    def __post_init__(self) -> None:
        if not callable(self.statistic):
            one_of("statistic", self.statistic, STATISTICS, ", or a function (N, K, h, w) -> (N, h, w)")
        one_of("connectivity", self.connectivity, (4, 8))
        one_of("on_empty", self.on_empty, ("full", "raise"))
        if self.size is not None:
            self.size = height_and_width(self.size)

    def __call__(self, images: Tensor, features: Tensor) -> Crop:
        """Crops of images.

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
            Images or features of another shape, on two devices; a rule or statistic that gives another shape than it
            should; with ``on_empty="raise"``, an image in which nothing is found.
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
        if self.on_empty == "raise" and not valid.all():
            _explain(valid, features, hot)
        size = frame if self.size is None else height_and_width(self.size)
        return Crop(self.cut(images, box, size), box, valid, hot, mask, component, self.window(box, size))

    def levels(self, hot: Tensor, size: tuple[int, int]) -> Tensor:
        """Heat (N, h, w) from 0 to 1 as grey levels 0 to 255 at `size`: float (N, H, W)."""
        return upsample(255 * hot[:, None], size)[:, 0]

    @abc.abstractmethod
    def mask(self, levels: Tensor) -> Tensor:
        """Which pixels count, bool (N, H, W), of grey levels from 0 to 255, float (N, H, W): what a rule defines."""

    def region(self, mask: Tensor) -> Component:
        """The component of a mask (N, H, W) whose box is cut out."""
        return largest_component(mask, self.connectivity)

    def cut(self, images: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
        """Images (N, C, H, W) in boxes (N, 4), at `size`."""
        return crop_and_resize(images, boxes, size)

    def window(self, boxes: Tensor, size: tuple[int, int]) -> Tensor:
        """The edges of what a crop of `size` shows, float32 (N, 4)."""
        return boxes.float()


def _check(name: str, shape: str, tensor: Tensor) -> None:
    if not (isinstance(tensor, Tensor) and tensor.is_floating_point()):
        kind = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
        raise TypeError(f"{name} must be a floating-point tensor {shape}, got {kind}")
    if tensor.ndim != 4 or 0 in tensor.shape[1:]:
        raise ValueError(f"{name} must be {shape}, with at least one channel and place, got {tuple(tensor.shape)}")


def _expect(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != shape:
        raise ValueError(f"the rule's {name} must give {shape}, it gave {tuple(tensor.shape)}")


def _explain(valid: Tensor, features: Tensor, hot: Tensor) -> None:
    first = int((~valid).nonzero()[0])
    if not features[first].isfinite().all():
        why = "its features are not finite"
    elif not hot[first].any():
        why = "its heat is the same everywhere"
    else:
        why = "the rule leaves nothing to cut out"
    raise ValueError(f"nothing is found in {int((~valid).sum())} of {len(valid)} images, e.g. image {first}: {why}")
