"""Description of a model's input, saved with the model, so that sizes and pixel ranges cannot mismatch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from numbers import Integral, Real
from typing import Any, Literal, get_args

from thoraxlib.utils.arguments import one_of

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

#: ``stretch``: resize to `size`, without keeping the aspect ratio. ``crop``: resize the shorter side to `size` /
#: `crop_ratio`, then crop the centre. ``pad``: resize the longer side to `size`, the image in the centre, the rest
#: `fill`. ``pad_end``: the same with the image at the top left.
ResizeRule = Literal["stretch", "crop", "pad", "pad_end"]

_LARGEST_SIDE = 1 << 14  # pixels; radiographs have less
_MOST_CHANNELS = 1 << 10

#: Resize of ImageNet's tests: the shorter side to 256 pixels, then the central 224 pixels.
CENTRE_CROP: Mapping[str, Any] = {"resize": "crop", "crop_ratio": 224 / 256}


@dataclass(frozen=True)
class InputSpec:
    r"""Input of a model: ``(pixels in [0, 1] - mean) / std``, shape (N, channels, \\*size).

    Attributes
    ----------
    size : tuple of int
        (height, width) in pixels.
    channels : int
        Grey images are repeated to this many channels.
    mean, std : tuple of float
        For each channel, for pixels scaled to [0, 1]. A single value is repeated.
    resize : {"stretch", "crop", "pad", "pad_end"}
        Resize of images to `size`; see :data:`ResizeRule`.
    crop_ratio : float
        For ``crop``: cropped side / resized shorter side, in (0, 1], for example 224 / 256.
    fill : float
        For ``pad`` and ``pad_end``: value of the border, for pixels scaled to [0, 1].
    equalize : bool
        Equalise the grey levels before the resize (:func:`thoraxlib.images.resize.equalize`).
    blur : {0, 3}
        Side of the blur kernel before the resize (:func:`thoraxlib.images.resize.blur3`); 0: no blur.

    Raises
    ------
    ValueError
        Invalid value; the message names the field and the allowed values.
    """

    size: tuple[int, int] = (224, 224)
    channels: int = 3
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    resize: ResizeRule = "stretch"
    crop_ratio: float = 1.0
    fill: float = 0.0
    equalize: bool = False
    blur: int = 0

    def __post_init__(self) -> None:
        sides = (self.size, self.size) if isinstance(self.size, Integral) else self.size
        pair = isinstance(sides, (list, tuple)) and len(sides) == 2
        if not pair or not all(_in(side, _LARGEST_SIDE) for side in sides):
            allowed = f"an int from 1 to {_LARGEST_SIDE}, or a pair of them (height, width)"
            raise ValueError(f"size must be {allowed}, got {_short(self.size)}")
        object.__setattr__(self, "size", tuple(map(int, sides)))
        if not _in(self.channels, _MOST_CHANNELS):
            raise ValueError(f"channels must be an int from 1 to {_MOST_CHANNELS}, got {_short(self.channels)}")
        object.__setattr__(self, "channels", int(self.channels))
        for name in ("mean", "std"):
            value = getattr(self, name)
            plain = value.tolist() if hasattr(value, "tolist") else value  # of NumPy or torch
            values = tuple(plain) if isinstance(plain, (list, tuple)) else (plain,)
            values *= self.channels if len(values) == 1 else 1
            if len(values) != self.channels or not all(map(_number, values)):
                raise ValueError(f"{name} must be 1 or {self.channels} finite numbers (channels), got {_short(value)}")
            object.__setattr__(self, name, tuple(map(float, values)))
        if min(self.std) <= 0:
            raise ValueError(f"std must be positive, got {self.std!r}")
        one_of("resize", self.resize, get_args(ResizeRule))
        for name, valid, allowed in (
            ("crop_ratio", _number(self.crop_ratio) and 0 < self.crop_ratio <= 1, "in (0, 1]"),
            ("fill", _number(self.fill) and 0 <= self.fill <= 1, "in [0, 1]"),
            ("equalize", isinstance(self.equalize, bool), "True or False"),
            ("blur", type(self.blur) is int and self.blur in (0, 3), "0 or 3"),
        ):
            if not valid:
                raise ValueError(f"{name} must be {allowed}, got {_short(getattr(self, name))}")

    @classmethod
    def imagenet(cls, channels: int = 3, **changes: Any) -> InputSpec:
        """Return a spec with ImageNet statistics; unless `channels` is 3, their average over the colours."""
        return cls().with_channels(channels).updated(changes)

    def with_channels(self, channels: int) -> InputSpec:
        """Return a copy for another number of channels, with the average of mean and std over the channels here."""
        if channels == self.channels:
            return self
        mean, std = ((sum(values) / len(values),) for values in (self.mean, self.std))
        return replace(self, channels=channels, mean=mean, std=std)

    def updated(self, changes: Mapping[str, Any] | InputSpec | None) -> InputSpec:
        """Return a copy with some fields replaced.

        Raises
        ------
        TypeError
            `changes` is no mapping, or names a field that does not exist.
        """
        if changes is None:
            return self
        if isinstance(changes, InputSpec):
            return changes
        if not isinstance(changes, Mapping):
            raise TypeError(f"input_spec must be a mapping of fields to values, got {_short(changes)}")
        known = [f.name for f in fields(self)]
        unknown = sorted(map(str, set(changes) - set(known)))
        if unknown:
            raise TypeError(f"input_spec has no field {unknown}; accepted: {known}")
        return replace(self, **changes)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain JSON values; :meth:`updated` reads them."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


def _number(value: object) -> bool:
    """Return True if `value` is a finite number, and no boolean."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an int beyond the floats
        return False


def _in(value: object, most: int) -> bool:
    """Return True if `value` is a whole number from 1 to `most`, and no boolean."""
    return isinstance(value, Integral) and not isinstance(value, bool) and 1 <= int(value) <= most


def _short(value: object) -> str:
    """Format `value` for a message; values from files may be very long."""
    try:
        text = repr(value)
    except ValueError:  # an int of thousands of digits
        return "a number of thousands of digits"
    return text if len(text) < 200 else f"{text[:200]}..."
