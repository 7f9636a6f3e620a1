"""Join values of regions to values of images, and values of images to values of studies or patients."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from thoraxlib.utils.arguments import one_of
from thoraxlib.utils.arrays import Floats, array

#: Rules of jfhealthcare/Chexpert for the images of a study, for the labels of "chexpert5".
JF_RULES = ("min", "max", "mean", "mean", "mean")


def image_level(values: Tensor, rule: str = "max") -> Tensor:
    """Join labels or scores of regions to those of images, (..., K); NaN where nothing is known.

    Parameters
    ----------
    values : Tensor
        (..., R, K): NaN where a region is absent or its label unknown. For "noisy_or", from 0 to 1.
    rule : {"max", "mean", "noisy_or"}
        Rule for the known regions. "noisy_or" is 1 - product of (1 - p).

    Examples
    --------
    >>> nan = float("nan")
    >>> image_level(torch.tensor([[[0.0, nan, 0.0], [1.0, nan, nan]]]))
    tensor([[1., nan, 0.]])
    """
    one_of("rule", rule, ("max", "mean", "noisy_or"))
    known = ~values.isnan()
    if rule == "max":
        joined = torch.where(known, values, -torch.inf).amax(dim=-2)
    elif rule == "mean":
        joined = values.nanmean(dim=-2)
    else:
        joined = 1 - torch.where(known, 1 - values, 1.0).prod(dim=-2)
    return torch.where(known.any(dim=-2), joined, torch.nan)


def aggregate(values: ArrayLike, groups: Sequence[str], how: str | Sequence[str] = "mean") -> tuple[Floats, list[str]]:
    """Join values of images to values of studies or patients.

    Parameters
    ----------
    values : array_like
        (N, K): scores, or labels (whose maximum is usual). NaN (unknown) is left out.
    groups : sequence of str
        N: the study, or patient, of each image.
    how : {"mean", "max", "min"} or sequence of them
        One rule, or one for each label, such as :data:`JF_RULES`.

    Returns
    -------
    tuple
        float64 (G, K), NaN where a group has no value; and the G groups, in the order of their first images.

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
    position = {name: number for number, name in enumerate(dict.fromkeys(groups))}
    number = np.array([position[name] for name in groups], dtype=np.intp)
    order = np.argsort(number, kind="stable")
    begin = np.flatnonzero(np.diff(number[order], prepend=-1))
    ordered, known = table[order], ~np.isnan(table[order])
    with np.errstate(invalid="ignore"):
        mean = np.add.reduceat(np.where(known, ordered, 0), begin) / np.add.reduceat(known.astype(int), begin)
    joined = {"mean": mean, "max": np.fmax.reduceat(ordered, begin), "min": np.fmin.reduceat(ordered, begin)}
    columns = [joined[rule][:, k] for k, rule in enumerate(rules)]
    return np.stack(columns, axis=1) if columns else mean, list(position)
