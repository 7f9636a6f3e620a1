"""Read the images of a data set for a detector, with their true regions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from thoraxlib.detection.base import RegionDetector
from thoraxlib.input_spec import InputSpec
from thoraxlib.localization.boxes import in_originals
from thoraxlib.utils.workers import in_batches, read_batches


def check_regions(model: Any, dataset: Any) -> None:
    """Raise a ValueError if a data set has no regions, or not the model's regions in the model's order."""
    names = getattr(dataset, "region_names", None)
    if names is None:
        raise ValueError(f"{type(dataset).__name__} has no region_names: boxes of regions are needed")
    if tuple(names) != tuple(model.region_names):
        raise ValueError(
            f"the data set's regions {tuple(names)} are not the model's {tuple(model.region_names)}: build one with "
            "regions= of the other"
        )


def batches(
    detector: RegionDetector,
    dataset: Any,
    *,
    batch_size: int = 16,
    num_workers: int = 0,
    truth: bool = False,
    parts: Sequence[Tensor] | None = None,
) -> DataLoader[dict[str, Any]]:
    """Read the images in batches.

    Parameters
    ----------
    detector : RegionDetector
        Its ``input_spec`` and ``region_names`` are used.
    dataset : dataset
        Samples have ``image``, ``labels`` and ``id``; without a transform of its own.
    batch_size, num_workers : int
        Images in a batch, and processes that read them.
    truth : bool
        The true regions are needed.
    parts : sequence of Tensor, optional
        Groups of image indices; no batch spans two groups. By default one group of all images.

    Returns
    -------
    DataLoader
        Batches with ``image`` (the detector's input), ``regions`` in pixels of the input, ``boxes`` (the same in pixels
        of the original image) and ``present``, ``labels``, ``region_labels``, and lists of ``size`` (H, W of the
        original) and ``id``. Unknown labels are NaN, unknown regions absent.

    Raises
    ------
    ValueError
        No images; a number out of range; regions that are not the detector's, or with `truth` none.
    """
    from thoraxlib.datasets.samples import Samples  # needs torchvision, which is slow to import
    from thoraxlib.images import transform_for

    if not len(dataset):
        raise ValueError("the data set holds no image")
    if truth or hasattr(dataset, "region_names"):
        check_regions(detector, dataset)
    parts = [torch.arange(len(dataset))] if parts is None else parts
    order = [batch for part in parts for batch in in_batches(part.tolist(), batch_size)]
    images: Any = _Images(dataset, len(detector.region_names), truth)
    samples = Samples(images, transform_for(detector.input_spec), regions=True, original=("boxes", "size"))
    return read_batches(samples.__getitem__, order, samples.collate, num_workers=num_workers)


def to_image(boxes: Tensor, spec: InputSpec, sizes: Sequence[tuple[int, int]]) -> Tensor:
    """Convert boxes (N, R, 4) from pixels of the input to pixels of the images; boxes in the padding get no area."""
    image = torch.arange(len(boxes)).repeat_interleave(boxes.shape[1])
    return in_originals(boxes.flatten(0, 1).float(), image, spec, sizes).view(boxes.shape)


class _Images:
    """The samples of a data set with all of the detector's regions; boxes of absent regions are 0."""

    def __init__(self, dataset: Any, regions: int, truth: bool) -> None:
        self.dataset, self.regions, self.truth = dataset, regions, truth

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        from torchvision import tv_tensors

        sample = self.dataset[index]
        if self.truth and "regions" not in sample:
            raise ValueError(f"image {sample['id']} has no regions")
        known = sample if hasattr(self.dataset, "region_names") else {}  # rows without names cannot be assigned
        boxes = known.get("regions", torch.zeros(self.regions, 4)).as_subclass(Tensor).float()
        present = ~(boxes[:, 2:] <= boxes[:, :2]).any(dim=1)  # NaN passes here, and raises below
        if known.get("present") is not None:
            present &= known["present"]
        boxes = torch.where(present[:, None], boxes, 0.0)
        if not bool(boxes.isfinite().all()):
            raise ValueError(f"image {sample['id']}: boxes of regions that are present must be finite")
        size = tuple(sample["image"].shape[-2:])
        return {
            **{name: sample[name] for name in ("image", "labels", "id")},
            "boxes": boxes,
            "regions": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=size),  # type: ignore[call-overload]
            "present": present,
            "region_labels": known.get("region_labels", torch.full((self.regions, len(sample["labels"])), torch.nan)),
        }
