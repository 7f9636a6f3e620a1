"""Conversion of tensors, arrays and rows of numbers to float64 arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

Floats = NDArray[np.float64]


def array(values: ArrayLike) -> Floats:
    """Convert an array, or a tensor on any device, to float64."""
    if isinstance(values, Tensor):
        values = values.detach().cpu().double().numpy()
    return np.asarray(values, np.float64)


def table(rows: Sequence[Any], columns: int, source: object) -> Floats:
    """Convert rows of `columns` numbers from the file `source` to float64 (len(rows), columns); None becomes NaN.

    Raises
    ------
    ValueError
        A row of another length, or a value that is no number.

    Examples
    --------
    >>> table([[1, 2.5], [None, 0]], 2, "features.json").tolist()
    [[1.0, 2.5], [nan, 0.0]]
    """
    try:
        values = np.array(rows, np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{source}: rows of {columns} numbers are wanted: {error}") from error
    if not len(rows):
        return values.reshape(0, columns)
    if values.shape != (len(rows), columns):
        raise ValueError(f"{source}: rows of {columns} numbers are wanted, got shape {values.shape}")
    return values
