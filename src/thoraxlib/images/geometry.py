"""Geometry of an image's pixels, and conversion to the upright orientation and back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from PIL import Image as PILImage
from torch import Tensor


@dataclass(frozen=True)
class Geometry:
    """Size, spacing and orientation of an image's pixels.

    An image is upright if the patient's head is at its top, the patient's left at its right (in a frontal image), and
    its pixels are square. Lateral images are not mirrored: both directions are in use.

    Attributes
    ----------
    height, width : int
        Size in stored pixels.
    spacing : (float, float), optional
        Millimetres between rows and between columns.
    aspect : float
        Height of a pixel over its width.
    orientation : (str, str), optional
        Directions of rows and of columns, as in DICOM's PatientOrientation: ``("L", "F")``, to the patient's left and
        feet, is upright; ``("R", "F")`` is mirrored. None if unknown: then the image is not turned.

    Examples
    --------
    >>> mirrored = Geometry(height=100, width=80, orientation=("R", "F"))
    >>> mirrored.is_upright
    False
    >>> box = torch.tensor([[0.0, 10.0, 20.0, 30.0]])
    >>> mirrored.to_upright(box).tolist()
    [[60.0, 10.0, 80.0, 30.0]]
    >>> mirrored.to_stored(mirrored.to_upright(box)).tolist()
    [[0.0, 10.0, 20.0, 30.0]]
    """

    height: int
    width: int
    spacing: tuple[float, float] | None = None
    aspect: float = 1.0
    orientation: tuple[str, str] | None = None

    @property
    def is_upright(self) -> bool:
        """Return True if the stored image is upright, as far as is known."""
        return self._turns == (False, False, False) and self._square == (self.height, self.width)

    def upright(self, image: Tensor) -> Tensor:
        """Turn a stored image upright, with square pixels.

        Parameters
        ----------
        image : Tensor
            (..., height, width), as :func:`thoraxlib.images.read` gives it.

        Raises
        ------
        ValueError
            `image` has another size, or would have more square pixels than Pillow's limit allows.
        """
        from torchvision.transforms.v2 import functional

        if tuple(image.shape[-2:]) != (self.height, self.width):
            raise ValueError(f"image must be (..., {self.height}, {self.width}), got shape {tuple(image.shape)}")
        limit, (height, width) = PILImage.MAX_IMAGE_PIXELS, self._square
        if limit is not None and height * width > 2 * limit:
            raise ValueError(f"aspect={self.aspect:.3g}: {height} x {width} square pixels are too many")
        if (height, width) != (self.height, self.width):
            image = functional.resize(image, [height, width], antialias=True)
        transposed, mirrored, upside_down = self._turns
        image = image.mT if transposed else image
        axes = [axis for axis, turned in ((-1, mirrored), (-2, upside_down)) if turned]
        return image.flip(axes) if axes else image

    def to_upright(self, boxes: Tensor) -> Tensor:
        """Convert boxes (B, 4), XYXY, from pixels of the stored image to pixels of the upright one."""
        height, width = self._square
        transposed, mirrored, upside_down = self._turns
        boxes = boxes if boxes.is_floating_point() else boxes.float()
        boxes = boxes * boxes.new_tensor([width / self.width, height / self.height] * 2)
        if transposed:
            boxes, height, width = boxes[:, [1, 0, 3, 2]], width, height
        return _flipped(boxes, height, width, mirrored, upside_down)

    def to_stored(self, boxes: Tensor) -> Tensor:
        """Convert boxes (B, 4), XYXY, from pixels of the upright image to pixels of the stored one."""
        height, width = self._square
        transposed, mirrored, upside_down = self._turns
        boxes = boxes if boxes.is_floating_point() else boxes.float()
        boxes = _flipped(boxes, *((width, height) if transposed else (height, width)), mirrored, upside_down)
        boxes = boxes[:, [1, 0, 3, 2]] if transposed else boxes
        return boxes * boxes.new_tensor([self.width / width, self.height / height] * 2)

    @property
    def _square(self) -> tuple[int, int]:
        """(height, width) of the stored image in square pixels, as large as the shorter side of a stored pixel."""
        if self.aspect >= 1:
            return round(self.height * self.aspect), self.width
        return self.height, round(self.width / self.aspect)

    @property
    def _turns(self) -> tuple[bool, bool, bool]:
        """Flags of the steps that make the image upright: transpose, then mirror, then turn upside down."""
        across, down = (part[:1].upper() for part in self.orientation or ("", ""))
        transposed = across in ("H", "F") and down not in ("H", "F")
        if transposed:
            across, down = down, across
        return transposed, across == "R", down == "H"


def _flipped(boxes: Tensor, height: int, width: int, mirrored: bool, upside_down: bool) -> Tensor:
    x0, y0, x1, y1 = boxes.unbind(1)
    if mirrored:
        x0, x1 = width - x1, width - x0
    if upside_down:
        y0, y1 = height - y1, height - y0
    return torch.stack([x0, y0, x1, y1], dim=1)
