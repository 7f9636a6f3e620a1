"""What data sets with named regions share: boxes, presence, and the findings of each region."""

from __future__ import annotations

import difflib
import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchvision import tv_tensors

from thoraxlib import labels as label_sets
from thoraxlib.datasets.base import ChestDataset
from thoraxlib.datasets.files import progress_bar
from thoraxlib.datasets.images import ImageDataset
from thoraxlib.metrics.studies import image_level

_FEW = 10  # images: fewer say nothing of whether all are resized copies


class RegionDataset(ImageDataset):
    """Images with R named regions, each with a box and the findings that it shows; a reader sets the attributes.

    Samples also have ``regions`` (boxes (R, 4) in the file's own pixels, 0 0 0 0 for an absent region), ``present``
    (bool (R,)) and ``region_labels`` (float32 (R, K): 1, 0 or NaN; NaN for absent regions).

    Attributes
    ----------
    region_names : tuple of str
        R names.
    region_targets : Tensor
        float32 (N, R, K).
    region_present : Tensor
        bool (N, R).
    region_boxes : Tensor
        float32 (N, R, 4), x1 y1 x2 y2, within the image.
    sizes : list of (int, int)
        (H, W) of each image.
    file_names : list of str
        Of each image, below the folder of images.
    report : dict of str to int
        What was left out or changed, by reason. One warning says it as well.
    """

    region_names: tuple[str, ...]
    region_targets: Tensor
    region_present: Tensor
    region_boxes: Tensor
    sizes: list[tuple[int, int]]
    file_names: list[str]
    report: dict[str, int]

    def _set_regions(self, boxes: Tensor, listed: Tensor, targets: Tensor) -> None:
        """Set what is known of the regions, and the images' targets, from boxes of the release; warn of the report."""
        clipped = clip_boxes(boxes, listed, self.sizes)
        lost = int((listed & ~clipped.present).any(dim=1).sum())
        if len(self.sizes) >= _FEW and lost > len(self.sizes) / 2:
            raise ValueError(
                f"{lost} of {len(self.sizes)} images have boxes that lie outside them: are the images resized copies? "
                "The boxes are in the pixels of the original ones"
            )
        self.region_boxes, self.region_present = clipped.xyxy, clipped.present
        self.region_targets = targets.masked_fill(~clipped.present[..., None], torch.nan)
        self.targets = image_level(self.region_targets)
        self.report |= {"boxes cut off at the border": clipped.clipped, "boxes outside the image": clipped.outside}
        self.report = {reason: count for reason, count in self.report.items() if count}
        if self.report:
            told = ", ".join(f"{count} {reason}" for reason, count in self.report.items())
            warnings.warn(f"{type(self).__name__}, left out or changed: {told}", stacklevel=4)
        self.warn_unknown("no finding is known of any region that is in an image")

    def _sample(self, index: int) -> dict[str, Any]:
        sample = super()._sample(index)
        size = tuple(sample["image"].shape[-2:])
        if size != self.sizes[index]:
            (h, w), (height, width) = size, self.sizes[index]
            raise ValueError(
                f"{self._paths[index]} has {w} x {h} pixels, its boxes are for {width} x {height}: the images must be "
                "the original ones, not resized copies"
            )
        boxes = tv_tensors.BoundingBoxes(  # type: ignore[call-overload]
            self.region_boxes[index].clone(), format="XYXY", canvas_size=size
        )
        present, labels = self.region_present[index].clone(), self.region_targets[index].clone()
        return {**sample, "regions": boxes, "present": present, "region_labels": labels}


class ClippedBoxes(NamedTuple):
    """Boxes within their images, and what had to be done.

    Attributes
    ----------
    xyxy : Tensor
        float32 (N, R, 4); 0 0 0 0 where there is none.
    present : Tensor
        bool (N, R).
    clipped, outside : int
        Boxes that lay partly, and wholly, outside.
    """

    xyxy: Tensor
    present: Tensor
    clipped: int
    outside: int


def clip_boxes(xyxy: Tensor, listed: Tensor, sizes: Sequence[tuple[int, int]]) -> ClippedBoxes:
    """Cut boxes (N, R, 4), of which `listed` (N, R) are given, off at the borders of images of `sizes` (H, W)."""
    limit = torch.tensor([[w, h, w, h] for h, w in sizes], dtype=torch.float32).reshape(-1, 1, 4)
    inside = torch.minimum(xyxy.clamp(min=0), limit)
    present = listed & (inside[..., 2:] > inside[..., :2]).all(dim=-1)
    changed = present & (inside != xyxy).any(dim=-1)
    inside = torch.where(present[..., None], inside, 0.0)
    return ClippedBoxes(inside, present, int(changed.sum()), int((listed & ~present).sum()))


def find_names(asked: Sequence[str], known: Sequence[str], argument: str, source: str) -> list[int]:
    """The position in `known` of each name that is asked for, in any data set's spelling.

    Raises
    ------
    ValueError
        A name that is not known, with those closest to it; two names of one thing.
    """
    found = label_sets.align(known, asked)
    lost = [name for name, place in zip(asked, found, strict=True) if place is None]
    if lost:
        close = difflib.get_close_matches(lost[0].lower(), known, n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(map(repr, close))}?" if close else f"known: {', '.join(known)}"
        raise ValueError(f"{argument}: {', '.join(map(repr, lost))} not known to {source}; {hint}")
    times = Counter(found)
    twice = [name for name, place in zip(asked, found, strict=True) if times[place] > 1]
    if twice:
        raise ValueError(f"{argument}: {', '.join(map(repr, twice))} are the same to {source}")
    return [place for place in found if place is not None]


class RegionTable(NamedTuple):
    """The regions of a whole data set: N images, R regions, K labels.

    Attributes
    ----------
    region_names, labels : tuple of str
        R and K names.
    sizes : list of (int, int)
        (H, W) of each image.
    boxes : Tensor
        float32 (N, R, 4), x1 y1 x2 y2 in pixels of each image.
    present : Tensor
        bool (N, R).
    targets : Tensor
        float32 (N, R, K): 1, 0 or NaN.
    """

    region_names: tuple[str, ...]
    labels: tuple[str, ...]
    sizes: list[tuple[int, int]]
    boxes: Tensor
    present: Tensor
    targets: Tensor


def read_regions(dataset: ChestDataset, *, progress: bool = True) -> RegionTable:
    """The regions of a data set in one table.

    Where a data set knows them beforehand, no image is decoded, and boxes are in the files' own pixels whatever its
    transform does; otherwise (the synthetic data set) every sample is made once.

    Parameters
    ----------
    dataset : ChestDataset
        With ``region_names``, and ``regions``, ``present`` and ``region_labels`` in its samples.
    progress : bool
        Show a progress bar, on a terminal.

    Raises
    ------
    ValueError
        The data set has no regions.
    """
    names: tuple[str, ...] | None = getattr(dataset, "region_names", None)
    if names is None:
        raise ValueError(f"dataset must have region_names, {type(dataset).__name__} has none")
    known: list[Any] = [
        getattr(dataset, name, None) for name in ("sizes", "region_boxes", "region_present", "region_targets")
    ]
    if all(column is not None for column in known):
        return RegionTable(names, dataset.labels, *known)
    sizes: list[tuple[int, int]] = []
    columns: dict[str, list[Tensor]] = {"regions": [], "present": [], "region_labels": []}
    for index in progress_bar(range(len(dataset)), "regions", shown=progress):
        sample = dataset[index]
        height, width = sample["image"].shape[-2:]
        sizes.append((int(height), int(width)))
        for key, values in columns.items():
            values.append(sample[key].as_subclass(Tensor))
    boxes, present, targets = (torch.stack(values) for values in columns.values())
    return RegionTable(names, dataset.labels, sizes, boxes, present, targets)
