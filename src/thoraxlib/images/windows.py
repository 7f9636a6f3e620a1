"""Windows and stretches: from stored grey values to displayed ones, computed per grey level instead of per pixel."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from thoraxlib.utils.arrays import Floats

#: ``table(levels, counts)``: the displayed value, in [0, 1], of each of the stored `levels` (L,), which increase in
#: steps of 1; `counts` (L,) are the numbers of pixels.
Table: TypeAlias = Callable[[Floats, NDArray[np.int64]], Floats]

#: Mapping of greys of more than 8 bits to [0, 1]: ``"bits"``, the whole range of the bits in use; ``"percentiles"``,
#: from the 0.5 to the 99.5 percentile of the image; ``"minmax"``, from its minimum to its maximum; a pair
#: (centre, width); or, for DICOM, the number of one of the file's own tables and windows.
Window: TypeAlias = Literal["bits", "percentiles", "minmax"] | int | tuple[float, float]

_STRETCHES = {"percentiles": (0.005, 0.995), "minmax": (0.0, 1.0)}


def check_window(value: object) -> None:
    """Raise ValueError unless `value` is a :data:`Window`."""
    if isinstance(value, tuple):
        good = len(value) == 2 and all(isinstance(v, (int, float)) and _is_finite(v) for v in value)
    else:
        good = value in ("bits", *_STRETCHES) or (isinstance(value, int) and value >= 0)
    if not good or isinstance(value, bool):
        allowed = "'bits', 'percentiles', 'minmax', (centre, width) or, for DICOM, the number of a window of the file"
        raise ValueError(f"window must be {allowed}, got {value!r}")


def _is_finite(value: float) -> bool:
    return abs(value) <= sys.float_info.max  # also for an int beyond the range of float


def displayed(stored: NDArray[np.integer[Any]], table: Table) -> NDArray[np.float32]:
    """Apply a table to stored values, integers of up to 16 bits; the table is computed once for each level."""
    low = int(stored.min())
    offset = stored.astype(np.int32) - low
    counts = np.bincount(offset.ravel())
    levels = np.arange(low, low + len(counts), dtype=np.float64)
    return table(levels, counts).astype(np.float32)[offset]


def windowed(values: Floats, counts: NDArray[np.int64], how: Window) -> Floats:
    """Map levels to [0, 1] by a stretch or a window.

    Parameters
    ----------
    values, counts : ndarray
        (L,) Values of the levels, in any order, and their numbers of pixels. Without any pixel, all levels become 0.
    how : {"percentiles", "minmax"} or (float, float)
        The stretch, or (centre, width) of the window.
    """
    if isinstance(how, tuple):
        return window(values, *how)
    order = np.argsort(values, kind="stable")
    below = np.cumsum(counts[order])
    if not len(below) or not below[-1]:
        return np.zeros_like(values)
    ranks = np.array(_STRETCHES[str(how)]) * (below[-1] - 1)  # as numpy.percentile: between two order statistics
    first, second = (values[order][np.searchsorted(below, r, side="right")] for r in (np.floor(ranks), np.ceil(ranks)))
    low, high = (first + (second - first) * (ranks - np.floor(ranks))).tolist()
    step = (values.max() - values.min()) / max(len(values) - 1, 1)  # between levels: 1 for stored values
    span = max(high - low, 1e-6 * step)
    if span == 0:
        return np.zeros_like(values)
    stretched: Floats = np.clip((values - low) / span, 0, 1)
    return stretched


def window(values: NDArray[Any], centre: float, width: float, function: str = "LINEAR") -> Floats:
    """Map values to [0, 1] by a window (DICOM PS3.3 C.11.2.1.2 and C.11.2.1.3).

    Parameters
    ----------
    values : ndarray
        Values after the modality transform.
    centre, width : float
        Window, in the unit of `values`.
    function : {"LINEAR", "LINEAR_EXACT", "SIGMOID"}
        VOILUTFunction of the file.

    Raises
    ------
    ValueError
        `width` is below 1 for LINEAR, or not above 0 for the others; a number is not finite; or `function` is unknown.

    Examples
    --------
    >>> window(np.array([0.0, 128.0, 255.0]), centre=128, width=256).round(3).tolist()
    [0.0, 0.502, 1.0]
    """
    x: Floats = values.astype(np.float64)
    if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        raise ValueError(f"VOILUTFunction must be LINEAR, LINEAR_EXACT or SIGMOID, got {function!r}")
    if not (_is_finite(centre) and _is_finite(width)) or (width < 1 if function == "LINEAR" else width <= 0):
        raise ValueError(f"WindowWidth {width} (centre {centre}) is too small for VOILUTFunction {function}")
    with np.errstate(over="ignore"):  # to infinity, which is clipped
        if function == "SIGMOID":
            steps: Floats = np.clip(-4 * (x - centre) / width, None, 700)  # exp overflows beyond
            return 1 / (1 + np.exp(steps))
        if function == "LINEAR":  # the standard's half-pixel convention for integer values
            centre, width = centre - 0.5, width - 1
        if width == 0:
            return (x > centre).astype(np.float64)
        ramp: Floats = np.clip((x - centre) / width + 0.5, 0, 1)
    return ramp
