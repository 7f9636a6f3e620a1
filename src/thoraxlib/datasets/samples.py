"""Read the samples of a data set as a model takes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors

from thoraxlib.datasets.base import ChestDataset
from thoraxlib.datasets.collate import collate
from thoraxlib.images import InputTransform
from thoraxlib.utils.workers import in_batches, read_batches

Transform = Callable[[dict[str, Any]], dict[str, Any]]
_KEPT = ("image", "organ_mask", "features", "labels", "id")
_REGIONS = ("regions", "present", "region_labels")
_CACHED = {"image", "organ_mask", "masks", "features", *_REGIONS}


class Samples(Dataset[dict[str, Any]]):
    """What training and prediction read of a data set: ``image``, ``labels``, ``id``, and the ``index``.

    Also ``organ_mask`` (uint8 (1, H, W)), where samples have one (:class:`thoraxlib.datasets.WithOrganMasks`);
    ``masks``, and ``regions``, ``present`` and ``region_labels``, where they are asked for; and ``features`` with those
    three instead of an image, of a :class:`thoraxlib.detection.FeatureStore`.

    Parameters
    ----------
    dataset : ChestDataset
        The images.
    transform : callable, optional
        From sample to sample, on top of the data set's own. It sees no boxes, and masks and regions if asked for.
    cache : bool
        Keep the data set's images, as they come from it, in memory: they must be of one size and type.
    seed : int
        Random transforms are a function of this, the epoch and the index alone.
    masks, regions : bool
        Read ``masks`` as well; ``regions`` and, where samples have them, ``present`` and ``region_labels``.
    original : sequence of str
        Keys that are read as well and not transformed; not with `cache`. ``size`` is (H, W) of the image before.

    Attributes
    ----------
    collate : callable
        Makes a batch of them. Where `transform` is one of :func:`thoraxlib.images.transform_for`, its last step is left
        to this: images that are normalised one by one take the memory of the batch once more.

    Raises
    ------
    ValueError
        Images of several sizes, with `cache`; for a sample, NaN or infinite pixels.
    """

    def __init__(
        self,
        dataset: ChestDataset,
        transform: Transform | None = None,
        *,
        cache: bool = False,
        seed: int = 0,
        masks: bool = False,
        regions: bool = False,
        original: Sequence[str] = (),
    ) -> None:
        self.dataset, self.transform, self.seed, self.original = dataset, transform, seed, original
        self.collate: Callable[[list[dict[str, Any]]], dict[str, Any]] = collate
        if isinstance(transform, InputTransform):
            self.transform = transform.place
            self.collate = partial(collate, images=transform.normalize.batch)
        regions = regions or hasattr(dataset, "feature_dim")
        self.kept = (*_KEPT, *(("masks",) if masks else ()), *(_REGIONS if regions else ()))
        self._cached: dict[str, Tensor] = {}
        if cache:
            self._fill()

    def _fill(self) -> None:
        for index in range(len(self)):
            sample = self.dataset[index]
            for key in _CACHED & sample.keys() & set(self.kept):
                value = sample[key].as_subclass(Tensor)
                if key not in self._cached:
                    self._cached[key] = value.new_empty((len(self), *value.shape))
                kept = self._cached[key]
                if value.shape != kept.shape[1:] or value.dtype != kept.dtype:
                    raise ValueError(
                        f"cache=True needs images of one size and type: {sample['id']} is {tuple(value.shape)} "
                        f"{value.dtype}, those before it {tuple(kept.shape[1:])} {kept.dtype}"
                    )
                kept[index] = value

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        """The sample of an index, or of (epoch, index)."""
        epoch, index = key if isinstance(key, tuple) else (0, key)
        # torch.manual_seed would seed every device as well, which costs more than a transform
        generator = torch.default_generator
        before = generator.get_state()
        generator.manual_seed(hash((self.seed, epoch, index)) % 2**63)
        try:
            sample = self._read(index)
            beside = {name: sample.pop(name) for name in self.original if name in sample}
            if "size" in self.original:
                beside["size"] = tuple(sample["image"].shape[-2:])
            sample = self._transformed(sample)
        finally:
            generator.set_state(before)
        values = sample["features" if "features" in sample else "image"]
        if values.is_floating_point() and not bool(values.isfinite().all()):
            raise ValueError(f"{sample['id']}: NaN or infinite values")
        return {**{name: sample[name] for name in self.kept if name in sample}, **beside, "index": index}

    def batches(
        self, batch_size: int, *, indices: Sequence[int] | None = None, num_workers: int = 0
    ) -> DataLoader[dict[str, Any]]:
        """Read the samples in order, or those of `indices`, a batch at a time."""
        order = list(in_batches(range(len(self)) if indices is None else indices, batch_size))
        return read_batches(self.__getitem__, order, self.collate, num_workers=num_workers)

    def _transformed(self, sample: dict[str, Any]) -> dict[str, Any]:
        if self.transform is None:
            return sample
        try:
            return self.transform(sample)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{sample['id']}: {error}") from error

    def _read(self, index: int) -> dict[str, Any]:
        if self._cached:
            cached = {key: _typed(key, kept[index], self._cached.get("image")) for key, kept in self._cached.items()}
            return {**cached, "labels": self.dataset.targets[index], "id": self.dataset.ids[index]}
        sample = self.dataset[index]
        return {name: sample[name] for name in (*self.kept, *self.original) if name in sample}


def _typed(key: str, value: Tensor, images: Tensor | None) -> Any:
    """A cached value as a data set gives it, for transforms to know what it is."""
    if images is None:  # features of regions
        return value
    if key == "regions":
        return tv_tensors.BoundingBoxes(value, format="XYXY", canvas_size=tuple(images.shape[-2:]))  # type: ignore[call-overload]
    if key in ("present", "region_labels"):
        return value
    return (tv_tensors.Image if key == "image" else tv_tensors.Mask)(value)
