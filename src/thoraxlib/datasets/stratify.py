"""Splits by patient that are alike in all their labels, kept in a file, with a table of what is in each part.

No package on the registry splits so: iterative-stratification and scikit-multilearn take no groups (the first says that
it will not), and the second draws its ties from numpy's global state.
"""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from thoraxlib.arguments import one_of
from thoraxlib.datasets.base import ChestDataset
from thoraxlib.datasets.splits import Subset, as_parts, check_fractions
from thoraxlib.datasets.tables import Table
from thoraxlib.files import replacing

__all__ = ["Prevalence", "load_split", "prevalence", "save_split", "stratified_split", "stratify_patients"]


def stratified_split(
    dataset: ChestDataset, fractions: Mapping[str, float] | None = None, *, order: int = 2, seed: int = 0
) -> dict[str, Subset]:
    """Divide a data set by patient, so that the parts are alike in the shares of all labels.

    Iterative stratification (Sechidis et al., "On the stratification of multi-label data", ECML PKDD 2011) of whole
    patients, each with the numbers of its positive images: the rarest label that is left is dealt out first, its
    patients with most images before the others. With `order` 2, pairs of labels are dealt out like labels (Szymanski
    and Kajdanowicz, "A network perspective on stratification of multi-label data", PMLR 74, 2017). A patient goes to
    the part whose numbers of all its labels and pairs come nearest to what they should be. (The papers look at the
    label dealt out alone, and the frequent ones drift where patients have many.)

    Parameters
    ----------
    dataset : ChestDataset
        Its ``patient_ids`` and ``targets`` are used; unknown labels count as not positive.
    fractions : mapping of str to float, optional
        Name of each part and its share of the images; they add up to 1. By default train 0.7, val 0.1, test 0.2.
    order : {1, 2}
        Labels alone, or pairs of labels as well.
    seed : int
        Of the order of patients that are alike. The same seed, patients and labels give the same split, whatever the
        order of the images.

    Returns
    -------
    dict of str to Subset
        The parts: no patient is in two, every image is in one, in the data set's order.

    Raises
    ------
    ValueError
        Fractions that are not positive or do not add up to 1, another `order`, or too few patients for a part.
    """
    parts = stratify_patients(dataset.patient_ids, dataset.targets, fractions, order=order, seed=seed)
    return {name: Subset(dataset, indices) for name, indices in parts.items()}


def stratify_patients(
    patient_ids: Sequence[str],
    targets: Tensor,
    fractions: Mapping[str, float] | None = None,
    *,
    order: int = 2,
    seed: int = 0,
) -> dict[str, list[int]]:
    """The indices of each part; see :func:`stratified_split`.

    Examples
    --------
    >>> targets = torch.tensor([[1.0], [1.0], [0.0], [0.0], [0.0], [0.0]])
    >>> parts = stratify_patients(["a", "b", "c", "d", "e", "e"], targets, {"train": 0.5, "test": 0.5})
    >>> [int(targets[indices].sum()) for indices in parts.values()]
    [1, 1]
    """
    fractions = check_fractions(fractions)
    one_of("order", order, (1, 2))
    if targets.ndim != 2 or len(targets) == 0:
        raise ValueError(f"targets must be (N, K) with an image or more, got shape {tuple(targets.shape)}")
    if len(patient_ids) != len(targets):
        raise ValueError(f"there are {len(patient_ids)} patient ids, but {len(targets)} rows of targets")
    patients, owner = np.unique(np.asarray(patient_ids, dtype=str), return_inverse=True)
    counts = _counts((targets == 1).numpy(), owner.reshape(-1), order)
    place = np.random.default_rng(seed).permutation(len(patients))
    return as_parts(_deal(counts, np.array(list(fractions.values())), place), owner, fractions)


def _counts(positive: NDArray[np.bool_], owner: NDArray[np.integer[Any]], order: int) -> NDArray[np.int32]:
    """Images of each patient: of each label, of each pair of labels that occurs, and in all, (patients, columns)."""
    columns = [np.ones(len(owner), bool), *positive.T]
    if order == 2:
        columns += [one & other for one, other in combinations(positive.T, 2)]
    counted = [np.bincount(owner, column).astype(np.int32) for column in columns if column.any()]
    return np.stack([*counted[1:], counted[0]], axis=1)


def _deal(counts: NDArray[np.int32], shares: NDArray[np.float64], place: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """The part of each patient; `place` decides between patients that are alike."""
    left = counts.sum(axis=0)
    wanted = shares[:, None] * left
    lacking = wanted.copy()
    part = np.full(len(counts), -1)
    while (part < 0).any():
        # the rarest label or pair that is left; in the end what has none: all images, the last column
        rarest = int(np.where(left > 0, left, left[-1] + 1)[:-1].argmin()) if left[:-1].any() else -1
        members = np.flatnonzero((part < 0) & (counts[:, rarest] > 0))
        for patient in members[np.lexsort((place[members], -counts[members, rarest]))]:
            own = np.flatnonzero(counts[patient])
            added, lack = counts[patient, own], lacking[:, own]
            # by how much each part's squared differences from what it wants would fall, in units of what it wants
            gain = ((lack**2 - (lack - added) ** 2) / wanted[:, own]).sum(axis=1)
            part[patient] = chosen = int(gain.round(9).argmax())
            lacking[chosen, own] -= added
            left[own] -= added
    return part


def save_split(parts: Mapping[str, ChestDataset], path: str | os.PathLike[str]) -> None:
    """Write which image is in which part: a CSV file with ``part``, ``patient_id`` and ``id``.

    Raises
    ------
    ValueError
        An image that is in two parts, or twice in one.
    """
    rows = [
        (name, patient, image)
        for name, part in parts.items()
        for patient, image in zip(part.patient_ids, part.ids, strict=True)
    ]
    twice = [image for image, count in Counter(image for *_, image in rows).items() if count > 1]
    if twice:
        raise ValueError(f"{len(twice)} images are in the split more than once, e.g. {twice[0]}")
    with replacing(path) as scratch, scratch.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([("part", "patient_id", "id"), *rows])


def load_split(dataset: ChestDataset, path: str | os.PathLike[str]) -> dict[str, Subset]:
    """The parts that :func:`save_split` wrote, of the data set that was split.

    Raises
    ------
    FileNotFoundError
        No such file.
    ValueError
        The file is of another data set: of other images, or of other patients; or it is no split, or one that has a
        patient in two parts.
    """
    table = Table(Path(path))
    parts, patients, images = (table.column(name) for name in ("part", "patient_id", "id"))
    table.check_unique(images)
    index_of = {image: index for index, image in enumerate(dataset.ids)}
    unknown = [image for image in images if image not in index_of]
    lacking = len(index_of) - (len(images) - len(unknown))
    if unknown or lacking:
        first = f"; of its images this data set lacks {len(unknown)}, e.g. {unknown[0]}" if unknown else ""
        raise ValueError(
            f"{path} is the split of another data set: {lacking} of {len(dataset)} images are not in it{first}"
        )
    part_of: dict[str, str] = {}
    for row, (image, patient, part) in enumerate(zip(images, patients, parts, strict=True)):
        if dataset.patient_ids[index_of[image]] != patient:
            raise ValueError(
                f"{table.where(row)}: {image} is of patient {patient} there, of {dataset.patient_ids[index_of[image]]} "
                "in this data set"
            )
        if part_of.setdefault(patient, part) != part:
            raise ValueError(f"{table.where(row)}: patient {patient} is in {part!r} and in {part_of[patient]!r}")
    indices: dict[str, list[int]] = {name: [] for name in parts}
    for name, image in zip(parts, images, strict=True):
        indices[name].append(index_of[image])
    return {name: Subset(dataset, sorted(rows)) for name, rows in indices.items()}


@dataclass(frozen=True)
class Prevalence:
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

    @property
    def shares(self) -> Tensor:
        """Positive among known images, (parts, K); NaN where none is known."""
        return torch.stack([self.positives[name] / self.known[name] for name in self.images])

    @property
    def spread(self) -> Tensor:
        """For each label the largest difference of its shares in two parts, (K,)."""
        shares = self.shares
        return shares.amax(dim=0) - shares.amin(dim=0)

    def __str__(self) -> str:
        cells = [["", *self.images, "spread"]]
        cells.append(["patients", *map(str, self.patients.values()), ""])
        cells.append(["images", *map(str, self.images.values()), ""])
        columns = list(zip(self.positives.values(), self.shares, strict=True))
        for k, label in enumerate(self.labels):
            counts = [f"{int(count[k])} ({_percent(share[k])})" for count, share in columns]
            cells.append([label, *counts, _percent(self.spread[k])])
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        return "\n".join(
            "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip() for line in cells
        )


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
