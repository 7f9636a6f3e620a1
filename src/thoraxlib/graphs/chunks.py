"""Label tables of any size and kind, a few rows at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor


def chunks(targets: Any, shape: Sequence[int], rows: int, message: str) -> Iterator[tuple[int, Tensor]]:
    """Up to `rows` rows at a time, as tensors on the CPU, with the number of the first within its part.

    Parameters
    ----------
    targets : Tensor, array, or an iterable of them
        ``(N, *shape)``, of any number type; or parts of it.
    shape : sequence of int
        Of a row.
    rows : int
        In a chunk.
    message : str
        Of the error for a part of another shape, which stands behind it.

    Raises
    ------
    ValueError
        A part of another shape.
    """
    parts: Iterable[Any] = [targets] if hasattr(targets, "ndim") else targets
    for part in parts:
        values = part if isinstance(part, Tensor) else np.asarray(part)
        if tuple(values.shape[1:]) != tuple(shape):
            raise ValueError(f"{message} {tuple(values.shape)}")
        for start in range(0, len(values), rows):
            chunk = values[start : start + rows]
            if isinstance(chunk, Tensor):
                yield start, chunk.cpu()
            else:  # a copy of what torch cannot take as it is: read-only, backwards, between other columns
                yield start, torch.from_numpy(chunk if chunk.flags.carray else chunk.copy())
