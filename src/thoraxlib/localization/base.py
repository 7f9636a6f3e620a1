"""Base class of the rules that turn heat maps into boxes."""

from __future__ import annotations

import abc
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from thoraxlib.localization.boxes import Boxes
from thoraxlib.localization.components import Components, find_components
from thoraxlib.localization.maps import check_maps, normalize, upsample
from thoraxlib.utils.arguments import height_and_width, one_of

_PIXELS = 2**20  # pixels of the maps processed at once: bounds memory, and is faster than all at once


@dataclass(kw_only=True, eq=False)
class BoxRule(abc.ABC):
    """Base class of rules that put boxes around the connected regions of selected pixels of each heat map.

    A map is resized to the image, then stretched to [0, 1]. A constant map has no box.

    Parameters
    ----------
    connectivity : {8, 4}
        Neighbours of a pixel: 8 connects pixels that touch at a corner, 4 does not.
    resolution : {"image", "native"}
        Resolution at which pixels are selected: the image's, or the map's own (box corners are then multiples of the
        stride).
    dedupe : bool
        Drop a box that equals one of another level of the same map.
    min_area, max_area : float
        Drop boxes whose share of the image's area is smaller or larger.
    max_side : float
        Drop boxes whose width or height is a larger share of the image's.
    keep : int, optional
        Maximum number of boxes for each map, those with the highest scores; default all.

    Raises
    ------
    ValueError
        An option outside its range.
    """

    connectivity: int = 8
    resolution: str = "image"
    dedupe: bool = True
    min_area: float = 0.0
    max_area: float = 1.0
    max_side: float = 1.0
    keep: int | None = None

    def __post_init__(self) -> None:
        one_of("connectivity", self.connectivity, (4, 8))
        one_of("resolution", self.resolution, ("image", "native"))
        if not 0 <= self.min_area <= self.max_area <= 1:
            raise ValueError(
                f"min_area={self.min_area}, max_area={self.max_area}: shares of the image from 0 to 1, in this order"
            )
        if not 0 < self.max_side <= 1:
            raise ValueError(f"max_side={self.max_side}: a share of the image's side, above 0 and at most 1")
        if self.keep is not None and self.keep < 1:
            raise ValueError(f"keep={self.keep}: a number of boxes, at least 1, or None")

    def __call__(self, maps: Tensor, size: tuple[int, int] | int, scores: Tensor | None = None) -> Boxes:
        """Find the boxes of heat maps.

        Parameters
        ----------
        maps : Tensor
            (N, K, h, w), of any range of values.
        size : int or (int, int)
            (H, W) of the image; the boxes are in its pixels.
        scores : Tensor, optional
            (N, K), e.g. probabilities. A box's score is this value times the mean of the stretched map in its region.

        Returns
        -------
        Boxes
            On the CPU; ordered by image, label, level, and within a level from top to bottom.

        Raises
        ------
        ValueError
            Maps or scores of another shape, or maps with NaN or infinite values; a `size` that is not positive.
        """
        check_maps(maps)
        if scores is not None and scores.shape != maps.shape[:2]:
            raise ValueError(f"scores must be {tuple(maps.shape[:2])}, one for each map, got {tuple(scores.shape)}")
        n, k = maps.shape[:2]
        size = height_and_width(size)
        h, w = size if self.resolution == "image" else maps.shape[2:]
        scale = np.array([size[1] / w, size[0] / h] * 2)
        flat, step = maps.detach().float().flatten(0, 1)[:, None], max(1, _PIXELS // (h * w))
        tables = [np.zeros((0, 7))]  # columns: map, level, x1, y1, x2, y2, mean
        for start in range(0, n * k, step):
            heat = self.prepare(flat[start : start + step], (h, w))[:, 0]
            values = heat.cpu().numpy()
            for level, mask in enumerate(self.masks(heat)):
                regions = self.regions(mask.cpu().numpy(), values)
                levels = np.full(len(regions.plane), level)
                mean = regions.total / np.maximum(regions.area, 1)
                tables.append(np.column_stack([start + regions.plane, levels, regions.xyxy * scale, mean]))
        table = torch.from_numpy(self._filtered(np.concatenate(tables), size))
        plane, xyxy, score = table[:, 0].long(), table[:, 2:6].float(), table[:, 6].float()
        image, label = plane // max(k, 1), plane % max(k, 1)
        if scores is not None:
            score = score * scores.detach().float().cpu()[image, label]
        return Boxes(xyxy, image, label, score)

    def prepare(self, maps: Tensor, size: tuple[int, int]) -> Tensor:
        """Resize maps (P, 1, h, w) to `size` and stretch them: (P, 1, H, W)."""
        return normalize(upsample(maps, size))

    @abc.abstractmethod
    def masks(self, heat: Tensor) -> list[Tensor]:
        """Select pixels of the prepared maps (P, h, w), once for each level: bool (P, h, w)."""

    def regions(self, mask: NDArray[np.bool_], values: NDArray[np.float32]) -> Components:
        """Find the regions of a level's masks (P, h, w)."""
        return find_components(mask, values, self.connectivity)

    def _filtered(self, rows: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.float64]:
        rows = rows[np.lexsort((rows[:, 1], rows[:, 0]))]
        width, height = (rows[:, 4] - rows[:, 2]) / size[1], (rows[:, 5] - rows[:, 3]) / size[0]
        area = width * height
        rows = rows[(area >= self.min_area) & (area <= self.max_area) & (np.maximum(width, height) <= self.max_side)]
        if self.dedupe:
            first = np.unique(rows[:, [0, 2, 3, 4, 5]], axis=0, return_index=True)[1]
            rows = rows[np.sort(first)]
        if self.keep is not None and len(rows):
            order = np.lexsort((-rows[:, 6], rows[:, 0]))
            begin = np.flatnonzero(np.diff(rows[order, 0], prepend=-1))
            rank = np.arange(len(rows)) - np.repeat(begin, np.diff(np.append(begin, len(rows))))
            rows = rows[np.sort(order[rank < self.keep])]
        return rows
