"""Connected components of many masks at once: runs of pixels, joined by a sparse graph."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Runs(NamedTuple):
    """R runs of consecutive pixels in a row, in row-major order.

    Attributes
    ----------
    row : NDArray
        int64 (R,): row, counted through all masks: ``mask * h + y``.
    start, stop : NDArray
        int64 (R,): columns, `stop` exclusive.
    component : NDArray
        int32 (R,): number of the run's component; components are numbered by their first run.
    """

    row: NDArray[np.int64]
    start: NDArray[np.int64]
    stop: NDArray[np.int64]
    component: NDArray[np.int32]

    def edges(self, width: int) -> NDArray[np.int64]:
        """Pixel indices, counted through masks `width` wide, at which runs start and stop: int64 (2 R,)."""
        return (self.row[:, None] * width + np.stack([self.start, self.stop], axis=1)).ravel()


class Components(NamedTuple):
    """M connected components, ordered by mask, and within a mask by their first pixel.

    Attributes
    ----------
    plane : NDArray
        int64 (M,): index of the mask.
    xyxy : NDArray
        int64 (M, 4): bounding box x1, y1, x2, y2, with x2 and y2 exclusive.
    area : NDArray
        int64 (M,): number of pixels.
    total : NDArray
        float64 (M,): sum of the values.
    """

    plane: NDArray[np.int64]
    xyxy: NDArray[np.int64]
    area: NDArray[np.int64]
    total: NDArray[np.float64]


def find_runs(masks: NDArray[np.bool_], connectivity: int = 8) -> Runs:
    """Find the runs of each mask (P, h, w) and the connected components that they form.

    Two runs of neighbouring rows are connected if they overlap, or, with `connectivity` 8, touch at a corner. Apart
    from one pass over the pixels, the cost depends on the number of runs.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    planes, h, w = masks.shape
    width = w + 2  # a column of background on either side, so that no run continues in the next row
    framed = np.zeros((planes * h, width), bool)
    framed[:, 1:-1] = masks.reshape(-1, w)
    line = framed.ravel()
    edges = np.flatnonzero(line[1:] != line[:-1])
    starts, stops = edges[::2], edges[1::2]  # row * width + x
    row = starts // width
    if not len(starts):
        return Runs(row, starts, stops, np.zeros(0, np.int32))

    reach = int(connectivity == 8)
    first = np.searchsorted(stops, starts + width - reach, side="right")
    count = np.searchsorted(starts, stops + width + reach, side="left") - first
    count[row % h == h - 1] = 0  # the row below a mask's last row belongs to the next mask
    above = np.repeat(np.arange(len(starts)), count)
    below = np.arange(len(above)) + np.repeat(first - np.cumsum(count) + count, count)
    graph = coo_array((np.ones(len(above), bool), (above, below)), shape=(len(starts), len(starts)))
    return Runs(row, starts - row * width, stops - row * width, connected_components(graph, directed=False)[1])


def find_components(masks: NDArray[np.bool_], values: NDArray[Any], connectivity: int = 8) -> Components:
    """Find the connected components of each mask (P, h, w), with the sums of `values` (P, h, w) in them.

    See :func:`find_runs` for the meaning of `connectivity`.
    """
    runs = find_runs(masks, connectivity)
    edges = runs.edges(masks.shape[2])
    edges = edges[edges < values.size]  # the last run may reach the end
    # even positions: sums over the runs; odd positions: sums between them
    return join_runs(runs, masks.shape[1], np.add.reduceat(values.ravel(), edges, dtype=np.float64)[::2])


def join_runs(runs: Runs, height: int, sums: NDArray[Any]) -> Components:
    """Compute the components of runs in masks of `height` rows, with the totals of the runs' `sums` (R,)."""
    order = np.argsort(runs.component, kind="stable")
    begin = np.flatnonzero(np.diff(runs.component[order], prepend=-1))
    row, start, stop = runs.row[order], runs.start[order], runs.stop[order]
    corners = (
        np.minimum.reduceat(start, begin),
        row[begin] % height,
        np.maximum.reduceat(stop, begin),
        np.maximum.reduceat(row, begin) % height + 1,
    )
    area, total = np.add.reduceat(stop - start, begin), np.add.reduceat(sums[order], begin)
    return Components(row[begin] // height, np.stack(corners, axis=1), area, total)
