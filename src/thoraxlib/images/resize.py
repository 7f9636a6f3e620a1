"""The three resize rules of an input spec, as one resize and one crop with exact numbers."""

from __future__ import annotations

from typing import Any, NamedTuple

from torchvision.transforms import v2

from thoraxlib.input_spec import InputSpec

__all__ = ["Placement", "Resize", "placement"]


class Placement(NamedTuple):
    """How an image lies in a model's input: resized to (height, width), then cut out from (top, left).

    A point (x, y) of the image's pixel coordinates lies at ``x * width / W - left``, ``y * height / H - top`` of the
    input. Negative `top` and `left` mean black borders.
    """

    height: int
    width: int
    top: int
    left: int


def placement(spec: InputSpec, height: int, width: int) -> Placement:
    """Where an image of `height` x `width` pixels goes in the input that `spec` describes.

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
    if spec.resize == "crop":
        goal_h, goal_w = round(h / spec.crop_ratio), round(w / spec.crop_ratio)
        by_height = goal_h * width >= goal_w * height  # the image is the wider one: its height decides
    else:
        goal_h, goal_w = h, w
        by_height = goal_h * width <= goal_w * height
    # the other side is rounded down, as torchvision does
    if by_height:
        new_h, new_w = goal_h, max(1, goal_h * width // height)
    else:
        new_h, new_w = max(1, goal_w * height // width), goal_w
    return Placement(new_h, new_w, round((new_h - h) / 2), round((new_w - w) / 2))


class Resize(v2.Transform):  # type: ignore[misc]
    """Bring images with their boxes and masks to ``spec.size`` by ``spec.resize``: bilinear, antialiased.

    Parameters
    ----------
    spec : InputSpec
        Its `size`, `resize` and `crop_ratio` are used.
    """

    def __init__(self, spec: InputSpec) -> None:
        super().__init__()
        self.spec = spec

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """The placement for the inputs' common size."""
        height, width = v2.functional.get_size(flat_inputs[0])
        return {"place": placement(self.spec, height, width)}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Resize and cut one input."""
        place = params["place"]
        inpt = v2.functional.resize(inpt, [place.height, place.width], antialias=True)
        if (place.height, place.width) == self.spec.size:
            return inpt
        return v2.functional.crop(inpt, place.top, place.left, *self.spec.size)

    def extra_repr(self) -> str:
        """Size and rule."""
        return f"size={self.spec.size}, rule={self.spec.resize!r}, crop_ratio={self.spec.crop_ratio:.4g}"
