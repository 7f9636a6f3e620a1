"""Crop rules by a fixed threshold, Otsu's threshold or a percentile."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from thoraxlib.localization.crops import register
from thoraxlib.localization.crops.base import CropRule
from thoraxlib.localization.maps import above_otsu, above_percentile


@register("fixed")
@dataclass(kw_only=True, eq=False)
class FixedCrop(CropRule):
    """Select the pixels above a fixed fraction of the highest heat: AG-CNN's rule (arXiv 1801.09927, equation 4).

    The defaults are the paper's.

    Parameters
    ----------
    tau : float
        Fraction of the highest heat, above 0 and below 1. The paper chose 0.7 from 0.1 to 0.9 on its validation set.

    Other Parameters
    ----------------
    statistic, connectivity, size
        See :class:`CropRule`.
    """

    tau: float = 0.7

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.tau < 1:
            raise ValueError(f"tau={self.tau}: above 0 and below 1")

    def mask(self, levels: Tensor) -> Tensor:
        """See :meth:`CropRule.mask`."""
        return levels > 255 * self.tau


@register("otsu")
@dataclass(kw_only=True, eq=False)
class OtsuCrop(CropRule):
    """Select the pixels above the map's Otsu threshold (Otsu 1979, IEEE Trans. SMC 9).

    The threshold is computed from a histogram of 256 grey levels.

    Other Parameters
    ----------------
    statistic, connectivity, size
        See :class:`CropRule`.
    """

    def mask(self, levels: Tensor) -> Tensor:
        """See :meth:`CropRule.mask`."""
        return above_otsu(levels)


@register("percentile")
@dataclass(kw_only=True, eq=False)
class PercentileCrop(CropRule):
    """Select the pixels above a percentile of the map: a fixed share of the image.

    Parameters
    ----------
    percentile : float
        Percentile of the map's values, above 0 and below 100.

    Other Parameters
    ----------------
    statistic, connectivity, size
        See :class:`CropRule`.
    """

    percentile: float = 90.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.percentile < 100:
            raise ValueError(f"percentile={self.percentile}: above 0 and below 100")

    def mask(self, levels: Tensor) -> Tensor:
        """See :meth:`CropRule.mask`."""
        return above_percentile(levels, self.percentile)
