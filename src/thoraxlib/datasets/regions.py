"""Data sets with named regions: boxes, presence, and the findings of each region."""

from __future__ import annotations

import difflib
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from thoraxlib import labels as label_sets
from thoraxlib.datasets.base import ChestDataset, ImageDataset, bounding_boxes
from thoraxlib.datasets.files import progress_bar
from thoraxlib.metrics.studies import image_level
from thoraxlib.utils.arguments import repeated
from thoraxlib.utils.arrays import table
from thoraxlib.utils.files import read_json

_FEW = 10  # images: too few to conclude that all are resized copies


class RegionDataset(ImageDataset):
    """Base class of readers of images with R named regions, each with a box and the findings that it shows.

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
        Path of each image below the folder of images.
    report : dict of str to int
        Numbers of images and boxes that were left out or changed, by reason; one warning also gives them.
    """

    region_names: tuple[str, ...]
    region_targets: Tensor
    region_present: Tensor
    region_boxes: Tensor
    sizes: list[tuple[int, int]]
    file_names: list[str]
    report: dict[str, int]

    def _set_regions(self, boxes: NDArray[np.float32], listed: NDArray[np.bool_], targets: NDArray[np.float32]) -> None:
        """Set the regions and the targets of the images from the boxes of a release; warn of changes.

        Parameters
        ----------
        boxes : NDArray
            float32 (N, R, 4), in pixels of the images.
        listed : NDArray
            bool (N, R): True where there is a box.
        targets : NDArray
            float32 (N, R, K).
        """
        xyxy, given = torch.from_numpy(boxes), torch.from_numpy(listed)
        limit = torch.tensor([[w, h, w, h] for h, w in self.sizes], dtype=torch.float32).reshape(-1, 1, 4)
        inside = torch.minimum(xyxy.clamp(min=0), limit)
        present = given & (inside[..., 2:] > inside[..., :2]).all(dim=-1)
        lost = int((given & ~present).any(dim=1).sum())
        if len(self.sizes) >= _FEW and lost > len(self.sizes) / 2:
            raise ValueError(
                f"{lost} of {len(self.sizes)} images have boxes that lie outside them: are the images resized copies? "
                "The boxes are in the pixels of the original ones"
            )
        self.region_boxes, self.region_present = torch.where(present[..., None], inside, 0.0), present
        self.region_targets = torch.from_numpy(targets).masked_fill(~present[..., None], torch.nan)
        self.report |= {
            "boxes cut off at the border": int((present & (inside != xyxy).any(dim=-1)).sum()),
            "boxes outside the image": int((given & ~present).sum()),
        }
        self.report = {reason: count for reason, count in self.report.items() if count}
        if self.report:
            counts = ", ".join(f"{count} {reason}" for reason, count in self.report.items())
            warnings.warn(f"{type(self).__name__}, left out or changed: {counts}", stacklevel=4)
        self._set_targets(image_level(self.region_targets), "no finding is known of any region that is in an image")

    def _sample(self, index: int) -> dict[str, Any]:
        sample = super()._sample(index)
        size = tuple(sample["image"].shape[-2:])
        if size != self.sizes[index]:
            (h, w), (height, width) = size, self.sizes[index]
            raise ValueError(
                f"{self._paths[index]} has {w} x {h} pixels, its boxes are for {width} x {height}: the images must be "
                "the original ones, not resized copies"
            )
        boxes = bounding_boxes(self.region_boxes[index].clone(), size)
        present, labels = self.region_present[index].clone(), self.region_targets[index].clone()
        return {**sample, "regions": boxes, "present": present, "region_labels": labels}


class DenseBoxes(NamedTuple):
    """One box for each of n images and R regions.

    Attributes
    ----------
    boxes : NDArray
        float32 (n, R, 4); 0 0 0 0 where there is none.
    source : NDArray
        int64 (n, R): position of the box in the list; -1 where there is none.
    flat, doubled : int
        Boxes left out because they have no area (or a coordinate that is not finite), and because their region has
        another box.
    """

    boxes: NDArray[np.float32]
    source: NDArray[np.int64]
    flat: int
    doubled: int


def dense_boxes(
    boxes: NDArray[np.float32],
    image: NDArray[np.integer[Any]],
    region: NDArray[np.integer[Any]],
    shape: tuple[int, int],
) -> DenseBoxes:
    """Select the first box with an area for each image and region.

    Parameters
    ----------
    boxes : NDArray
        float32 (M, 4): x1 y1 x2 y2.
    image, region : NDArray
        (M,): positions of the box in the result; negative for boxes to leave out.
    shape : (int, int)
        n and R.
    """
    kept = np.flatnonzero((image >= 0) & (region >= 0))
    xyxy = boxes[kept]
    has_area = np.isfinite(xyxy).all(axis=1) & (xyxy[:, 2:] > xyxy[:, :2]).all(axis=1)
    kept = kept[has_area]
    cells, first = np.unique(image[kept].astype(np.int64) * shape[1] + region[kept], return_index=True)
    source = np.full(shape[0] * shape[1], -1)
    source[cells] = kept[first]
    dense = np.zeros((len(source), 4), np.float32)
    dense[cells] = boxes[kept[first]]
    doubled = len(kept) - len(cells)
    return DenseBoxes(dense.reshape(*shape, 4), source.reshape(shape), int((~has_area).sum()), doubled)


def inverse(positions: Sequence[int], count: int) -> NDArray[np.int32]:
    """Return (count,): the index of each number in `positions`, or -1; negative positions are ignored.

    Examples
    --------
    >>> inverse([2, -1, 0], 4).tolist()
    [2, -1, 0, -1]
    """
    result = np.full(count, -1, np.int32)
    for index, position in enumerate(positions):
        if position >= 0:
            result[position] = index
    return result


def find_names(names: Sequence[str], known: Sequence[str], argument: str, source: str) -> list[int]:
    """Return the position in `known` of each name, in any data set's spelling.

    Raises
    ------
    ValueError
        A name is unknown (the message has the closest ones), or two names mean the same.
    """
    matches = label_sets.align(known, names)
    unknown = [name for name, position in zip(names, matches, strict=True) if position is None]
    if unknown:
        close = difflib.get_close_matches(unknown[0].lower(), known, n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(map(repr, close))}?" if close else f"known: {', '.join(known)}"
        raise ValueError(f"{argument}: {', '.join(map(repr, unknown))} not known to {source}; {hint}")
    positions = [position for position in matches if position is not None]
    again = set(repeated(positions))
    twice = [name for name, position in zip(names, positions, strict=True) if position in again]
    if twice:
        raise ValueError(f"{argument}: {', '.join(map(repr, twice))} are the same to {source}")
    return positions


class RegionTable(NamedTuple):
    """Regions of a whole data set: N images, R regions, K labels.

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
    """Read the regions of a data set into one table.

    If the data set knows them, no image is decoded, and boxes are in the files' own pixels, without the data set's
    transform. Otherwise (the synthetic data set) every sample is made once.

    Parameters
    ----------
    dataset : ChestDataset
        A data set with ``region_names``, and ``regions``, ``present`` and ``region_labels`` in its samples.
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


def read_anaxnet_features(
    path: str | os.PathLike[str],
    *,
    regions: str | Sequence[str] = "regions18",
    labels: str | Sequence[str] = "imagenome9",
) -> dict[str, Any]:
    """Read a file of region features that AnaXNet's extractor writes (``FeatureData``).

    In these files features are in the order of regions, with zeros for regions that were not detected, but boxes, names
    (``objects``) and labels (``target``) are in the order of the detections' scores, and the original trains on them in
    this order. Here labels and boxes are moved to the rows of their regions. Of two detections of one region the first,
    with the higher score, is used.

    Parameters
    ----------
    path : path
        ``<image_id>.json``.
    regions : str or sequence of str
        R names, in the order of the features.
    labels : str or sequence of str
        K names, in the order of the labels.

    Returns
    -------
    dict
        ``features`` (float32 (R, D)), ``present`` (bool (R,)), ``regions`` (float32 (R, 4), x1 y1 x2 y2 as detectron2
        gives them, 0 0 0 0 for an absent region), ``scores`` (float32 (R,): NaN, the file has none), ``region_labels``
        (float32 (R, K), NaN for absent regions), ``labels`` (float32 (K,)) and ``id``.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        The file is no JSON, a field is missing or has another number of rows or columns, or a region is unknown. The
        message names the file.
    """
    names, findings = label_sets.resolve(regions), label_sets.resolve(labels)
    path = Path(path)
    try:
        content = read_json(path)
        objects = [str(name) for name in content["objects"]]
        width = len(content["features"][0]) if content["features"] else 0
        features = _rows(content["features"], len(names), width, "features")
        boxes = _rows(content["bbox"], len(objects), 4, "bbox")
        if not bool(boxes.isfinite().all()):
            raise ValueError("bbox: finite numbers are wanted")
        targets = _rows(content["target"], len(objects), len(findings), "target")
        image_id = str(content["image_id"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no feature file of AnaXNet: {type(error).__name__}: {error}") from error
    first = {name: row for row, name in reversed(list(enumerate(objects)))}
    rows = torch.tensor(find_names(list(first), names, "objects", str(path)), dtype=torch.long)
    source = torch.tensor(list(first.values()), dtype=torch.long)
    present = torch.zeros(len(names), dtype=torch.bool).index_fill(0, rows, True)
    region_labels = torch.full((len(names), len(findings)), torch.nan).index_copy(0, rows, targets[source])
    return {
        "features": features,
        "present": present,
        "regions": torch.zeros(len(names), 4).index_copy(0, rows, boxes[source]),
        "scores": torch.full((len(names),), torch.nan),
        "region_labels": region_labels,
        "labels": image_level(region_labels),
        "id": image_id,
    }


def _rows(values: list[list[float]], rows: int, columns: int, part: str) -> Tensor:
    if len(values) != rows:
        raise ValueError(f"{part}: {rows} rows are wanted, got {len(values)}")
    return torch.from_numpy(table(values, columns, part)).float()
