"""The images of a data set as a detector takes them, with what is known about their regions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from thoraxlib.detection.base import RegionDetector
from thoraxlib.input_spec import InputSpec
from thoraxlib.localization.boxes import in_originals
from thoraxlib.utils.workers import in_batches, read_batches


class DetectorBatch(NamedTuple):
    """N images, on the CPU; what a data set does not know is NaN, empty or not present.

    Attributes
    ----------
    x : Tensor
        (N, C, h, w): the detector's input.
    boxes, present : Tensor
        True regions in pixels of the images, (N, R, 4), and whether they are there, bool (N, R).
    seen, seen_present : Tensor
        The same in pixels of `x`.
    labels, region_labels : Tensor
        (N, K) and (N, R, K).
    sizes : list of (int, int)
        (H, W) of the images.
    ids : list of str
        N.
    """

    x: Tensor
    boxes: Tensor
    present: Tensor
    seen: Tensor
    seen_present: Tensor
    labels: Tensor
    region_labels: Tensor
    sizes: list[tuple[int, int]]
    ids: list[str]


def check_regions(model: Any, dataset: Any) -> None:
    """Raise a ValueError where a data set has no regions, or others than the model, or in another order."""
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
) -> Iterable[DetectorBatch]:
    """The images, a batch at a time.

    Parameters
    ----------
    detector : RegionDetector
        Its ``input_spec`` and ``region_names`` are used.
    dataset : dataset
        Samples have ``image`` and ``id``; it has no transform of its own.
    batch_size, num_workers : int
        Images at a time, and processes that read them.
    truth : bool
        Regions are needed.
    parts : sequence of Tensor, optional
        Positions of the images to be read, in groups of which each begins a batch; by default all in turn.

    Raises
    ------
    ValueError
        No images; numbers out of range; other regions than the detector's, or with `truth` none.
    """
    if not len(dataset):
        raise ValueError("the data set holds no image")
    if batch_size < 1 or num_workers < 0:
        raise ValueError(f"batch_size={batch_size}, num_workers={num_workers}: at least 1 and 0 are needed")
    if truth or hasattr(dataset, "region_names"):
        check_regions(detector, dataset)
    parts = [torch.arange(len(dataset))] if parts is None else parts
    order = [batch for part in parts for batch in in_batches(part.tolist(), batch_size)]
    return read_batches(_Read(detector, dataset, truth), order, _joined, num_workers=num_workers)


def in_image(boxes: Tensor, spec: InputSpec, sizes: Sequence[tuple[int, int]]) -> Tensor:
    """Boxes (N, R, 4) in pixels of the input, in those of the images; no area where they lay in padding."""
    image = torch.arange(len(boxes)).repeat_interleave(boxes.shape[1])
    return in_originals(boxes.flatten(0, 1).float(), image, spec, sizes).view(boxes.shape)


class _Read:
    """Reads one image: a row of each field of :class:`Images`, by its name."""

    def __init__(self, detector: RegionDetector, dataset: Any, truth: bool) -> None:
        from thoraxlib.images import transform_for  # torchvision takes longer to import than all of this library

        self.dataset, self.truth, self.named = dataset, truth, hasattr(dataset, "region_names")
        self.regions, self.labels = len(detector.region_names), len(dataset.labels)
        self.transform = transform_for(detector.input_spec)

    def __call__(self, index: int) -> dict[str, Any]:
        from torchvision import tv_tensors

        sample = self.dataset[index]
        if self.truth and "regions" not in sample:
            raise ValueError(f"image {sample['id']} has no regions")
        known = sample if self.named else {}  # rows without names are nobody's
        boxes, present = self._boxes(known.get("regions"), known.get("present"))
        if not bool(boxes.isfinite().all()):
            raise ValueError(f"image {sample['id']}: boxes of regions that are present must be finite")
        size = tuple(sample["image"].shape[-2:])
        regions = tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=size)  # type: ignore[call-overload]
        moved = self.transform({"image": sample["image"], "regions": regions})
        seen, seen_present = self._boxes(moved["regions"], present)
        return {
            "x": moved["image"].as_subclass(Tensor),
            "boxes": boxes,
            "present": present,
            "seen": seen,
            "seen_present": seen_present,
            "labels": sample["labels"],
            "region_labels": known.get("region_labels", torch.full((self.regions, self.labels), torch.nan)),
            "sizes": size,
            "ids": sample["id"],
        }

    def _boxes(self, boxes: Tensor | None, present: Tensor | None) -> tuple[Tensor, Tensor]:
        if boxes is None:
            return torch.zeros(self.regions, 4), torch.zeros(self.regions, dtype=torch.bool)
        plain = boxes.as_subclass(Tensor).float()
        there = ~(plain[:, 2:] <= plain[:, :2]).any(dim=1)  # NaN counts, and is refused
        there = there if present is None else there & present
        return torch.where(there[:, None], plain, 0.0), there


def _joined(rows: Sequence[dict[str, Any]]) -> DetectorBatch:
    columns: dict[str, Any] = {key: [row[key] for row in rows] for key in DetectorBatch._fields}
    stacked = {key: torch.stack(column) for key, column in columns.items() if isinstance(column[0], Tensor)}
    return DetectorBatch(**{**columns, **stacked})
