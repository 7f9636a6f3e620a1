"""Splits by patient that are alike in all their labels.

No package on the registry splits so: iterative-stratification and scikit-multilearn take no groups (the first says that
it will not), and the second draws its ties from numpy's global state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from thoraxlib.datasets.base import ChestDataset
from thoraxlib.datasets.splits import Subset, as_parts, check_fractions
from thoraxlib.utils.arguments import one_of


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

    Raises
    ------
    ValueError
        Targets that are not (N, K), or not as many as patients' ids; fractions as :func:`stratified_split`.

    Examples
    --------
    >>> import torch
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
