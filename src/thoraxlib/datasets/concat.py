"""Concatenate data sets with different labels."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors

from thoraxlib import labels as label_sets
from thoraxlib.datasets.base import ChestDataset, bounding_boxes

if TYPE_CHECKING:
    from thoraxlib.datasets.padchest import TermTree

_OF_REGIONS = ("regions", "present", "region_labels")


class Concat(Dataset[dict[str, Any]]):
    """Concatenate data sets, with common labels in one order.

    Labels match in any data set's spelling ("Effusion" is "pleural effusion"). The targets of a label that a part does
    not know are NaN for its images.

    Parameters
    ----------
    parts : mapping of str to ChestDataset, or sequence of ChestDataset
        With names, ids and patients become ``name/id``. Without, they stay as they are, and no two parts may share one.
    labels : str or sequence of str, optional
        The common labels. By default all labels of the parts, in the order of the parts.
    tree : TermTree, optional
        Tree of findings: an image with a finding also gets its ancestors as positive labels. With
        ``padchest.TermTree.shipped()``, an image of NIH with Consolidation has infiltrates.

    Attributes
    ----------
    labels, targets, patient_ids, ids
        See :class:`ChestDataset`.
    boxed : Tensor
        bool (N,), if a part has it; False for the images of the others. Samples then have boxes of the common labels.
    region_names : tuple of str
        If all parts have the same: samples then have regions, with their findings in the common order.

    Raises
    ------
    ValueError
        There is no part, a part has none of the labels, or parts without names share an id or patient.

    Examples
    --------
    >>> from thoraxlib.datasets import build
    >>> both = Concat(
    ...     {"a": build("synthetic", length=2, labels=["Effusion"]),
    ...      "b": build("synthetic", length=1, labels=["Mass"])},
    ...     labels=["pleural effusion", "mass"],
    ... )
    >>> both.ids[2][:2], both.targets[2].isnan().tolist()
    ('b/', [True, False])
    """

    def __init__(
        self,
        parts: Mapping[str, ChestDataset] | Sequence[ChestDataset],
        labels: str | Sequence[str] | None = None,
        *,
        tree: TermTree | None = None,
    ) -> None:
        named = isinstance(parts, Mapping)
        names = list(parts) if isinstance(parts, Mapping) else [str(number) for number in range(len(parts))]
        self.parts: list[ChestDataset] = list(parts.values()) if isinstance(parts, Mapping) else list(parts)
        if not self.parts:
            raise ValueError("parts holds no data set")
        if labels is None:
            spelling: dict[str, str] = {}
            for label in (label for part in self.parts for label in part.labels):
                spelling.setdefault(label_sets.canonical(label), label)
            labels = tuple(spelling.values())
        self.labels: tuple[str, ...] = label_sets.resolve(labels)
        self._columns = [_Columns.of(part.labels, self.labels, tree) for part in self.parts]
        pairs = list(zip(names, self.parts, strict=True))
        for (name, part), columns in zip(pairs, self._columns, strict=True):
            if all(column is None for column in columns.own) and not any(columns.kinds):
                raise ValueError(
                    f"part {name!r} has none of the labels {list(self.labels)}; it has {list(part.labels)}"
                )
        self._ends = list(accumulate(map(len, self.parts)))
        self.targets: Tensor = torch.cat(
            [columns.arrange(part.targets) for part, columns in zip(self.parts, self._columns, strict=True)]
        )
        if not named:
            _check_apart([part.ids for part in self.parts], "id")
            _check_apart([part.patient_ids for part in self.parts], "patient")
        start = "{}/{}" if named else "{1}"
        self.ids: list[str] = [start.format(name, own) for name, part in pairs for own in part.ids]
        self.patient_ids: list[str] = [start.format(name, own) for name, part in pairs for own in part.patient_ids]
        if any(hasattr(part, "boxed") for part in self.parts):
            none = torch.zeros(1, dtype=torch.bool)
            self.boxed: Tensor = torch.cat([getattr(part, "boxed", none.expand(len(part))) for part in self.parts])
        regions = {getattr(part, "region_names", None) for part in self.parts}
        if len(regions) == 1 and None not in regions:
            (self.region_names,) = regions

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = range(len(self))[index]
        number = bisect_right(self._ends, index)
        start = self._ends[number] - len(self.parts[number])
        sample = {**self.parts[number][index - start], "labels": self.targets[index].clone(), "id": self.ids[index]}
        if hasattr(self, "boxed"):
            sample["boxes"], sample["box_labels"] = self._boxes(sample, self._columns[number].own)
        if not hasattr(self, "region_names"):
            return {key: value for key, value in sample.items() if key not in _OF_REGIONS}
        if "region_labels" in sample:
            sample["region_labels"] = self._columns[number].arrange(sample["region_labels"])
        return sample

    def _boxes(self, sample: dict[str, Any], columns: list[int | None]) -> tuple[Tensor, Tensor]:
        """Return the boxes of the common labels, and the positions of these labels."""
        if "boxes" not in sample:
            return bounding_boxes(torch.zeros(0, 4), sample["image"].shape[-2:]), torch.zeros(0, dtype=torch.long)
        new = {old: number for number, old in enumerate(columns) if old is not None}
        moved = torch.tensor([new.get(old, -1) for old in sample["box_labels"].tolist()], dtype=torch.long)
        return tv_tensors.wrap(sample["boxes"][moved >= 0], like=sample["boxes"]), moved[moved >= 0]


class _Columns(NamedTuple):
    """For each common label, its column in a part, and the columns of its descendants in the tree."""

    own: list[int | None]
    kinds: list[list[int]]

    @classmethod
    def of(cls, source: Sequence[str], labels: Sequence[str], tree: TermTree | None) -> _Columns:
        own = label_sets.align(source, labels)
        if tree is None:
            return cls(own, [[] for _ in labels])
        terms = {label_sets.canonical(term): term for term in tree.terms}
        above = [tree.with_ancestors([terms.get(label_sets.canonical(label), label)]) for label in source]
        named = [{label_sets.canonical(term) for term in terms_of} for terms_of in above]
        wanted = [label_sets.canonical(label) for label in labels]
        pairs = zip(wanted, own, strict=True)
        return cls(own, [[c for c, names in enumerate(named) if name in names and c != k] for name, k in pairs])

    def arrange(self, targets: Tensor) -> Tensor:
        """Bring targets to the common order (N, K); NaN for labels that the part does not know."""
        unknown = targets.new_full((len(targets), 1), torch.nan)
        arranged = torch.cat([targets, unknown], dim=1)[:, [-1 if column is None else column for column in self.own]]
        for column, kinds in enumerate(self.kinds):
            if kinds:
                arranged[(targets[:, kinds] == 1).any(dim=1), column] = 1
        return arranged


def _check_apart(names: list[list[str]], what: str) -> None:
    owner: dict[str, int] = {}
    for number, part in enumerate(names):
        for name in part:
            if owner.setdefault(name, number) != number:
                raise ValueError(
                    f"parts {owner[name]} and {number} share the {what} {name!r}; if they are different ones, give the "
                    "parts names: {'nih': ..., 'padchest': ...}"
                )
