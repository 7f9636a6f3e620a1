"""The preprocessing that an :class:`~thoraxlib.InputSpec` asks for, for samples, images, tensors and files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torchvision import tv_tensors
from torchvision.transforms import v2

from thoraxlib.images import augmentations
from thoraxlib.images.reading import Source, read, scaled
from thoraxlib.images.resize import Resize
from thoraxlib.input_spec import InputSpec
from thoraxlib.registry import Spec


class HasInputSpec(Protocol):
    """Anything that says what input it expects, as every thoraxlib model does."""

    input_spec: InputSpec


def transform_for(spec: InputSpec, *, train: Spec | nn.Module | None = None) -> InputTransform:
    """The transform that makes a model's input of an image.

    Resize (in the image's own depth: bilinear, antialiased, equal to Pillow within one grey level), scale to [0, 1],
    repeat grey to the model's channels, subtract mean, divide by std. Boxes, regions and masks of a sample follow;
    boxes of which less than one pixel is left are dropped together with their label, such regions become empty boxes
    0 0 0 0, not ``present`` and with NaN for their ``region_labels``.

    Parameters
    ----------
    spec : InputSpec
        What the model expects.
    train : str, mapping or nn.Module, optional
        An augmentation by name (see :func:`thoraxlib.images.augmentations.names`), as
        ``{"name": ..., **options}``, or ready; it takes the place of the resize. None for evaluation.

    Returns
    -------
    InputTransform
        To be called with a data set's sample (dict with ``image``), a ``tv_tensors.Image``, or a tensor (..., C, H, W),
        with C = 1 or ``spec.channels``; uint8, uint16, or floating point in [0, 1]. The image comes out as float32
        (..., C, h, w).

    Raises
    ------
    TypeError, ValueError
        When called: another pixel type, NaN, values outside [0, 1], another number of channels.

    Examples
    --------
    >>> transform = transform_for(InputSpec(size=224), train="light")
    >>> transform(torch.zeros(1, 320, 300, dtype=torch.uint8)).shape
    torch.Size([3, 224, 224])
    """
    geometry = Resize(spec) if train is None else augmentations.registry.resolve(train, input_spec=spec)
    return InputTransform(spec, geometry)


class InputTransform(nn.Module):
    """What :func:`transform_for` gives, in two steps, of which a batch can take the second at once.

    Parameters
    ----------
    spec : InputSpec
        What the model expects.
    geometry : nn.Module
        Brings an image with its boxes and masks to the model's size.

    Attributes
    ----------
    place : callable
        From sample to sample, to the model's size; pixels keep their depth, and grey its one channel.
    normalize : callable
        The rest; its ``batch`` makes a batch of images as `place` gives them.
    """

    def __init__(self, spec: InputSpec, geometry: nn.Module) -> None:
        super().__init__()
        self.place = v2.Compose([_Check(spec.channels), geometry, _LostBoxes()])
        self.normalize = _Normalize(spec)

    def forward(self, sample: Any) -> Any:
        """A sample or image as the model wants it."""
        return self.normalize(self.place(sample))


def preprocess_for(model: HasInputSpec | InputSpec) -> Preprocessor:
    """The preprocessing of `model`: from files, PIL images, arrays or tensors to its input.

    Parameters
    ----------
    model : Classifier or InputSpec
        Anything with an ``input_spec``, or the spec itself.

    Returns
    -------
    Preprocessor
        ``preprocess_for(model)(source)`` is a float32 tensor (N, C, h, w).

    Raises
    ------
    TypeError
        `model` has no ``input_spec``.
    """
    spec = model if isinstance(model, InputSpec) else getattr(model, "input_spec", None)
    if not isinstance(spec, InputSpec):
        raise TypeError(f"model must be an InputSpec or have one as input_spec, got {type(model).__qualname__}")
    return Preprocessor(spec)


class Preprocessor:
    """Sources to model input; see :func:`preprocess_for`.

    Parameters
    ----------
    spec : InputSpec
        What the model expects.

    Examples
    --------
    >>> preprocess = Preprocessor(InputSpec(size=224))
    >>> preprocess(np.zeros((300, 240), np.uint8)).shape
    torch.Size([1, 3, 224, 224])
    """

    def __init__(self, spec: InputSpec) -> None:
        self.spec = spec
        self.transform = transform_for(spec)

    def __call__(self, source: Source | Sequence[Source]) -> Tensor:
        """One source, a sequence of them, or a batch (N, ...) as one array or tensor: float32 (N, C, h, w).

        Raises
        ------
        ValueError
            No source at all, or one that :func:`~thoraxlib.images.read` refuses.
        """
        sources = self._listed(source)
        if not sources:
            raise ValueError("source holds no image")
        return self.transform.normalize.batch([self.transform.place(read(one)) for one in sources])

    @staticmethod
    def _listed(source: Source | Sequence[Source]) -> list[Source]:
        if isinstance(source, (Tensor, np.ndarray)):
            return list(source) if source.ndim == 4 else [source]
        return list(source) if isinstance(source, (list, tuple)) else [source]  # type: ignore[list-item]

    def __repr__(self) -> str:
        return f"Preprocessor({self.spec})"


class _OnImage(nn.Module):
    """Changes the image, alone or in a sample; v2.Transform would cost more than the work itself."""

    def forward(self, sample: Any) -> Any:
        if isinstance(sample, dict):
            return {**sample, "image": self.forward(sample["image"])}
        if not isinstance(sample, Tensor):
            raise TypeError(
                f"the image must be a tensor, got {type(sample).__qualname__}; read it with images.read first"
            )
        changed = self.change(sample.as_subclass(Tensor))
        return tv_tensors.Image(changed) if isinstance(sample, tv_tensors.Image) else changed

    def change(self, image: Tensor) -> Tensor:
        """(..., C, H, W), to the same."""
        raise NotImplementedError


class _Check(_OnImage):
    """Refuse pixels that nothing after this could read rightly; uint16 becomes float."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def change(self, image: Tensor) -> Tensor:
        if image.ndim < 3 or image.numel() == 0 or image.shape[-3] not in (1, self.channels):
            raise ValueError(
                f"the image must be (..., C, H, W) with C = 1 or {self.channels} and no empty side, "
                f"got shape {tuple(image.shape)}"
            )
        return scaled(image)


class _LostBoxes(nn.Module):
    """What becomes of boxes that a crop left less than a pixel of.

    ``boxes`` are dropped, with their entries of ``box_labels``; ``regions`` keep their row, as the empty box 0 0 0 0,
    not ``present`` and with ``region_labels`` of NaN.
    """

    def forward(self, sample: Any) -> Any:
        if not isinstance(sample, dict):
            return sample
        changed: dict[str, Any] = {}
        kept, seen = _some_left(sample, "boxes"), _some_left(sample, "regions")
        if kept is not None and not kept.all():
            changed["boxes"] = tv_tensors.wrap(sample["boxes"][kept], like=sample["boxes"])
            if "box_labels" in sample:
                changed["box_labels"] = sample["box_labels"][kept]
        if seen is not None and not seen.all():
            empty = sample["regions"].as_subclass(Tensor) * seen[:, None]
            changed["regions"] = tv_tensors.wrap(empty, like=sample["regions"])
            if "present" in sample:
                changed["present"] = sample["present"] & seen
            if "region_labels" in sample:
                changed["region_labels"] = sample["region_labels"].where(seen[:, None], torch.nan)
        return {**sample, **changed} if changed else sample


def _some_left(sample: dict[str, Any], key: str) -> Tensor | None:
    """Which boxes of ``sample[key]`` have a pixel or more, (B,); None for a sample without them."""
    if key not in sample:
        return None
    boxes: Tensor = sample[key].as_subclass(Tensor)
    return (boxes[:, 2:] - boxes[:, :2] >= 1).all(dim=1)


class _Normalize(_OnImage):
    """Grey to the model's channels, ``(pixels - mean) / std`` for pixels in [0, 1]; uint8 takes the same two steps."""

    def __init__(self, spec: InputSpec) -> None:
        super().__init__()
        self.mean, self.std = torch.tensor(spec.mean)[:, None, None], torch.tensor(spec.std)[:, None, None]

    def change(self, image: Tensor) -> Tensor:
        return self.batch([image])[0]

    def batch(self, images: Sequence[Tensor]) -> Tensor:
        """(N, ..., C, h, w) of N images (..., 1 or C, h, w), each of its own depth, written at once into the batch."""
        *leading, _, height, width = images[0].shape
        batch = torch.empty(len(images), *leading, len(self.mean), height, width, device=images[0].device)
        mean, std = self.mean.to(batch.device), self.std.to(batch.device)
        bytes_mean, bytes_std = 255 * mean, 255 * std
        for index, image in enumerate(images):
            scale = (bytes_mean, bytes_std) if image.dtype == torch.uint8 else (mean, std)
            batch[index].copy_(image.as_subclass(Tensor)).sub_(scale[0]).div_(scale[1])
        return batch
