"""Data module: samples, transforms, an optional cache, and an order that an interruption does not change."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from thoraxlib.datasets import ChestDataset
from thoraxlib.datasets.samples import Samples, Transform


class _Order(DistributedSampler[Any]):
    """Sampler that yields (epoch, index), so that workers know the epoch."""

    def __iter__(self) -> Iterator[Any]:
        for index in super().__iter__():
            yield self.epoch, index


class DataModule(LightningDataModule):  # type: ignore[misc]
    """Data loaders over the library's data sets.

    The order of the images and their augmentation depend on `seed` and the epoch only, not on the number of workers or
    on interruptions. Several devices share the images.

    Parameters
    ----------
    train, val : ChestDataset
        Training and validation part, with the same ``labels``.
    batch_size : int
        Images in a batch, on each device.
    num_workers : int
        Processes that read images.
    cache : bool
        Keep the decoded images, before transforms, in memory: they must have one size and type. Where the system forks,
        workers share this memory.
    train_transform, eval_transform : callable, optional
        From sample to sample, such as :func:`thoraxlib.images.transform_for` gives.
    seed : int
        Random seed of the order and of the transforms.
    masks, regions : bool
        Read ``masks``, to train a segmenter; ``regions`` and ``present``, to train a detector.

    Raises
    ------
    ValueError
        A part has no images; the parts have different labels; targets are outside [0, 1], or not one for each image and
        label; numbers are out of range.

    Warns
    -----
    UserWarning
        A patient is both in `train` and in `val`.
    """

    def __init__(
        self,
        train: ChestDataset,
        val: ChestDataset,
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
        self.parts = {"train": train, "val": val}
        for name, part in self.parts.items():
            if not len(part):
                raise ValueError(f"{name} holds no image")
            if tuple(part.labels) != tuple(train.labels):
                raise ValueError(f"{name} has the labels {tuple(part.labels)}, train has {tuple(train.labels)}")
            shape, wanted = tuple(getattr(part, "targets", torch.zeros(0)).shape), (len(part), len(part.labels))
            if shape not in (wanted, (0,)):
                raise ValueError(f"{name} has targets {shape}: {wanted[0]} images and {wanted[1]} labels")
            for kind in ("targets", "region_targets"):
                values = getattr(part, kind, torch.zeros(0))
                outside = values[(values < 0) | (values > 1)]
                if len(outside):
                    raise ValueError(f"{name} has the {kind[:-1]} {float(outside[0])}: from 0 to 1, or NaN for unknown")
        shared = set(train.patient_ids) & set(val.patient_ids)
        if shared and val is not train:
            warnings.warn(
                f"{len(shared)} patients of train are also in val, e.g. {min(shared)}: its scores are too good",
                UserWarning,
                stacklevel=2,
            )
        self.batch_size, self.num_workers, self.cache, self.seed = batch_size, num_workers, cache, seed
        self.masks, self.regions = masks, regions
        self.transforms = {"train": train_transform, "val": eval_transform}
        self._samples: dict[str, Samples] = {}

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the K labels."""
        return tuple(self.parts["train"].labels)

    @property
    def targets(self) -> Tensor:
        """Labels of the training images, (N, K)."""
        return self.parts["train"].targets

    def _loader(self, part: str) -> DataLoader[Any]:
        if part not in self._samples:
            self._samples[part] = Samples(
                self.parts[part],
                self.transforms[part],
                cache=self.cache,
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
        """Return the training images, shuffled in each epoch."""
        return self._loader("train")

    def val_dataloader(self) -> DataLoader[Any]:
        """Return the validation images, in the data set's order."""
        return self._loader("val")
