"""Resize rules of an input spec, each with exact numbers; histogram equalisation and blur of 8-bit images."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch.nn import functional as F
from torchvision import tv_tensors
from torchvision.transforms import v2

from thoraxlib.input_spec import InputSpec


class Placement(NamedTuple):
    """Position of an image in a model's input: it is resized to (height, width), then cropped from (top, left).

    A point (x, y) in pixels of the image is at ``x * width / W - left``, ``y * height / H - top`` in the input.
    Negative `top` and `left` are borders.
    """

    height: int
    width: int
    top: int
    left: int

    def shared(self, size: tuple[int, int]) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
        """Return the overlap of the resized image and an input of `size`: (rows, columns) of both, as slices.

        >>> Placement(height=4, width=2, top=1, left=-1).shared((2, 4))
        ((slice(1, 3, None), slice(0, 2, None)), (slice(0, 2, None), slice(1, 3, None)))
        """
        resized, of_input = [], []
        for length, start, side in ((self.height, self.top, size[0]), (self.width, self.left, size[1])):
            count = min(length, start + side) - max(start, 0)
            resized.append(slice(max(start, 0), max(start, 0) + count))
            of_input.append(slice(max(-start, 0), max(-start, 0) + count))
        return (resized[0], resized[1]), (of_input[0], of_input[1])


def placement(spec: InputSpec, height: int, width: int) -> Placement:
    """Return the position of an image of `height` x `width` pixels in the input that `spec` describes.

    Examples
    --------
    >>> placement(InputSpec(size=224, resize="crop", crop_ratio=224 / 256), 300, 240)
    Placement(height=320, width=256, top=48, left=16)
    >>> placement(InputSpec(size=224, resize="pad"), 300, 240)
    Placement(height=224, width=179, top=0, left=-22)
    """
    h, w = spec.size
    if spec.resize == "stretch":
        return Placement(h, w, 0, 0)
    crops = spec.resize == "crop"
    goal_h, goal_w = (round(h / spec.crop_ratio), round(w / spec.crop_ratio)) if crops else (h, w)
    # a crop fills the input with the relatively shorter side of the image, padding with the longer one
    by_height = goal_h * width >= goal_w * height if crops else goal_h * width <= goal_w * height
    if spec.resize == "pad_end":  # rounded as jfhealthcare/Chexpert does
        if by_height:
            return Placement(goal_h, max(1, round(goal_h / (height / width))), 0, 0)
        return Placement(max(1, round(goal_w / (width / height))), goal_w, 0, 0)
    # the other side is rounded down, as torchvision does
    if by_height:
        new_h, new_w = goal_h, max(1, goal_h * width // height)
    else:
        new_h, new_w = max(1, goal_w * height // width), goal_w
    return Placement(new_h, new_w, round((new_h - h) / 2), round((new_w - w) / 2))


class Resize(v2.Transform):  # type: ignore[misc]
    """Resize images with their boxes and masks to ``spec.size`` by the rule ``spec.resize``: bilinear, antialiased.

    If the spec says so, images are first converted to 8 bits and equalised or blurred.

    Parameters
    ----------
    spec : InputSpec
        Its `size`, `resize`, `crop_ratio`, `fill`, `equalize` and `blur` are used.
    """

    def __init__(self, spec: InputSpec) -> None:
        super().__init__()
        self.spec = spec
        self._whole = Placement(*spec.size, 0, 0)

    def forward(self, *inputs: Any) -> Any:
        """Resize the inputs; samples and images that have the size already, as in a training copy, are unchanged."""
        image = inputs[0].get("image") if len(inputs) == 1 and isinstance(inputs[0], dict) else inputs[0]
        done = isinstance(image, torch.Tensor) and tuple(image.shape[-2:]) == self.spec.size
        if done and not (self.spec.equalize or self.spec.blur) and placement(self.spec, *self.spec.size) == self._whole:
            return inputs[0] if len(inputs) == 1 else inputs
        return super().forward(*inputs)

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Return the placement for the inputs' common size."""
        height, width = v2.functional.get_size(flat_inputs[0])
        return {"place": placement(self.spec, height, width)}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Resize and crop or pad one input."""
        place, size = params["place"], self.spec.size
        is_image = not isinstance(inpt, (tv_tensors.BoundingBoxes, tv_tensors.Mask))
        if is_image and (self.spec.equalize or self.spec.blur):
            inpt = self._enhanced(inpt)
        is_grey = is_image and inpt.dtype == torch.uint8 and inpt.shape[-3] == 1 and inpt.device.type == "cpu"
        resize = _grey_bytes_resized if is_grey else _resized
        inpt = resize(inpt, place.height, place.width)
        if (place.height, place.width) == size:
            return inpt
        if self.spec.resize in ("pad", "pad_end"):
            right, bottom = size[1] - place.width + place.left, size[0] - place.height + place.top
            fill = self.spec.fill if is_image else 0.0
            if is_image and inpt.dtype == torch.uint8:
                fill = float(round(fill * 255))
            return v2.functional.pad(inpt, [-place.left, -place.top, right, bottom], fill=fill)
        return v2.functional.crop(inpt, place.top, place.left, *size)

    def _enhanced(self, image: Any) -> Any:
        levels = v2.functional.to_dtype(image, torch.uint8, scale=True).as_subclass(torch.Tensor)
        levels = equalize(levels) if self.spec.equalize else levels
        return tv_tensors.wrap(blur3(levels) if self.spec.blur else levels, like=image)


def _resized(inpt: Any, height: int, width: int) -> Any:
    return v2.functional.resize(inpt, [height, width], antialias=True)


def _grey_bytes_resized(image: Any, height: int, width: int) -> Any:
    """Resize 8-bit grey images (..., H, W) as :func:`_resized` does, bit for bit in torch 2.15, in a third of the time.

    PyTorch pads each grey byte to four channels. Here, the four channels are four strips of rows while the width
    changes, and four neighbouring columns while the height changes; rows and columns are padded to multiples of four.
    """
    rows, columns = image.shape[-2:]
    strips = _padded(image.as_subclass(torch.Tensor), 0, -rows % 4).reshape(-1, 4, -(-rows // 4), columns)
    narrow = _resized(strips, strips.shape[2], width).flatten(1, 2)[:, :rows]
    fours = _padded(narrow, -width % 4, 0).reshape(-1, rows, -(-width // 4), 4).permute(0, 3, 1, 2)
    small = _resized(fours, height, fours.shape[3]).permute(0, 2, 3, 1).flatten(2)[..., :width]
    return tv_tensors.wrap(small.reshape(*image.shape[:-2], height, width), like=image)


def _padded(image: torch.Tensor, right: int, bottom: int) -> torch.Tensor:
    return F.pad(image, (0, right, 0, bottom)) if right or bottom else image


def equalize(image: torch.Tensor) -> torch.Tensor:
    """Equalise the histogram of each image, uint8 (..., H, W), as OpenCV's ``equalizeHist`` with its float32 factor.

    The lowest level that occurs becomes 0, and a level v becomes ``round(255 (n(v) - n0) / (n - n0))``: n(v) is the
    number of pixels up to v, n0 that of the lowest level, and n that of all. An image of one level is unchanged.
    """
    flat = image.flatten(0, -3).flatten(1).long() if image.ndim > 2 else image.flatten().long()[None]
    counts = torch.zeros(len(flat), 256, dtype=torch.float64, device=image.device)
    counts.scatter_add_(1, flat, torch.ones_like(flat, dtype=torch.float64))
    cumulated = counts.cumsum(dim=1)
    first = counts.gather(1, (counts > 0).int().argmax(dim=1, keepdim=True))
    rest = cumulated[:, -1:] - first
    factor = 255 / rest.clamp(min=1).float()
    levels = torch.arange(256, device=image.device, dtype=torch.float32)
    table = torch.where(rest > 0, ((cumulated - first).float() * factor).round(), levels)
    return table.clamp(min=0).gather(1, flat).to(torch.uint8).view_as(image)


def blur3(image: torch.Tensor) -> torch.Tensor:
    """Blur images, uint8 (..., H, W), as OpenCV's ``GaussianBlur`` with 3 x 3 pixels and sigma 0.

    The kernel is (1, 2, 1) / 4 in both directions; the border is reflected, and the result is rounded half up.
    """
    kernel = torch.tensor([1.0, 2.0, 1.0], device=image.device)
    kernel = (kernel[:, None] * kernel)[None, None]
    flat = image.reshape(-1, 1, *image.shape[-2:]).float()
    mode = "reflect" if min(image.shape[-2:]) > 1 else "replicate"
    total = F.conv2d(F.pad(flat, (1, 1, 1, 1), mode=mode), kernel)
    return ((total + 8) / 16).floor().to(torch.uint8).view_as(image)
