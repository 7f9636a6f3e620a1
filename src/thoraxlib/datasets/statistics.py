"""Tables of label counts: in the parts of a split, and in the regions of a data set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from thoraxlib.datasets.base import ChestDataset
from thoraxlib.datasets.regions import read_regions
from thoraxlib.utils.text_tables import Table


@dataclass(frozen=True)
class Prevalence(Table):
    """Prevalence of each label in each part of a split; ``str(prevalence)`` is a table.

    Attributes
    ----------
    labels : tuple of str
        K names.
    images, patients : dict of str to int
        Numbers of images and patients of each part.
    positives, known : dict of str to Tensor
        int64 (K,): images of each part that are positive, and that have a known label.
    """

    labels: tuple[str, ...]
    images: dict[str, int]
    patients: dict[str, int]
    positives: dict[str, Tensor]
    known: dict[str, Tensor]
    _name = "prevalence"

    @property
    def shares(self) -> Tensor:
        """Share of positive among known images, (parts, K); NaN if none is known."""
        return torch.stack([self.positives[name] / self.known[name] for name in self.images])

    @property
    def spread(self) -> Tensor:
        """Largest difference between the shares of two parts, (K,)."""
        shares = self.shares
        return shares.amax(dim=0) - shares.amin(dim=0)

    def _cells(self) -> list[list[str]]:
        cells = [["", *self.images, "spread"]]
        cells.append(["patients", *map(str, self.patients.values()), ""])
        cells.append(["images", *map(str, self.images.values()), ""])
        columns = list(zip(self.positives.values(), self.shares, strict=True))
        for k, label in enumerate(self.labels):
            counts = [f"{int(count[k])} ({_percent(share[k])})" for count, share in columns]
            cells.append([label, *counts, _percent(self.spread[k])])
        return cells


def prevalence(parts: Mapping[str, ChestDataset]) -> Prevalence:
    """Count the labels of each part of a split.

    Raises
    ------
    ValueError
        There is no part, or parts differ in their labels.
    """
    sets = {tuple(part.labels) for part in parts.values()}
    if len(sets) != 1:
        raise ValueError(f"parts must have the same labels, got {len(sets)} sets of them")
    return Prevalence(
        labels=sets.pop(),
        images={name: len(part) for name, part in parts.items()},
        patients={name: len(set(part.patient_ids)) for name, part in parts.items()},
        positives={name: (part.targets == 1).sum(dim=0) for name, part in parts.items()},
        known={name: (~part.targets.isnan()).sum(dim=0) for name, part in parts.items()},
    )


def _percent(share: Tensor) -> str:
    return "-" if bool(share.isnan()) else f"{100 * float(share):.1f} %"


@dataclass(frozen=True, eq=False)
class RegionStatistics(Table):
    """Counts of a data set with R regions and K labels; ``str(statistics)`` is a table.

    Attributes
    ----------
    region_names, labels : tuple of str
        R and K names.
    images, complete : int
        Number of images, and of those with every region.
    present : Tensor
        int64 (R,): images that have the region.
    positives, known : Tensor
        int64 (R, K): present regions that are positive, and that have a known label.
    """

    region_names: tuple[str, ...]
    labels: tuple[str, ...]
    images: int
    complete: int
    present: Tensor
    positives: Tensor
    known: Tensor
    _name = "region_statistics"

    @property
    def by_label(self) -> Tensor:
        """Positives of each finding in all regions, int64 (K,)."""
        return self.positives.sum(dim=0)

    @property
    def by_region(self) -> Tensor:
        """Positives of all findings in each region, int64 (R,)."""
        return self.positives.sum(dim=1)

    def _cells(self) -> list[list[str]]:
        rows = list(zip(self.region_names, self.present.tolist(), self.positives.tolist(), strict=True))
        rows.append(("all regions", int(self.present.sum()), self.by_label.tolist()))
        cells = [["", "present", *self.labels]]
        return cells + [[name, str(present), *map(str, counts)] for name, present, counts in rows]

    def __str__(self) -> str:
        head = f"{self.images} images, {self.complete} with all {len(self.region_names)} regions; positives:"
        return f"{head}\n{super().__str__()}"


def region_statistics(dataset: ChestDataset, *, progress: bool = True) -> RegionStatistics:
    """Count the regions of a data set and their findings.

    Parameters
    ----------
    dataset : ChestDataset
        A data set with regions; see :func:`~thoraxlib.datasets.read_regions`.
    progress : bool
        Show a progress bar, on a terminal, if images must be made.

    Raises
    ------
    ValueError
        The data set has no regions.
    """
    table = read_regions(dataset, progress=progress)
    return RegionStatistics(
        table.region_names,
        table.labels,
        len(table.present),
        int(table.present.all(dim=1).sum()),
        table.present.sum(dim=0),
        (table.targets == 1).sum(dim=0),
        (~table.targets.isnan()).sum(dim=0),
    )
