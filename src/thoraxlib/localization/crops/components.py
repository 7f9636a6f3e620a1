"""The largest connected component of each mask, for a whole batch."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from thoraxlib.localization.components import Runs, find_runs, join_runs
from thoraxlib.utils.arguments import one_of

_NAME = "thoraxlib::largest_component"


class Component(NamedTuple):
    """One component of each of N masks.

    Attributes
    ----------
    mask : Tensor
        bool (N, H, W): its pixels; none for an empty mask.
    box : Tensor
        int64 (N, 4): x1, y1, x2, y2, with x2 and y2 exclusive; the whole image for an empty mask.
    valid : Tensor
        bool (N,): False for an empty mask.
    """

    mask: Tensor
    box: Tensor
    valid: Tensor


def largest_component(mask: Tensor, connectivity: int = 8) -> Component:
    """Find the component with the most pixels; of equal ones, the one whose first pixel in row-major order comes first.

    On the CPU, runs of pixels are joined by a sparse graph; other devices use :func:`label_components`.

    Parameters
    ----------
    mask : Tensor
        bool (N, H, W).
    connectivity : {8, 4}
        Neighbours of a pixel: 8 connects pixels that touch at a corner, 4 does not.

    Raises
    ------
    TypeError, ValueError
        A mask that is not bool, or has another shape; another connectivity.
    """
    if mask.dtype != torch.bool:
        raise TypeError(f"mask must be bool (N, H, W), got {mask.dtype}")
    if mask.ndim != 3 or 0 in mask.shape[1:]:
        raise ValueError(f"mask must be (N, H, W), with at least one pixel, got {tuple(mask.shape)}")
    one_of("connectivity", connectivity, (4, 8))
    return Component(*torch.ops.thoraxlib.largest_component(mask, connectivity))


# An operator of its own, as torch.compile and torch.export can trace neither SciPy nor loops of unknown length. Not
# defined by torch.library.custom_op, whose first call takes seconds.
torch.library.define(_NAME, "(Tensor mask, int connectivity) -> (Tensor, Tensor, Tensor)")


@torch.library.impl(_NAME, "CompositeExplicitAutograd")
def _(mask: Tensor, connectivity: int) -> tuple[Tensor, Tensor, Tensor]:
    return (_by_runs if mask.device.type == "cpu" else _by_labels)(mask, connectivity)


@torch.library.register_fake(_NAME)
def _(mask: Tensor, connectivity: int) -> tuple[Tensor, Tensor, Tensor]:
    n = mask.shape[0]
    return torch.empty_like(mask), mask.new_empty(n, 4, dtype=torch.int64), mask.new_empty(n)


def _by_runs(mask: Tensor, connectivity: int) -> tuple[Tensor, Tensor, Tensor]:
    n, h, w = mask.shape
    runs = find_runs(mask.numpy(), connectivity)
    found = join_runs(runs, h, runs.stop - runs.start)
    order = np.lexsort((-found.area, found.plane))  # stable: of equal ones the first
    largest = order[np.flatnonzero(np.diff(found.plane[order], prepend=-1))]
    valid, box = np.zeros(n, bool), np.tile([0, 0, w, h], (n, 1))
    valid[found.plane[largest]], box[found.plane[largest]] = True, found.xyxy[largest]
    chosen = np.isin(runs.component, largest)
    kept = Runs._make(column[chosen] for column in runs)
    lengths = np.diff(kept.edges(w), prepend=0, append=n * h * w)  # of background and component in turn
    pixels = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths).reshape(n, h, w)
    return torch.from_numpy(pixels), torch.from_numpy(box), torch.from_numpy(valid)


def _by_labels(mask: Tensor, connectivity: int) -> tuple[Tensor, Tensor, Tensor]:
    n, h, w = mask.shape
    labels = label_components(mask, connectivity)
    flat = labels.flatten(1)
    counts = flat.new_zeros(n, h * w + 1).scatter_add_(1, flat, torch.ones_like(flat))
    pixels = labels == counts[:, :-1].argmax(dim=1)[:, None, None]
    (x1, x2), (y1, y2) = _extent(pixels.any(dim=1)), _extent(pixels.any(dim=2))
    return pixels, torch.stack([x1, y1, x2, y2], dim=1), mask.flatten(1).any(dim=1)


def _extent(line: Tensor) -> tuple[Tensor, Tensor]:
    """First index that is true in each row of (N, n), and one after the last; 0 and n if none is."""
    ones = line.byte()
    return ones.argmax(dim=1), line.shape[1] - ones.flip(1).argmax(dim=1)


def label_components(mask: Tensor, connectivity: int = 8) -> Tensor:
    """Label each pixel with the index ``y * W + x`` of its component's first pixel; H * W in the background.

    Each iteration takes the smallest label of a pixel's neighbourhood and passes it to the pixel that the old label
    points to. Pointer jumping then doubles the propagation distance. Iterations stop when no label changes, after fewer
    than ten for all masks tried; this test is the only synchronization with the device.

    Parameters
    ----------
    mask : Tensor
        bool (N, H, W).
    connectivity : {8, 4}
        Neighbours of a pixel: 8 connects pixels that touch at a corner, 4 does not.

    Returns
    -------
    Tensor
        int64 (N, H, W).
    """
    n, h, w = mask.shape
    labels = torch.where(mask, torch.arange(h * w, device=mask.device).view(h, w), h * w)
    while True:
        lowest = torch.where(mask, _smallest_around(labels, connectivity, h * w), h * w)
        if torch.equal(lowest, labels):
            return labels
        # a label is the index of a pixel, whose own label is lower or equal; one more entry for the background
        parent = F.pad(lowest.flatten(1), (0, 1), value=h * w)
        parent = parent.scatter_reduce(1, labels.flatten(1), lowest.flatten(1), "amin")
        for _ in range(2):
            parent = parent.gather(1, parent)
        labels = parent[:, :-1].view(n, h, w)


def _smallest_around(labels: Tensor, connectivity: int, outside: int) -> Tensor:
    framed = F.pad(labels, (1, 1, 1, 1), value=outside)
    across = torch.minimum(framed[..., :-2], framed[..., 2:]).minimum(framed[..., 1:-1])
    if connectivity == 8:
        return torch.minimum(across[:, :-2], across[:, 2:]).minimum(across[:, 1:-1])
    down = torch.minimum(framed[:, :-2], framed[:, 2:])[..., 1:-1]
    return down.minimum(across[:, 1:-1])
