"""Subsets and splits of data sets; a split keeps all images of a patient in one part.

No package on PyPI stratifies patients by several labels: iterative-stratification and scikit-multilearn take no groups,
and the second breaks ties by numpy's global random state.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from thoraxlib.datasets.base import FOR_ALL, PER_IMAGE, ChestDataset
from thoraxlib.datasets.files import StrPath
from thoraxlib.datasets.tables import Table
from thoraxlib.utils.arguments import positions, repeated
from thoraxlib.utils.files import replacing


class Subset(Dataset[dict[str, Any]]):
    """Some images of a data set, as a :class:`~thoraxlib.datasets.ChestDataset`.

    Optional attributes of the data set, such as ``boxed``, ``study_ids``, ``views``, ``mask_names`` and those of
    regions and files, are kept.

    Parameters
    ----------
    dataset : ChestDataset
        The data set.
    indices : sequence of int
        Indices of the images, in this order; or a boolean mask of all images.

    Raises
    ------
    TypeError, ValueError, IndexError
        Other values, a mask of another length, or an index out of range.
    """

    def __init__(self, dataset: ChestDataset, indices: Sequence[int]) -> None:
        self.dataset = dataset
        self.indices = positions("indices", indices, len(dataset.ids))
        rows = torch.tensor(self.indices, dtype=torch.long)
        self.labels: tuple[str, ...] = dataset.labels
        self.targets: Tensor = dataset.targets[rows]
        self.patient_ids: list[str] = [dataset.patient_ids[index] for index in self.indices]
        self.ids: list[str] = [dataset.ids[index] for index in self.indices]
        for name in FOR_ALL:
            if hasattr(dataset, name):
                setattr(self, name, getattr(dataset, name))
        for name in PER_IMAGE:
            column = getattr(dataset, name, None)
            if column is not None:
                chosen = column[rows] if isinstance(column, Tensor) else [column[index] for index in self.indices]
                setattr(self, name, chosen)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.dataset[self.indices[index]]


def split_by_patient(
    dataset: ChestDataset, fractions: Mapping[str, float] | None = None, seed: int = 0
) -> dict[str, Subset]:
    """Divide a data set by patient.

    Parameters
    ----------
    dataset : ChestDataset
        The data set; only its ``patient_ids`` are used.
    fractions : mapping of str to float, optional
        Share of the patients of each part, by name; they sum to 1. By default train 0.7, val 0.1, test 0.2, as for
        CheXNet.
    seed : int
        Random seed. The same seed and patients give the same split, in any order of the images.

    Returns
    -------
    dict of str to Subset
        The parts. No patient is in two parts; every image is in one, in the data set's order.

    Raises
    ------
    ValueError
        Fractions are not positive or do not sum to 1, or a part gets no patient.
    """
    parts = split_patients(dataset.patient_ids, fractions, seed)
    return {name: Subset(dataset, indices) for name, indices in parts.items()}


def split_patients(
    patient_ids: Sequence[str], fractions: Mapping[str, float] | None = None, seed: int = 0
) -> dict[str, list[int]]:
    """Return the indices of each part; see :func:`split_by_patient`.

    Examples
    --------
    >>> split_patients(["a", "a", "b", "c", "b"], {"train": 0.67, "test": 0.33}, seed=3)
    {'train': [2, 3, 4], 'test': [0, 1]}
    """
    fractions = _check_fractions(fractions)
    owner, patients = _owners(patient_ids)
    rank = np.random.default_rng(seed).permutation(patients)
    ends = np.round(np.cumsum(list(fractions.values())) * patients).astype(int)
    return _parts(np.searchsorted(ends, rank, side="right"), owner, fractions)


def _owners(patient_ids: Sequence[str]) -> tuple[NDArray[np.int64], int]:
    """Return the number of each image's patient, in sorted order, and the number of patients."""
    # no array of text: it would give every id the memory of the longest
    number = {patient: index for index, patient in enumerate(sorted(set(map(str, patient_ids))))}
    return np.array([number[str(patient)] for patient in patient_ids], dtype=np.int64), len(number)


def _check_fractions(fractions: Mapping[str, float] | None) -> dict[str, float]:
    fractions = {"train": 0.7, "val": 0.1, "test": 0.2} if fractions is None else dict(fractions)
    shares = list(fractions.values())
    if not shares or min(shares) <= 0 or not math.isclose(sum(shares), 1, abs_tol=1e-6):
        raise ValueError(f"fractions must be positive and add up to 1, got {fractions}")
    return fractions


def _parts(
    part: NDArray[np.integer[Any]], owner: NDArray[np.integer[Any]], fractions: Mapping[str, float]
) -> dict[str, list[int]]:
    """Return the images of each part, from the part of each patient and the patient of each image."""
    parts = {name: np.flatnonzero(part[owner] == number).tolist() for number, name in enumerate(fractions)}
    empty = [name for name, indices in parts.items() if not indices]
    if empty:
        raise ValueError(f"{len(part)} patients are too few for the parts {dict(fractions)}: {empty} would be empty")
    return parts


def oversample(dataset: ChestDataset, labels: Sequence[str], times: int = 1) -> Subset:
    """Add `times` copies of every image that is positive for one of some labels, after all images.

    These are ``enhance_index`` and ``enhance_times`` of jfhealthcare/Chexpert (Cardiomegaly and Consolidation, once);
    alinstein/X_RAY uses all five labels of CheXpert.

    Parameters
    ----------
    dataset : ChestDataset
        A training set; scores on a set with copies would be wrong.
    labels : sequence of str
        Labels of the data set.
    times : int
        Number of additional copies.

    Raises
    ------
    ValueError
        The data set does not have a label, or `times` is below 0.
    """
    unknown = [label for label in labels if label not in dataset.labels]
    if unknown or not labels or isinstance(labels, str):
        raise ValueError(f"labels={labels!r}: some of the data set's are needed, {list(dataset.labels)}")
    if times < 0:
        raise ValueError(f"times={times}: 0 or more")
    columns = [dataset.labels.index(label) for label in labels]
    positive = torch.nonzero((dataset.targets[:, columns] == 1).any(dim=1)).flatten().tolist()
    return Subset(dataset, [*range(len(dataset)), *positive * times])


def stratified_split(
    dataset: ChestDataset, fractions: Mapping[str, float] | None = None, *, seed: int = 0
) -> dict[str, Subset]:
    """Divide a data set by patient, into parts with equal prevalence of all labels.

    This is iterative stratification (Sechidis et al., "On the stratification of multi-label data", ECML PKDD 2011) of
    whole patients with their numbers of positive images: the rarest remaining label is distributed first, beginning
    with the patients with most images. Pairs of labels are also distributed like labels (Szymanski and
    Kajdanowicz, "A network perspective on stratification of multi-label data", PMLR 74, 2017). A patient goes to the
    part whose counts of all its labels and pairs come nearest to their goals. (The papers compare only the label that
    is being distributed; frequent labels then drift if patients have many.)

    Parameters
    ----------
    dataset : ChestDataset
        The data set; its ``patient_ids`` and ``targets`` are used, and unknown labels count as not positive.
    fractions : mapping of str to float, optional
        Share of the images of each part, by name; they sum to 1. By default train 0.7, val 0.1, test 0.2.
    seed : int
        Random seed for the order of equal patients. The same seed, patients and labels give the same split, in any
        order of the images.

    Returns
    -------
    dict of str to Subset
        The parts. No patient is in two parts; every image is in one, in the data set's order.

    Raises
    ------
    ValueError
        Fractions are not positive or do not sum to 1, or a part gets no patient.
    """
    parts = stratify_patients(dataset.patient_ids, dataset.targets, fractions, seed=seed)
    return {name: Subset(dataset, indices) for name, indices in parts.items()}


def stratify_patients(
    patient_ids: Sequence[str], targets: Tensor, fractions: Mapping[str, float] | None = None, *, seed: int = 0
) -> dict[str, list[int]]:
    """Return the indices of each part; see :func:`stratified_split`.

    Raises
    ------
    ValueError
        Targets are not (N, K), or differ in number from the patient ids; or as :func:`stratified_split`.

    Examples
    --------
    >>> import torch
    >>> targets = torch.tensor([[1.0], [1.0], [0.0], [0.0], [0.0], [0.0]])
    >>> parts = stratify_patients(["a", "b", "c", "d", "e", "e"], targets, {"train": 0.5, "test": 0.5})
    >>> [int(targets[indices].sum()) for indices in parts.values()]
    [1, 1]
    """
    fractions = _check_fractions(fractions)
    if targets.ndim != 2 or len(targets) == 0:
        raise ValueError(f"targets must be (N, K) with an image or more, got shape {tuple(targets.shape)}")
    if len(patient_ids) != len(targets):
        raise ValueError(f"there are {len(patient_ids)} patient ids, but {len(targets)} rows of targets")
    owner, patients = _owners(patient_ids)
    counts = _counts((targets == 1).numpy(), owner)
    rank = np.random.default_rng(seed).permutation(patients)
    return _parts(_deal(counts, np.array(list(fractions.values())), rank), owner, fractions)


def folds(dataset: ChestDataset, k: int, seed: int = 0) -> list[tuple[Subset, Subset]]:
    """Divide a data set by patient into k folds with equal prevalence of all labels, for cross-validation.

    Folds are the parts of :func:`stratified_split` with equal fractions.

    Parameters
    ----------
    dataset : ChestDataset
        The data set; its ``patient_ids`` and ``targets`` are used, and unknown labels count as not positive.
    k : int
        Number of folds, from 2 to the number of patients.
    seed : int
        Random seed for the order of equal patients.

    Returns
    -------
    list of (Subset, Subset)
        Training and validation part of each fold: all other folds, and the fold.

    Raises
    ------
    ValueError
        `k` is below 2, or a fold gets no patient.

    Examples
    --------
    >>> from thoraxlib.datasets import build
    >>> for train, val in folds(build("synthetic", length=30, size=32), 3):
    ...     print(len(train) + len(val), set(train.patient_ids) & set(val.patient_ids))
    30 set()
    30 set()
    30 set()
    """
    parts = stratify_folds(dataset.patient_ids, dataset.targets, k, seed=seed)
    return [(Subset(dataset, rest), Subset(dataset, fold)) for rest, fold in parts]


def stratify_folds(
    patient_ids: Sequence[str], targets: Tensor, k: int, *, seed: int = 0
) -> list[tuple[list[int], list[int]]]:
    """Return the indices of each training and validation part; see :func:`folds`.

    Raises
    ------
    ValueError
        As :func:`folds`.
    """
    if not isinstance(k, int) or k < 2:
        raise ValueError(f"k={k!r}: a number of folds, 2 or more")
    parts = stratify_patients(patient_ids, targets, {f"fold {number}": 1 / k for number in range(k)}, seed=seed)
    fold_of = np.empty(len(patient_ids), dtype=np.intp)
    for number, indices in enumerate(parts.values()):
        fold_of[indices] = number
    return [(np.flatnonzero(fold_of != number).tolist(), part) for number, part in enumerate(parts.values())]


def _counts(positive: NDArray[np.bool_], owner: NDArray[np.integer[Any]]) -> NDArray[np.int32]:
    """Count the images of each patient (patients, columns): per label, per pair of labels that occurs, and in all."""
    pairs = [one & other for one, other in combinations(positive.T, 2)]
    columns = [np.ones(len(owner), bool), *positive.T, *pairs]
    counted = [np.bincount(owner, column).astype(np.int32) for column in columns if column.any()]
    return np.stack([*counted[1:], counted[0]], axis=1)


def _deal(counts: NDArray[np.int32], shares: NDArray[np.float64], rank: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """Return the part of each patient; `rank` orders equal patients."""
    remaining = counts.sum(axis=0)
    goals = shares[:, None] * remaining
    lacking = goals.copy()
    part = np.full(len(counts), -1)
    while (part < 0).any():
        # the rarest remaining label or pair; at the end the last column, for images without any label
        rarity = np.where(remaining > 0, remaining, remaining[-1] + 1)[:-1]
        rarest = int(rarity.argmin()) if remaining[:-1].any() else -1
        members = np.flatnonzero((part < 0) & (counts[:, rarest] > 0))
        for patient in members[np.lexsort((rank[members], -counts[members, rarest]))]:
            own = np.flatnonzero(counts[patient])
            added, lack = counts[patient, own], lacking[:, own]
            # decrease of each part's squared differences from its goals, relative to the goals
            gain = ((lack**2 - (lack - added) ** 2) / goals[:, own]).sum(axis=1)
            part[patient] = chosen = int(gain.round(9).argmax())
            lacking[chosen, own] -= added
            remaining[own] -= added
    return part


def save_split(parts: Mapping[str, ChestDataset], path: StrPath) -> None:
    """Write a split to a CSV file with the columns ``part``, ``patient_id`` and ``id``.

    Raises
    ------
    ValueError
        An image is in two parts, or twice in one.
    """
    rows = [
        (name, patient, image)
        for name, part in parts.items()
        for patient, image in zip(part.patient_ids, part.ids, strict=True)
    ]
    twice = repeated(image for *_, image in rows)
    if twice:
        raise ValueError(f"{len(twice)} images are in the split more than once, e.g. {twice[0]}")
    with replacing(path) as scratch, scratch.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([("part", "patient_id", "id"), *rows])


def load_split(dataset: ChestDataset, path: StrPath) -> dict[str, Subset]:
    """Return the parts of a data set from a file of :func:`save_split`.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        The file is no split, has a patient in two parts, or is the split of other images or patients.
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
    indices: dict[str, list[int]] = {}
    for row, (image, patient, part) in enumerate(zip(images, patients, parts, strict=True)):
        index = index_of[image]
        if dataset.patient_ids[index] != patient:
            raise ValueError(
                f"{table.where(row)}: {image} belongs to patient {patient} there, to {dataset.patient_ids[index]} in "
                "this data set"
            )
        if part_of.setdefault(patient, part) != part:
            raise ValueError(f"{table.where(row)}: patient {patient} is in {part!r} and in {part_of[patient]!r}")
        indices.setdefault(part, []).append(index)
    return {name: Subset(dataset, sorted(rows)) for name, rows in indices.items()}
