"""What a model expects of its input: it travels with the model, so that pixel ranges cannot mismatch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args

from thoraxlib.arguments import one_of

__all__ = ["CENTRE_CROP", "IMAGENET_MEAN", "IMAGENET_STD", "InputSpec", "ResizeRule"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

#: ``stretch``: to `size`, aspect ratio lost. ``crop``: shorter side to `size` / `crop_ratio`, centre crop.
#: ``pad``: longer side to `size`, the rest `fill`, the image in the centre; ``pad_end``: the image at the top left.
ResizeRule = Literal["stretch", "crop", "pad", "pad_end"]

#: How ImageNet's networks are tested: the shorter side to 256 pixels, of which the middle 224.
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
        How an image of another size or shape is brought to `size`; see :data:`ResizeRule`.
    crop_ratio : float
        For ``crop``: cropped side / resized shorter side, in (0, 1]; e.g. 224 / 256.
    fill : float
        For ``pad`` and ``pad_end``: the border's value, for pixels scaled to [0, 1].
    equalize : bool
        Equalise the grey levels before the resize (:func:`thoraxlib.images.enhance.equalize`).
    blur : {0, 3}
        Blur by a 3 x 3 kernel before the resize (:func:`thoraxlib.images.enhance.blur3`); 0 does not.

    Raises
    ------
    ValueError
        At construction, naming the field and the allowed values.
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
        size = (self.size, self.size) if isinstance(self.size, int) else tuple(self.size)
        if len(size) != 2 or any(not isinstance(side, int) or side < 1 for side in size):
            raise ValueError(f"size must be a positive int or a pair of them (height, width), got {self.size!r}")
        object.__setattr__(self, "size", size)
        if not isinstance(self.channels, int) or self.channels < 1:
            raise ValueError(f"channels must be a positive int, got {self.channels!r}")
        for name in ("mean", "std"):
            value = getattr(self, name)
            values = (float(value),) if isinstance(value, (int, float)) else tuple(float(v) for v in value)
            if len(values) == 1:
                values *= self.channels
            if len(values) != self.channels or not all(map(math.isfinite, values)):
                raise ValueError(f"{name} must be 1 or {self.channels} finite numbers (channels), got {value!r}")
            object.__setattr__(self, name, values)
        if min(self.std) <= 0:
            raise ValueError(f"std must be positive, got {self.std!r}")
        one_of("resize", self.resize, get_args(ResizeRule))
        if not 0 < self.crop_ratio <= 1:
            raise ValueError(f"crop_ratio must be in (0, 1], got {self.crop_ratio!r}")
        if not 0 <= self.fill <= 1:
            raise ValueError(f"fill must be in [0, 1], got {self.fill!r}")
        one_of("blur", self.blur, (0, 3))

    @classmethod
    def imagenet(cls, channels: int = 3, **changes: Any) -> InputSpec:
        """ImageNet statistics; for other than 3 channels, their average over the colours."""
        return cls().with_channels(channels).updated(changes)

    def with_channels(self, channels: int) -> InputSpec:
        """The same for images of another number of channels, whose mean and std are the average of those here."""
        if channels == self.channels:
            return self
        mean, std = ((sum(values) / len(values),) for values in (self.mean, self.std))
        return replace(self, channels=channels, mean=mean, std=std)

    def updated(self, changes: Mapping[str, Any] | InputSpec | None) -> InputSpec:
        """A copy with some fields replaced.

        Raises
        ------
        TypeError
            `changes` names a field that does not exist.
        """
        if changes is None:
            return self
        if isinstance(changes, InputSpec):
            return changes
        known = [f.name for f in fields(self)]
        unknown = sorted(set(changes) - set(known))
        if unknown:
            raise TypeError(f"input_spec has no field {unknown}; accepted: {known}")
        return replace(self, **changes)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, for :meth:`updated` to read back."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
