"""Preprocessing by an :class:`~thoraxlib.InputSpec`, for samples, images, tensors and files."""

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
    """Protocol of objects with an input specification, such as every model of thoraxlib."""

    input_spec: InputSpec


def transform_for(spec: InputSpec, *, train: Spec | nn.Module | None = None) -> InputTransform:
    """Return the transform from an image or sample to a model's input.

    It resizes (in the image's own depth: bilinear, antialiased, equal to Pillow within one grey level), scales to
    [0, 1], repeats grey for the model's channels, subtracts the mean and divides by the standard deviation. Boxes,
    regions and masks of a sample are resized with it. A box with a side of less than one pixel is removed together with
    its label. Such a region becomes the empty box 0 0 0 0, with ``present`` False and ``region_labels`` NaN.

    Parameters
    ----------
    spec : InputSpec
        The model's input.
    train : str, mapping or nn.Module, optional
        Augmentation that replaces the resize: a name (see :func:`thoraxlib.images.augmentations.names`),
        ``{"name": ..., **options}``, or a module. None for evaluation.

    Returns
    -------
    InputTransform
        Takes a data set's sample (dict with ``image``), a ``tv_tensors.Image``, or a tensor (..., C, H, W), with C = 1
        or ``spec.channels``; uint8, uint16, or floating point in [0, 1]. Returns the image as float32 (..., C, h, w).

    Raises
    ------
    TypeError, ValueError
        On a call: another pixel type, NaN, values outside [0, 1], or another number of channels.

    Examples
    --------
    >>> transform = transform_for(InputSpec(size=224), train="light")
    >>> transform(torch.zeros(1, 320, 300, dtype=torch.uint8)).shape
    torch.Size([3, 224, 224])
    """
    geometry = Resize(spec) if train is None else augmentations.registry.resolve(train, input_spec=spec)
    return InputTransform(spec, geometry)


class InputTransform(nn.Module):
    """Transform of :func:`transform_for`, in two steps; the second can be applied to a whole batch.

    Parameters
    ----------
    spec : InputSpec
        The model's input.
    geometry : nn.Module
        Resizes an image with its boxes and masks to the model's size.

    Attributes
    ----------
    place : callable
        Converts a sample to the model's size; pixels keep their depth, and grey its one channel.
    normalize : callable
        The other steps; its ``batch`` makes a batch of images returned by `place`.
    """

    def __init__(self, spec: InputSpec, geometry: nn.Module) -> None:
        super().__init__()
        self.place = v2.Compose([_Check(spec.channels), geometry, _LostBoxes()])
        self.normalize = _Normalize(spec)

    def forward(self, sample: Any) -> Any:
        """Convert a sample or image to the model's input."""
        return self.normalize(self.place(sample))


def preprocess_for(model: HasInputSpec | InputSpec) -> Preprocessor:
    """Return the preprocessing of `model`, from files, PIL images, arrays or tensors to its input.

    Parameters
    ----------
    model : Classifier or InputSpec
        An object with an ``input_spec``, or the spec itself.

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
    """Convert images of any source to model input; see :func:`preprocess_for`.

    Parameters
    ----------
    spec : InputSpec
        The model's input.

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
        """Convert one source, a sequence of sources, or a batch (N, ...) in one array or tensor to (N, C, h, w).

        Raises
        ------
        ValueError
            There is no source, or :func:`~thoraxlib.images.read` refuses one.
        """
        several = source.ndim == 4 if isinstance(source, (Tensor, np.ndarray)) else isinstance(source, (list, tuple))
        sources: list[Source] = list(source) if several else [source]  # type: ignore[arg-type, list-item]
        if not sources:
            raise ValueError("source holds no image")
        return self.transform.normalize.batch([self.transform.place(read(one)) for one in sources])

    def __repr__(self) -> str:
        return f"Preprocessor({self.spec})"


class _OnImage(nn.Module):
    """Change an image, alone or in a sample; v2.Transform would take longer than the change itself."""

    def forward(self, sample: Any) -> Any:
        if isinstance(sample, dict):
            return {**sample, "image": self.forward(sample["image"])}
        if not isinstance(sample, Tensor):
            raise TypeError(f"the image must be a tensor, got {type(sample).__qualname__}; use images.read first")
        changed = self.change(sample.as_subclass(Tensor))
        return tv_tensors.Image(changed) if isinstance(sample, tv_tensors.Image) else changed

    def change(self, image: Tensor) -> Tensor:
        """Return the changed image, (..., C, H, W)."""
        raise NotImplementedError


class _Check(_OnImage):
    """Check shape and pixels; convert uint16 to floating point."""

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
    """Remove boxes that a crop has left with a side of less than one pixel.

    ``boxes`` are removed with their ``box_labels``. ``regions`` keep their row, as the empty box 0 0 0 0, with
    ``present`` False and ``region_labels`` NaN.
    """

    def forward(self, sample: Any) -> Any:
        if not isinstance(sample, dict):
            return sample
        changed: dict[str, Any] = {}
        kept, present = _is_large(sample, "boxes"), _is_large(sample, "regions")
        if kept is not None and not kept.all():
            changed["boxes"] = tv_tensors.wrap(sample["boxes"][kept], like=sample["boxes"])
            if "box_labels" in sample:
                changed["box_labels"] = sample["box_labels"][kept]
        if present is not None and not present.all():
            empty = sample["regions"].as_subclass(Tensor) * present[:, None]
            changed["regions"] = tv_tensors.wrap(empty, like=sample["regions"])
            if "present" in sample:
                changed["present"] = sample["present"] & present
            if "region_labels" in sample:
                changed["region_labels"] = sample["region_labels"].where(present[:, None], torch.nan)
        return {**sample, **changed} if changed else sample


def _is_large(sample: dict[str, Any], key: str) -> Tensor | None:
    """Mask (B,) of the boxes ``sample[key]`` with sides of one pixel or more; None for a sample without them."""
    if key not in sample:
        return None
    boxes: Tensor = sample[key].as_subclass(Tensor)
    return (boxes[:, 2:] - boxes[:, :2] >= 1).all(dim=1)


class _Normalize(_OnImage):
    """Repeat grey for the model's channels, and compute ``(pixels - mean) / std`` of pixels scaled to [0, 1]."""

    def __init__(self, spec: InputSpec) -> None:
        super().__init__()
        self.mean, self.std = torch.tensor(spec.mean)[:, None, None], torch.tensor(spec.std)[:, None, None]

    def change(self, image: Tensor) -> Tensor:
        return self.batch([image])[0]

    def batch(self, images: Sequence[Tensor]) -> Tensor:
        """Normalise N images (..., 1 or C, h, w), each of its own depth, into one batch (N, ..., C, h, w)."""
        *leading, _, height, width = images[0].shape
        batch = torch.empty(len(images), *leading, len(self.mean), height, width, device=images[0].device)
        mean, std = self.mean.to(batch.device), self.std.to(batch.device)
        bytes_mean, bytes_std = 255 * mean, 255 * std
        for index, image in enumerate(images):
            scale = (bytes_mean, bytes_std) if image.dtype == torch.uint8 else (mean, std)
            batch[index].copy_(image.as_subclass(Tensor)).sub_(scale[0]).div_(scale[1])
        return batch
