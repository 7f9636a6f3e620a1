"""Boxes exactly as alinstein/X_RAY draws them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from thoraxlib.localization import register
from thoraxlib.localization.components import Components, find_components
from thoraxlib.localization.maps import normalize, upsample
from thoraxlib.localization.rules import MeanFactorBoxes


@register("x_ray_mean_factor")
@dataclass(kw_only=True, eq=False)
class XRayBoxes(MeanFactorBoxes):
    """Boxes around the regions of :class:`thoraxlib.localization.rules.MeanFactorBoxes`, and around holes in them.

    The map is normalised before it is enlarged. The original's contours include those of holes; the box of a hole is
    one pixel larger than the hole on each side.

    Other Parameters
    ----------------
    factor, ceiling, connectivity, resolution, dedupe, min_area, max_area, max_side, keep
        See :class:`thoraxlib.localization.rules.MeanFactorBoxes`.
    """

    def prepare(self, maps: Tensor, size: tuple[int, int]) -> Tensor:
        """See :meth:`BoxRule.prepare`."""
        return upsample(normalize(maps), size)

    def regions(self, mask: NDArray[np.bool_], values: NDArray[np.float32]) -> Components:
        """See :meth:`BoxRule.regions`."""
        holes = find_components(~mask, values, 12 - self.connectivity)
        h, w = mask.shape[1:]
        inside = (holes.xyxy[:, :2] > 0).all(axis=1) & (holes.xyxy[:, 2] < w) & (holes.xyxy[:, 3] < h)
        holes = Components(*(column[inside] for column in holes))
        holes = holes._replace(xyxy=holes.xyxy + np.array([-1, -1, 1, 1]))
        return Components(*(np.concatenate(pair) for pair in zip(super().regions(mask, values), holes, strict=True)))
