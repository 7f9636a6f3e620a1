"""Targets and scores as checked arrays: what every score begins with."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thoraxlib.utils.arrays import Floats, array

_PRECISE = 4  # bytes of a number, below which scores that differ are often written alike


def check_names(labels: Sequence[str] | None, y: Floats) -> None:
    """Raise ValueError where the names are not as many as the columns."""
    if labels is not None and len(labels) != y.shape[1]:
        raise ValueError(f"labels has {len(labels)} names, targets have {y.shape[1]} columns")


def checked(targets: ArrayLike, scores: ArrayLike) -> tuple[Floats, Floats]:
    """Both as float64 (N, K).

    Raises
    ------
    ValueError
        Shapes that differ, targets other than 0, 1 and NaN, scores that are NaN or infinite.
    """
    y, s = array(targets), array(scores)
    if y.ndim != 2 or y.shape != s.shape or not y.size:
        raise ValueError(f"targets and scores must both be (N, K), none of them 0, got {y.shape} and {s.shape}")
    odd = y[~np.isin(y, (0, 1)) & ~np.isnan(y)]
    if len(odd):
        raise ValueError(f"targets must be 0, 1 or NaN; {len(odd)} are not, the first is {odd[0]:g}")
    if not np.isfinite(s).all():
        raise ValueError(f"scores must be finite, but hold {np.isnan(s).sum()} NaN and {np.isinf(s).sum()} infinite")
    return y, s


def check_order(y: Floats, s: Floats, scores: ArrayLike, stacklevel: int) -> None:
    """Warn where the type of `scores` has lost their order: half precision, or float32 probabilities that are all 1."""
    itemsize = getattr(getattr(scores, "dtype", None), "itemsize", 8)
    if itemsize > _PRECISE or np.isin(s, (0, 1)).all():
        return
    if itemsize < _PRECISE:
        text = "scores are in half precision, in which many that differ are equal"
    elif ((s >= 0) & (s <= 1)).all() and _tied(y, s):
        text = "scores are float32 probabilities, of which positives and negatives are exactly 1"
    else:
        return
    warnings.warn(
        f"{text}: their order is lost; give float32 logits, or float64 probabilities", stacklevel=stacklevel + 1
    )


def _tied(y: Floats, s: Floats) -> bool:
    """Whether both classes of a label have the score 1."""
    top = s == 1
    return bool(((top & (y == 1)).any(axis=0) & (top & (y == 0)).any(axis=0)).any())


def both_classes(y: Floats) -> NDArray[np.bool_]:
    """Which labels of targets (N, K) have both classes, (K,)."""
    return np.asarray((y == 0).any(axis=0) & (y == 1).any(axis=0))


def scorable(y: Floats, labels: Sequence[str] | None, stacklevel: int) -> list[int]:
    """Columns that have both classes; the others are named in a warning."""
    both = both_classes(y)
    if not both.all():
        names = [str(k) if labels is None else labels[k] for k, has in enumerate(both) if not has]
        text = f"no score for labels without both classes: {', '.join(names)}"
        warnings.warn(text, UserWarning, stacklevel=stacklevel + 1)
    return [int(k) for k in np.flatnonzero(both)]
