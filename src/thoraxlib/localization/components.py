"""Connected components of many masks at once: runs of pixels, joined by a sparse graph."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Runs(NamedTuple):
    """R stretches of pixels within a row, in row-major order, and the component that each is part of.

    Attributes
    ----------
    row : NDArray
        int64 (R,): counted through all masks, ``mask * h + y``.
    start, stop : NDArray
        int64 (R,): columns, `stop` exclusive.
    component : NDArray
        int32 (R,): a number from 0, the same for runs that are connected.
    """

    row: NDArray[np.int64]
    start: NDArray[np.int64]
    stop: NDArray[np.int64]
    component: NDArray[np.int32]

    def turns(self, width: int) -> NDArray[np.int64]:
        """Find the pixels, counted through masks `width` wide, where runs begin and end: int64 (2 R,)."""
        return (self.row[:, None] * width + np.stack([self.start, self.stop], axis=1)).ravel()


class Components(NamedTuple):
    """M connected components, by mask and within one from top to bottom.

    Attributes
    ----------
    plane : NDArray
        int64 (M,): the mask that each is in.
    xyxy : NDArray
        int64 (M, 4): x1, y1, x2, y2 of its pixels, x2 and y2 exclusive.
    area : NDArray
        int64 (M,): its pixels.
    total : NDArray
        float64 (M,): sum of its values.
    first : NDArray
        int64 (M,): the position of its first run among the runs.
    """

    plane: NDArray[np.int64]
    xyxy: NDArray[np.int64]
    area: NDArray[np.int64]
    total: NDArray[np.float64]
    first: NDArray[np.int64]


def find_runs(masks: NDArray[np.bool_], connectivity: int = 8) -> Runs:
    """The runs of each mask, (P, h, w), joined to connected components.

    What is done beyond a pass over the pixels grows with the runs. Two runs of neighbouring rows are of one component
    if they overlap, or touch at a corner with `connectivity` 8 rather than 4.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    planes, h, w = masks.shape
    width = w + 2  # a column of background on either side, so that no run goes on into the next row
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
    count[row % h == h - 1] = 0  # what is below a mask's last row belongs to the next mask
    above = np.repeat(np.arange(len(starts)), count)
    below = np.arange(len(above)) + np.repeat(first - np.cumsum(count) + count, count)
    graph = coo_array((np.ones(len(above), bool), (above, below)), shape=(len(starts), len(starts)))
    return Runs(row, starts - row * width, stops - row * width, connected_components(graph, directed=False)[1])


def find_components(masks: NDArray[np.bool_], values: NDArray[Any], connectivity: int = 8) -> Components:
    """The connected components of each mask, (P, h, w), with the sums of `values`, (P, h, w), in them.

    See :func:`find_runs` for what is connected.
    """
    runs = find_runs(masks, connectivity)
    turns = runs.turns(masks.shape[2])
    turns = turns[turns < values.size]  # the last run may go on to the end
    # sums of the runs, at the even positions; those of the stretches between them are dropped
    sums = np.add.reduceat(values.ravel(), turns, dtype=np.float64)[::2]
    return join_runs(runs, masks.shape[1], sums)


def join_runs(runs: Runs, height: int, sums: NDArray[Any]) -> Components:
    """Gather the components of runs in masks of `height` rows, with the totals of the runs' `sums`, (R,)."""
    order = np.argsort(runs.component, kind="stable")
    begin = np.flatnonzero(np.diff(runs.component[order], prepend=-1))
    row, start, stop = runs.row[order], runs.start[order], runs.stop[order]
    y = row % height
    corners = (
        np.minimum.reduceat(start, begin),
        np.minimum.reduceat(y, begin),
        np.maximum.reduceat(stop, begin),
        np.maximum.reduceat(y, begin) + 1,
    )
    columns = (
        row[begin] // height,
        np.stack(corners, axis=1),
        np.add.reduceat(stop - start, begin),
        np.add.reduceat(sums[order], begin),
        order[begin],
    )
    down = np.argsort(order[begin])  # by the first run of each
    return Components._make(column[down] for column in columns)
