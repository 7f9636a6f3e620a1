"""A box around every region above a threshold."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from thoraxlib.cams.maps import normalize, upsample
from thoraxlib.localization import register
from thoraxlib.localization.boxes import Boxes

__all__ = ["ThresholdBoxes"]


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
        Drop boxes with fewer pixels of the image.

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
            Ordered by image, label, level, and within a level from top to bottom.
        """
        from scipy import ndimage

        if maps.ndim != 4:
            raise ValueError(f"maps must be (N, K, h, w), got {tuple(maps.shape)}")
        size = (size, size) if isinstance(size, int) else size
        drawn = upsample(maps.float(), size) if self.resolution == "image" else maps.float()
        k, h, w = drawn.shape[1:]
        heat = normalize(drawn)
        cut = heat[:, :, None] * 255 > torch.tensor(self.levels, device=heat.device)[:, None, None]
        if not cut.any():
            return Boxes.from_lists([], [])
        # all maps and levels at once: a stack of planes that do not touch
        flat = ndimage.generate_binary_structure(2, 2 if self.connectivity == 8 else 1)
        between = np.zeros((3, 3), bool)
        planes = cut.cpu().numpy().reshape(-1, h, w)
        regions, count = ndimage.label(planes, np.stack([between, flat, between]))
        found = ndimage.find_objects(regions)
        scale = np.array([size[1] / w, size[0] / h] * 2)
        corners = [(s[2].start, s[1].start, s[2].stop, s[1].stop) for s in found]
        xyxy = np.array(corners, np.float64).reshape(-1, 4) * scale
        plane = np.array([s[0].start for s in found], np.int64)
        values = np.repeat(heat.cpu().numpy().reshape(-1, h, w), len(self.levels), axis=0)
        mean = np.asarray(ndimage.mean(values, regions, np.arange(1, count + 1)), np.float64).reshape(-1)
        image, label = plane // len(self.levels) // k, plane // len(self.levels) % k
        kept = (xyxy[:, 2] - xyxy[:, 0]) * (xyxy[:, 3] - xyxy[:, 1]) >= self.min_area
        if self.dedupe:
            first = np.unique(np.column_stack([image, label, xyxy]), axis=0, return_index=True)[1]
            kept &= np.isin(np.arange(len(xyxy)), first)
        boxes = Boxes(
            torch.from_numpy(xyxy[kept].astype(np.float32)),
            torch.from_numpy(image[kept]),
            torch.from_numpy(label[kept]),
            torch.from_numpy(mean[kept].astype(np.float32)),
        )
        if scores is None:
            return boxes
        return boxes._replace(score=boxes.score * scores.detach().float().cpu()[boxes.image, boxes.label])
