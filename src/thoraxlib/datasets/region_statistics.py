"""How often regions are there, and findings in them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from thoraxlib.datasets.base import ChestDataset
from thoraxlib.datasets.regions import read_regions
from thoraxlib.utils.text_tables import Table


@dataclass(frozen=True, eq=False)
class RegionStatistics(Table):
    """Counts of a data set with R regions and K labels; ``print`` it.

    Attributes
    ----------
    region_names, labels : tuple of str
        R and K names.
    images, complete : int
        All images, and those with every region.
    present : Tensor
        int64 (R,): images that have a region.
    positives, known : Tensor
        int64 (R, K): present regions with a finding, and those where it is known to be there or not.
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
        """Positives of each region, all findings together, int64 (R,)."""
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
    """Count regions and their findings.

    Parameters
    ----------
    dataset : ChestDataset
        With regions; see :func:`~thoraxlib.datasets.read_regions`.
    progress : bool
        Show a progress bar where images must be made, on a terminal.

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
