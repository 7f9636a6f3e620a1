"""A box around every region above a threshold."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from thoraxlib.cams.maps import normalize, upsample
from thoraxlib.localization import register
from thoraxlib.localization.boxes import Boxes
from thoraxlib.localization.regions import find_regions

__all__ = ["ThresholdBoxes"]

_PIXELS = 2**20  # of the maps that are cut at once: bounds memory, and is faster than all at once


@register("threshold")
class ThresholdBoxes:
    """Boxes around the connected regions above fixed levels of a min-max stretched map (Wang et al. 2017, section 4.2).

    ChestX-ray8: the map is brought to [0, 255] and cut at 60 and at 180, separately; every region of either gives a
    box. Not stated there, and decided here: each map is enlarged first and then stretched; a region is what is strictly
    above; it is 8-connected; equal boxes of both levels count once.

    Parameters
    ----------
    levels : sequence of float
        Between 0 and 255.
    connectivity : {4, 8}
        Whether pixels that touch at a corner are of one region.
    resolution : {"image", "native"}
        Where the map is cut: enlarged to the image, or as it is (corners times the stride).
    dedupe : bool
        Drop a box that another level of the same map has given already.
    min_area : float
        Drop boxes that cover less of the image, in pixels.

    Raises
    ------
    ValueError
        An option out of its range.
    """

    def __init__(
        self,
        *,
        levels: Sequence[float] = (60, 180),
        connectivity: int = 8,
        resolution: str = "image",
        dedupe: bool = True,
        min_area: float = 0.0,
    ) -> None:
        if not levels or not all(0 <= level < 255 for level in levels):
            raise ValueError(f"levels={tuple(levels)}: one or more numbers from 0 to below 255 are needed")
        if connectivity not in (4, 8):
            raise ValueError(f"connectivity={connectivity}: allowed are 4 and 8")
        if resolution not in ("image", "native"):
            raise ValueError(f"resolution={resolution!r}: allowed are 'image' and 'native'")
        self.levels, self.connectivity, self.resolution = tuple(levels), connectivity, resolution
        self.dedupe, self.min_area = dedupe, min_area

    def __call__(self, maps: Tensor, size: tuple[int, int] | int, scores: Tensor | None = None) -> Boxes:
        """Boxes of maps.

        Parameters
        ----------
        maps : Tensor
            (N, K, h, w), of any scale. A constant map gives no box.
        size : int or (int, int)
            Of the image, (H, W); the boxes are in its pixels.
        scores : Tensor, optional
            (N, K), e.g. probabilities: a box's score is this times the mean of the stretched map in its region.

        Returns
        -------
        Boxes
            On the CPU; ordered by image, label, level, and within a level from top to bottom.

        Raises
        ------
        ValueError
            Maps or scores of another shape.
        """
        if maps.ndim != 4:
            raise ValueError(f"maps must be (N, K, h, w), got {tuple(maps.shape)}")
        n, k = maps.shape[:2]
        if scores is not None and scores.shape != (n, k):
            raise ValueError(f"scores must be {(n, k)}, one for each map, got {tuple(scores.shape)}")
        size = (size, size) if isinstance(size, int) else size
        h, w = size if self.resolution == "image" else maps.shape[2:]
        scale = np.array([size[1] / w, size[0] / h] * 2)
        flat, step = maps.detach().flatten(0, 1)[:, None], max(1, _PIXELS // (h * w))
        tables = [np.zeros((0, 7))]  # of map, level, x1, y1, x2, y2, mean
        for start in range(0, n * k, step):
            heat = normalize(upsample(flat[start : start + step].float(), (h, w)))[:, 0].cpu().numpy()
            for level, threshold in enumerate(self.levels):
                found = find_regions(heat * 255 > threshold, heat, self.connectivity)
                of_level = np.full(len(found.plane), level)
                tables.append(
                    np.column_stack([start + found.plane, of_level, found.xyxy * scale, found.total / found.area])
                )
        rows = np.concatenate(tables)
        rows = rows[np.lexsort((rows[:, 1], rows[:, 0]))]
        rows = rows[(rows[:, 4] - rows[:, 2]) * (rows[:, 5] - rows[:, 3]) >= self.min_area]
        if self.dedupe:
            first = np.unique(rows[:, [0, 2, 3, 4, 5]], axis=0, return_index=True)[1]
            rows = rows[np.sort(first)]
        table = torch.from_numpy(rows)
        plane, xyxy, score = table[:, 0].long(), table[:, 2:6].float(), table[:, 6].float()
        image, label = plane // max(k, 1), plane % max(k, 1)
        if scores is not None:
            score = score * scores.detach().float().cpu()[image, label]
        return Boxes(xyxy, image, label, score)
