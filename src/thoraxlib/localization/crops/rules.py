"""Which pixels count: more than a share of the highest heat, or of the pixels, or what Otsu's method says."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from thoraxlib.localization.crops import register
from thoraxlib.localization.crops.base import CropRule
from thoraxlib.localization.masks import above_otsu, above_percentile


@register("fixed")
@dataclass(kw_only=True, eq=False)
class FixedCrop(CropRule):
    """What is hotter than a fixed share of the highest heat: AG-CNN's paper (arXiv 1801.09927, equation 4).

    With its defaults it is the paper's rule.

    Parameters
    ----------
    tau : float
        Above 0 and below 1; 0.7 was chosen on the paper's validation set among 0.1 to 0.9.

    Other Parameters
    ----------------
    statistic, connectivity, size, on_empty
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
    """What is above the level that parts a map's heat best (Otsu 1979, IEEE Trans. SMC 9).

    The level maximises the variance between the two classes of a histogram of whole grey levels.

    Other Parameters
    ----------------
    statistic, connectivity, size, on_empty
        See :class:`CropRule`.
    """

    def mask(self, levels: Tensor) -> Tensor:
        """See :meth:`CropRule.mask`."""
        return above_otsu(levels)


@register("percentile")
@dataclass(kw_only=True, eq=False)
class PercentileCrop(CropRule):
    """What is hotter than a percentage of the pixels: a fixed share of the image.

    Parameters
    ----------
    percentile : float
        Above 0 and below 100.

    Other Parameters
    ----------------
    statistic, connectivity, size, on_empty
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
