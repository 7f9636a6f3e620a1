"""How often each label is positive in each part of a split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from thoraxlib.datasets.base import ChestDataset
from thoraxlib.utils.text_tables import Table


@dataclass(frozen=True)
class Prevalence(Table):
    """How often each label is positive in each part; ``str(prevalence)`` is a table.

    Attributes
    ----------
    labels : tuple of str
        K.
    images, patients : dict of str to int
        Of each part.
    positives, known : dict of str to Tensor
        int64 (K,): images of each part that have the label, and of which it is known.
    """

    labels: tuple[str, ...]
    images: dict[str, int]
    patients: dict[str, int]
    positives: dict[str, Tensor]
    known: dict[str, Tensor]
    _name = "prevalence"

    @property
    def shares(self) -> Tensor:
        """Positive among known images, (parts, K); NaN where none is known."""
        return torch.stack([self.positives[name] / self.known[name] for name in self.images])

    @property
    def spread(self) -> Tensor:
        """For each label the largest difference of its shares in two parts, (K,)."""
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
        No part, or parts with different labels.
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
