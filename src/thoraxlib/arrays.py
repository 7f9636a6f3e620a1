"""Tensors and arrays of any kind as float64."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

__all__ = ["Floats", "array"]

Floats = NDArray[np.float64]


def array(values: ArrayLike) -> Floats:
    """Float64 of an array, or of a tensor wherever it lies."""
    if isinstance(values, Tensor):
        values = values.detach().cpu().double().numpy()
    return np.asarray(values, np.float64)
