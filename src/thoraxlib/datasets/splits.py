"""Splits that keep a patient in one part."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from thoraxlib.datasets.base import OF_ALL, OF_EACH, ChestDataset
from thoraxlib.utils.arguments import positions


class Subset(Dataset[dict[str, Any]]):
    """Some images of a data set, itself a data set with ``labels``, ``targets``, ``patient_ids`` and ``ids``.

    And with ``boxed``, ``study_ids``, ``views``, ``mask_names`` and what is known of regions and files, where the data
    set has them.

    Parameters
    ----------
    dataset : ChestDataset
        Where the images are.
    indices : sequence of int
        Which ones, in this order; or a boolean mask of them all.

    Raises
    ------
    TypeError, ValueError, IndexError
        Values that are neither; a mask of another length; an image that is not there.
    """

    def __init__(self, dataset: ChestDataset, indices: Sequence[int]) -> None:
        self.dataset = dataset
        self.indices = positions("indices", indices, len(dataset.ids))
        rows = torch.tensor(self.indices, dtype=torch.long)
        self.labels: tuple[str, ...] = dataset.labels
        self.targets: Tensor = dataset.targets[rows]
        self.patient_ids: list[str] = [dataset.patient_ids[index] for index in self.indices]
        self.ids: list[str] = [dataset.ids[index] for index in self.indices]
        for name in OF_ALL:
            if hasattr(dataset, name):
                setattr(self, name, getattr(dataset, name))
        for name in OF_EACH:
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
        Its ``patient_ids`` are used.
    fractions : mapping of str to float, optional
        Name of each part and its share of the patients; they add up to 1. By default train 0.7, val 0.1, test 0.2, the
        shares of CheXNet.
    seed : int
        The same seed and patients give the same split, whatever the order of the images.

    Returns
    -------
    dict of str to Subset
        The parts: no patient is in two, every image is in one, in the data set's order.

    Raises
    ------
    ValueError
        Fractions that are not positive or do not add up to 1, or too few patients for a part.
    """
    parts = split_patients(dataset.patient_ids, fractions, seed)
    return {name: Subset(dataset, indices) for name, indices in parts.items()}


def split_patients(
    patient_ids: Sequence[str], fractions: Mapping[str, float] | None = None, seed: int = 0
) -> dict[str, list[int]]:
    """The indices of each part; see :func:`split_by_patient`.

    Examples
    --------
    >>> split_patients(["a", "a", "b", "c", "b"], {"train": 0.67, "test": 0.33}, seed=3)
    {'train': [2, 3, 4], 'test': [0, 1]}
    """
    fractions = check_fractions(fractions)
    patients = sorted(set(map(str, patient_ids)))
    number = {patient: index for index, patient in enumerate(patients)}
    owner = np.array([number[str(patient)] for patient in patient_ids], dtype=np.int64)
    place = np.random.default_rng(seed).permutation(len(patients))
    ends = np.round(np.cumsum(list(fractions.values())) * len(patients)).astype(int)
    return as_parts(np.searchsorted(ends, place, side="right"), owner, fractions)


def check_fractions(fractions: Mapping[str, float] | None) -> dict[str, float]:
    """The shares of the parts, by default train 0.7, val 0.1, test 0.2.

    Raises
    ------
    ValueError
        They are not positive or do not add up to 1.
    """
    fractions = {"train": 0.7, "val": 0.1, "test": 0.2} if fractions is None else dict(fractions)
    shares = list(fractions.values())
    if not shares or min(shares) <= 0 or not math.isclose(sum(shares), 1, abs_tol=1e-6):
        raise ValueError(f"fractions must be positive and add up to 1, got {fractions}")
    return fractions


def as_parts(
    part: NDArray[np.integer[Any]], owner: NDArray[np.integer[Any]], fractions: Mapping[str, float]
) -> dict[str, list[int]]:
    """The images of each part, from the part of each patient and the patient of each image.

    Raises
    ------
    ValueError
        A part is empty.
    """
    parts = {name: np.flatnonzero(part[owner.reshape(-1)] == number).tolist() for number, name in enumerate(fractions)}
    empty = [name for name, indices in parts.items() if not indices]
    if empty:
        raise ValueError(f"{len(part)} patients are too few for the parts {dict(fractions)}: {empty} would be empty")
    return parts


def oversample(dataset: ChestDataset, labels: Sequence[str], times: int = 1) -> Subset:
    """A training set with `times` more copies of every image that is positive for any of some labels.

    jfhealthcare/Chexpert's ``enhance_index`` and ``enhance_times`` (Cardiomegaly and Consolidation, once);
    alinstein/X_RAY does it for all five labels of CheXpert. The copies come after the images.

    Parameters
    ----------
    dataset : ChestDataset
        The training set, not one that is scored.
    labels : sequence of str
        Of its labels.
    times : int
        Copies of a positive image beside itself.

    Raises
    ------
    ValueError
        A label that the data set does not have; `times` below 0.
    """
    unknown = [label for label in labels if label not in dataset.labels]
    if unknown or not labels or isinstance(labels, str):
        raise ValueError(f"labels={labels!r}: some of the data set's are needed, {list(dataset.labels)}")
    if times < 0:
        raise ValueError(f"times={times}: 0 or more")
    columns = [dataset.labels.index(label) for label in labels]
    positive = torch.nonzero((dataset.targets[:, columns] == 1).any(dim=1)).flatten().tolist()
    return Subset(dataset, [*range(len(dataset)), *positive * times])
