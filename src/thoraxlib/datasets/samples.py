"""Read samples for a model, and join them to batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors

from thoraxlib.datasets.base import ChestDataset, bounding_boxes
from thoraxlib.datasets.base import Transform as Transform
from thoraxlib.images import InputTransform
from thoraxlib.utils.workers import in_batches, read_batches

_KEPT = ("image", "organ_mask", "features", "labels", "id")
_REGIONS = ("regions", "present", "region_labels")
_CACHED = {"image", "organ_mask", "masks", "features", *_REGIONS}
_STACKED = (*sorted(_CACHED), "labels", "scores")


class Samples(Dataset[dict[str, Any]]):
    """Read ``image``, ``labels``, ``id`` and ``index`` of a data set's samples, for training and prediction.

    Samples also have ``organ_mask`` (uint8 (1, H, W)) if the data set gives it
    (:class:`thoraxlib.datasets.WithOrganMasks`); on request ``masks``, and ``regions``, ``present`` and
    ``region_labels``. Those of a :class:`thoraxlib.detection.FeatureStore` have ``features`` and these three instead of
    an image.

    Parameters
    ----------
    dataset : ChestDataset
        The images.
    transform : callable, optional
        From sample to sample, after the data set's own. It gets no boxes; masks and regions on request.
    cache : bool
        Keep the images of the data set in memory; they must have one size and type.
    seed : int
        Random transforms depend on this, the epoch and the index only.
    masks, regions : bool
        Also read ``masks``; ``regions``, ``present`` and ``region_labels``.
    original : sequence of str
        Keys to read without the transform; not with `cache`. ``size`` is (H, W) of the image before it.

    Attributes
    ----------
    collate : callable
        Joins samples to a batch. If `transform` comes from :func:`thoraxlib.images.transform_for`, this also does its
        last step: normalising images one by one would need the memory of another batch.

    Raises
    ------
    ValueError
        Images differ in size, with `cache`; or, when a sample is read, pixels are NaN or infinite.
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
        """Return the sample of an index, or of (epoch, index)."""
        epoch, index = key if isinstance(key, tuple) else (0, key)
        # torch.manual_seed would also seed every device, which takes longer than a transform
        generator = torch.default_generator
        before = generator.get_state()
        generator.manual_seed(hash((self.seed, epoch, index)) % 2**63)
        try:
            sample = self._read(index)
            untransformed = {name: sample.pop(name) for name in self.original if name in sample}
            if "size" in self.original:
                untransformed["size"] = tuple(sample["image"].shape[-2:])
            sample = self._transformed(sample)
        finally:
            generator.set_state(before)
        values = sample["features" if "features" in sample else "image"]
        if values.is_floating_point() and not bool(values.isfinite().all()):
            raise ValueError(f"{sample['id']}: NaN or infinite values")
        return {**{name: sample[name] for name in self.kept if name in sample}, **untransformed, "index": index}

    def batches(
        self, batch_size: int, *, indices: Sequence[int] | None = None, num_workers: int = 0
    ) -> DataLoader[dict[str, Any]]:
        """Return a loader of batches of all samples, or of those of `indices`, in order."""
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
    """Restore the type of a cached value, on which transforms depend."""
    if images is None or key in ("present", "region_labels"):  # without images, the values are features of regions
        return value
    if key == "regions":
        return bounding_boxes(value, images.shape[-2:])
    return (tv_tensors.Image if key == "image" else tv_tensors.Mask)(value)


def collate(
    samples: Sequence[dict[str, Any]], *, images: Callable[[list[Tensor]], Tensor] = torch.stack
) -> dict[str, Any]:
    """Join samples to a batch: stack images, labels, regions, masks and features; keep the rest (boxes, ids) as lists.

    Parameters
    ----------
    samples : sequence of dict
        Samples of one data set, transformed to one image size.
    images : callable
        Joins a list of images of one shape to a tensor. ``transform_for(spec).normalize.batch`` also normalises them,
        for samples that went only through ``transform_for(spec).place``.

    Returns
    -------
    dict
        ``image`` (N, C, H, W), ``labels`` (N, K), ``regions`` (N, R, 4), ``present`` (N, R), ``region_labels``
        (N, R, K), ``masks`` (N, M, H, W), ``features`` (N, R, D), ``scores`` (N, R), as plain tensors;
        ``boxes``, ``box_labels``, ``id``: lists of length N.

    Raises
    ------
    ValueError
        There are no samples, or they differ in keys or shapes.

    Examples
    --------
    >>> batch = collate([{"image": torch.zeros(1, 8, 8), "id": "a"}, {"image": torch.ones(1, 8, 8), "id": "b"}])
    >>> batch["image"].shape, batch["id"]
    (torch.Size([2, 1, 8, 8]), ['a', 'b'])
    """
    if not samples:
        raise ValueError("samples is empty")
    keys = list(samples[0])
    for sample in samples:
        if set(sample) != set(keys):
            raise ValueError(f"samples have different keys: {sorted(keys)} and {sorted(sample)}")
    join = dict.fromkeys(_STACKED, torch.stack) | {"image": images}
    return {key: _joined(key, [sample[key] for sample in samples], join.get(key)) for key in keys}


def _joined(key: str, values: list[Any], join: Callable[[list[Tensor]], Tensor] | None) -> Any:
    if join is None:
        return values
    shapes = {tuple(value.shape) for value in values}
    if len(shapes) > 1:
        raise ValueError(
            f"{key!r} of the samples has different shapes {sorted(shapes)}; "
            "bring them to one size with a transform, e.g. images.transform_for(model.input_spec)"
        )
    return join([value.as_subclass(Tensor) for value in values])
