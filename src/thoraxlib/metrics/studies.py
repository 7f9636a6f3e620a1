"""From images to studies or patients."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from thoraxlib.utils.arrays import Floats, array

#: How jfhealthcare/Chexpert joins the images of a study, for the labels of "chexpert5".
JF_RULES = ("min", "max", "mean", "mean", "mean")


def aggregate(values: ArrayLike, groups: Sequence[str], how: str | Sequence[str] = "mean") -> tuple[Floats, list[str]]:
    """Values of images joined to values of studies or patients.

    Parameters
    ----------
    values : array_like
        (N, K): scores, or labels (of which the maximum is usual). NaN where unknown, left out.
    groups : sequence of str
        N: which study, or patient, an image belongs to.
    how : {"mean", "max", "min"} or sequence of them
        One rule, or one for each label, such as :data:`JF_RULES`.

    Returns
    -------
    tuple
        float64 (G, K), NaN where a group has no value; and the G groups, in the order in which they first come.

    Raises
    ------
    ValueError
        Values that are not (N, K) for N groups, or infinite; an unknown rule, or rules that are not K.

    Examples
    --------
    >>> aggregate([[0.2], [0.6], [0.5]], ["a", "a", "b"], "max")
    (array([[0.6],
           [0.5]]), ['a', 'b'])
    """
    table = array(values)
    if table.ndim != 2 or len(table) != len(groups):
        raise ValueError(f"values must be (N, K) for {len(groups)} groups, got shape {table.shape}")
    if np.isinf(table).any():
        raise ValueError(f"values hold {np.isinf(table).sum()} infinite numbers: finite ones are wanted, or NaN")
    rules = [how] * table.shape[1] if isinstance(how, str) else list(how)
    if len(rules) != table.shape[1] or not set(rules) <= {"mean", "max", "min"}:
        raise ValueError(f"how={how!r}: one of 'mean', 'max', 'min', or {table.shape[1]} of them")
    place = {name: number for number, name in enumerate(dict.fromkeys(groups))}
    number = np.array([place[name] for name in groups], dtype=np.intp)
    order = np.argsort(number, kind="stable")
    begin = np.flatnonzero(np.diff(number[order], prepend=-1))
    ufuncs = {"max": np.fmax, "min": np.fmin}
    joined = np.empty((len(place), table.shape[1]))
    for k, rule in enumerate(rules):
        column = table[order, k]
        if rule == "mean":
            known = ~np.isnan(column)
            with np.errstate(invalid="ignore"):
                joined[:, k] = np.add.reduceat(np.where(known, column, 0), begin) / np.add.reduceat(known, begin)
        else:
            joined[:, k] = ufuncs[rule].reduceat(column, begin)
    return joined, list(place)
