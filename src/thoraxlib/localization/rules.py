"""Rules that select pixels of heat maps: by fixed levels, a percentile, Otsu's threshold, or the mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from thoraxlib.localization import register
from thoraxlib.localization.base import BoxRule
from thoraxlib.localization.maps import above_otsu, above_percentile, upsample


@register("threshold")
@dataclass(kw_only=True, eq=False)
class ThresholdBoxes(BoxRule):
    """Boxes around the regions above fixed levels of a map stretched to [0, 255] (Wang et al. 2017, section 4.2).

    ChestX-ray8 thresholds each map at 60 and at 180; every region of either gives a box. The paper does not say the
    rest, which is chosen here: maps are resized before they are stretched, regions are strictly above the level and
    8-connected, and equal boxes of both levels count once.

    Parameters
    ----------
    levels : sequence of float
        Thresholds, each from 0 to below 255.

    Other Parameters
    ----------------
    connectivity, resolution, dedupe, min_area, max_area, max_side, keep
        See :class:`BoxRule`.
    """

    levels: Sequence[float] = (60, 180)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.levels or not all(0 <= level < 255 for level in self.levels):
            raise ValueError(f"levels={tuple(self.levels)}: one or more numbers from 0 to below 255 are needed")

    def masks(self, heat: Tensor) -> list[Tensor]:
        """See :meth:`BoxRule.masks`."""
        return [heat * 255 > level for level in self.levels]


@register("level")
@dataclass(kw_only=True, eq=False)
class LevelBoxes(BoxRule):
    """Boxes around the regions above a level of the map's own values, e.g. of PCAM's probabilities.

    The map is not stretched. A map that is nowhere above the level has no box.

    Parameters
    ----------
    level : float
        Threshold of the map's own values.

    Other Parameters
    ----------------
    connectivity, resolution, dedupe, min_area, max_area, max_side, keep
        See :class:`BoxRule`.
    """

    level: float = 0.5

    def prepare(self, maps: Tensor, size: tuple[int, int]) -> Tensor:
        """See :meth:`BoxRule.prepare`."""
        return upsample(maps, size)

    def masks(self, heat: Tensor) -> list[Tensor]:
        """See :meth:`BoxRule.masks`."""
        return [heat > self.level]


@register("percentile")
@dataclass(kw_only=True, eq=False)
class PercentileBoxes(BoxRule):
    """Boxes around the regions above a percentile of the map's values: a fixed share of the image.

    Parameters
    ----------
    percentile : float
        Percentile of the map's values, above 0 and below 100.

    Other Parameters
    ----------------
    connectivity, resolution, dedupe, min_area, max_area, max_side, keep
        See :class:`BoxRule`.
    """

    percentile: float = 90.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.percentile < 100:
            raise ValueError(f"percentile={self.percentile}: above 0 and below 100")

    def masks(self, heat: Tensor) -> list[Tensor]:
        """See :meth:`BoxRule.masks`."""
        return [above_percentile(heat, self.percentile)]


@register("otsu")
@dataclass(kw_only=True, eq=False)
class OtsuBoxes(BoxRule):
    """Boxes around the regions above the map's Otsu threshold (Otsu 1979, IEEE Trans. SMC 9).

    The threshold is computed from a histogram of 256 bins.

    Other Parameters
    ----------------
    connectivity, resolution, dedupe, min_area, max_area, max_side, keep
        See :class:`BoxRule`.
    """

    def masks(self, heat: Tensor) -> list[Tensor]:
        """See :meth:`BoxRule.masks`."""
        return [above_otsu((heat * 256).clamp(max=255))]


@register("mean_factor")
@dataclass(kw_only=True, eq=False)
class MeanFactorBoxes(BoxRule):
    """Boxes around the regions above a multiple of the map's mean, at most a ceiling: alinstein/X_RAY.

    Its exact boxes, which include those of holes, are "x_ray_mean_factor".

    Parameters
    ----------
    factor, ceiling : float
        The threshold is ``min(factor * mean, ceiling)`` of the stretched map. The original uses 1.95 and 0.6; its main
        run 1.7666 and 0.7666.

    Other Parameters
    ----------------
    connectivity, resolution, dedupe, min_area, max_area, max_side, keep
        See :class:`BoxRule`. The original's figures drop boxes of less than 0.00095 or more than 0.385 of the image, or
        longer than 0.75 of a side; its numbers do not.
    """

    factor: float = 1.95
    ceiling: float = 0.6

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.factor > 0 and 0 < self.ceiling <= 1):
            raise ValueError(f"factor={self.factor}, ceiling={self.ceiling}: above 0, and above 0 and at most 1")

    def masks(self, heat: Tensor) -> list[Tensor]:
        """See :meth:`BoxRule.masks`."""
        threshold = (self.factor * heat.mean(dim=(1, 2))).clamp(max=self.ceiling)
        return [heat > threshold[:, None, None]]
