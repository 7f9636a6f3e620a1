"""How an image's grid of pixels lies, and the way to an upright picture and back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from PIL import Image as PILImage
from torch import Tensor


@dataclass(frozen=True)
class Geometry:
    """Size, spacing and orientation of an image's pixels.

    A picture is upright when the patient's head is at its top, the patient's left at its right (of a frontal image) and
    its pixels are square. Laterals are not mirrored: both sides are in use.

    Attributes
    ----------
    height, width : int
        In stored pixels.
    spacing : (float, float), optional
        Millimetres between rows and between columns.
    aspect : float
        Height of a pixel over its width.
    orientation : (str, str), optional
        Where rows and columns run to, as DICOM's PatientOrientation: ``("L", "F")``, to the patient's left and feet, is
        upright; ``("R", "F")`` is mirrored. None where it is not known: then nothing is turned.

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
        """Whether the stored picture is upright, as far as is known."""
        return self._turns == (False, False, False) and self._square == (self.height, self.width)

    def upright(self, image: Tensor) -> Tensor:
        """The upright picture of a stored one.

        Parameters
        ----------
        image : Tensor
            (..., height, width), as :func:`thoraxlib.images.read` gives it.

        Raises
        ------
        ValueError
            An image of another size; or pixels of such a shape that the square ones would be more than Pillow's limit
            allows.
        """
        from torchvision.transforms.v2 import functional

        if tuple(image.shape[-2:]) != (self.height, self.width):
            raise ValueError(f"image must be (..., {self.height}, {self.width}), got shape {tuple(image.shape)}")
        limit = PILImage.MAX_IMAGE_PIXELS
        if limit is not None and self._square[0] * self._square[1] > 2 * limit:
            raise ValueError(
                f"aspect={self.aspect:.3g}: {' x '.join(map(str, self._square))} square pixels are too many"
            )
        if self._square != (self.height, self.width):
            image = functional.resize(image, list(self._square), antialias=True)
        transposed, mirrored, upside_down = self._turns
        image = image.mT if transposed else image
        axes = [axis for axis, turned in ((-1, mirrored), (-2, upside_down)) if turned]
        return image.flip(axes) if axes else image

    def to_upright(self, boxes: Tensor) -> Tensor:
        """Boxes (B, 4), XYXY in pixels of the stored picture, in pixels of the upright one."""
        height, width = self._square
        transposed, mirrored, upside_down = self._turns
        boxes = _in_fractions(boxes)
        boxes = boxes * boxes.new_tensor([width / self.width, height / self.height] * 2)
        if transposed:
            boxes, height, width = boxes[:, [1, 0, 3, 2]], width, height
        return _flipped(boxes, height, width, mirrored, upside_down)

    def to_stored(self, boxes: Tensor) -> Tensor:
        """Boxes (B, 4) of the upright picture in the file's own pixels: the inverse of :meth:`to_upright`."""
        height, width = self._square
        transposed, mirrored, upside_down = self._turns
        boxes = _in_fractions(boxes)
        boxes = _flipped(boxes, *((width, height) if transposed else (height, width)), mirrored, upside_down)
        boxes = boxes[:, [1, 0, 3, 2]] if transposed else boxes
        return boxes * boxes.new_tensor([self.width / width, self.height / height] * 2)

    @property
    def _square(self) -> tuple[int, int]:
        """(height, width) of the stored picture in square pixels, none of them larger than the stored ones."""
        if self.aspect >= 1:
            return round(self.height * self.aspect), self.width
        return self.height, round(self.width / self.aspect)

    @property
    def _turns(self) -> tuple[bool, bool, bool]:
        """What makes it upright: transposed, then mirrored, upside down."""
        across, down = (part[:1].upper() for part in self.orientation or ("", ""))
        transposed = across in ("H", "F") and down not in ("H", "F")
        if transposed:
            across, down = down, across
        return transposed, across == "R", down == "H"


def _in_fractions(boxes: Tensor) -> Tensor:
    """In floating point: a scale is no whole number."""
    return boxes if boxes.is_floating_point() else boxes.float()


def _flipped(boxes: Tensor, height: int, width: int, mirrored: bool, upside_down: bool) -> Tensor:
    x0, y0, x1, y1 = boxes.unbind(1)
    if mirrored:
        x0, x1 = width - x1, width - x0
    if upside_down:
        y0, y1 = height - y1, height - y0
    return torch.stack([x0, y0, x1, y1], dim=1)
