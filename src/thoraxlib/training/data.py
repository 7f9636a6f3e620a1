"""The data module: samples, transforms, an optional cache, and an order that an interruption does not change."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler
from torchvision import tv_tensors

from thoraxlib.datasets import ChestDataset, collate
from thoraxlib.images import InputTransform

__all__ = ["DataModule", "Samples"]

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
        The films.
    transform : callable, optional
        From sample to sample, on top of the data set's own. It sees no boxes, and masks and regions if asked for.
    cache : bool
        Keep the data set's images, as they come from it, in memory: they must be of one size and type.
    seed : int
        Random transforms are a function of this, the epoch and the index alone.
    masks, regions : bool
        Read ``masks`` as well; ``regions`` and, where samples have them, ``present`` and ``region_labels``.

    Attributes
    ----------
    collate : callable
        Makes a batch of them. Where `transform` is one of :func:`thoraxlib.images.transform_for`, its last step is left
        to this: films that are normalised one by one take the memory of the batch once more.

    Raises
    ------
    ValueError
        No images; images of several sizes, with `cache`; for a sample, NaN or infinite pixels.
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
    ) -> None:
        if not len(dataset):
            raise ValueError("the data set holds no image")
        self.dataset, self.transform, self.seed = dataset, transform, seed
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
            sample = self._transformed(self._read(index))
        finally:
            generator.set_state(before)
        values = sample["features" if "features" in sample else "image"]
        if values.is_floating_point() and not bool(values.isfinite().all()):
            raise ValueError(f"{sample['id']}: NaN or infinite values")
        return {**{name: sample[name] for name in self.kept if name in sample}, "index": index}

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
        return {name: sample[name] for name in self.kept if name in sample}


def _typed(key: str, value: Tensor, images: Tensor | None) -> Any:
    """A cached value as a data set gives it, for transforms to know what it is."""
    if images is None:  # features of regions
        return value
    if key == "regions":
        return tv_tensors.BoundingBoxes(value, format="XYXY", canvas_size=tuple(images.shape[-2:]))  # type: ignore[call-overload]
    if key in ("present", "region_labels"):
        return value
    return (tv_tensors.Image if key == "image" else tv_tensors.Mask)(value)


class _Order(DistributedSampler[Any]):
    """Yields (epoch, index), so that workers know the epoch; one replica sees every index once."""

    def __iter__(self) -> Iterator[Any]:
        for index in super().__iter__():
            yield self.epoch, index


class DataModule(LightningDataModule):  # type: ignore[misc]
    """Loaders over the library's data sets.

    The order of the images and their augmentation depend on `seed` and the epoch alone, not on the number of workers
    nor on interruptions. With several devices each sees its share.

    Parameters
    ----------
    train, val : ChestDataset
        With the same ``labels``.
    test : ChestDataset, optional
        The same.
    batch_size : int
        Images in a batch, on each device.
    num_workers : int
        Processes that read images.
    cache : bool
        Keep the decoded images, before transforms, in memory: they must be of one size and type. Saves decoding from
        the second epoch on. With workers, each has a share of the same memory where the system forks.
    train_transform, eval_transform : callable, optional
        From sample to sample, such as :func:`thoraxlib.images.transform_for` gives.
    seed : int
        Of the order and of random transforms.
    masks, regions : bool
        Samples have their ``masks``, for training a segmenter; their ``regions`` and ``present``, for a detector.

    Raises
    ------
    ValueError
        No images; labels that differ between the parts; targets outside [0, 1], or not one for each image and label;
        numbers out of range.

    Warns
    -----
    UserWarning
        A patient who is both in `train` and in `val` or `test`.
    """

    def __init__(
        self,
        train: ChestDataset,
        val: ChestDataset,
        test: ChestDataset | None = None,
        *,
        batch_size: int = 32,
        num_workers: int = 0,
        cache: bool = False,
        train_transform: Transform | None = None,
        eval_transform: Transform | None = None,
        seed: int = 0,
        masks: bool = False,
        regions: bool = False,
    ) -> None:
        super().__init__()
        if batch_size < 1 or num_workers < 0:
            raise ValueError(f"batch_size={batch_size}, num_workers={num_workers}: at least 1 and 0 are needed")
        parts = {"train": train, "val": val} | ({"test": test} if test is not None else {})
        for name, part in parts.items():
            if not len(part):
                raise ValueError(f"{name} holds no image")
            if tuple(part.labels) != tuple(train.labels):
                raise ValueError(f"{name} has the labels {tuple(part.labels)}, train has {tuple(train.labels)}")
            shape, wanted = tuple(getattr(part, "targets", torch.zeros(0)).shape), (len(part), len(part.labels))
            if shape not in (wanted, (0,)):
                raise ValueError(f"{name} has targets {shape}: {wanted[0]} images and {wanted[1]} labels")
            for of in ("targets", "region_targets"):
                values = getattr(part, of, torch.zeros(0))
                outside = values[(values < 0) | (values > 1)]
                if len(outside):
                    raise ValueError(f"{name} has the {of[:-1]} {float(outside[0])}: from 0 to 1, or NaN for unknown")
            shared = set(train.patient_ids) & set(part.patient_ids) if part is not train else set()
            if shared:
                warnings.warn(
                    f"{len(shared)} patients of train are also in {name}, e.g. {min(shared)}: its scores are too good",
                    UserWarning,
                    stacklevel=2,
                )
        self.parts: dict[str, ChestDataset] = parts
        self.batch_size, self.num_workers, self.cache, self.seed = batch_size, num_workers, cache, seed
        self.masks, self.regions = masks, regions
        self.transforms = {"train": train_transform, "val": eval_transform, "test": eval_transform}
        self._samples: dict[str, Samples] = {}

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the K labels."""
        return tuple(self.parts["train"].labels)

    @property
    def targets(self) -> Tensor:
        """Of the training images, (N, K)."""
        return self.parts["train"].targets

    def _loader(self, part: str) -> DataLoader[Any]:
        if part not in self._samples:
            self._samples[part] = Samples(
                self.parts[part],
                self.transforms[part],
                cache=self.cache and part != "test",
                seed=self.seed,
                masks=self.masks,
                regions=self.regions,
            )
        samples, training = self._samples[part], part == "train"
        trainer = self.trainer
        order = _Order(
            samples,
            num_replicas=trainer.world_size if trainer is not None else 1,
            rank=trainer.global_rank if trainer is not None else 0,
            shuffle=training,
            seed=self.seed,
        )
        return DataLoader(
            samples,
            batch_size=self.batch_size,
            sampler=order,
            num_workers=self.num_workers,
            collate_fn=samples.collate,
            # a last batch of one image has no variance for batch norm
            drop_last=training and len(order) % self.batch_size == 1 and len(order) > 1,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.num_workers > 0,
        )

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled anew in each epoch."""
        return self._loader("train")

    def val_dataloader(self) -> DataLoader[Any]:
        """In the data set's order."""
        return self._loader("val")

    def test_dataloader(self) -> DataLoader[Any]:
        """In the data set's order.

        Raises
        ------
        ValueError
            No test part was given.
        """
        if "test" not in self.parts:
            raise ValueError("this data module was made without a test part")
        return self._loader("test")
