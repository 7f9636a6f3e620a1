"""Which pixels of a map count: above fixed levels, a percentile, what Otsu's method says, or a multiple of the mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from thoraxlib.localization import register
from thoraxlib.localization.base import BoxRule
from thoraxlib.localization.masks import above_otsu, above_percentile
from thoraxlib.localization.scaling import upsample


@register("threshold")
@dataclass(kw_only=True, eq=False)
class ThresholdBoxes(BoxRule):
    """What is above fixed levels of a map stretched to [0, 255] (Wang et al. 2017, section 4.2).

    ChestX-ray8: the map is cut at 60 and at 180, separately; every region of either gives a box. Not stated there, and
    decided here: each map is enlarged first and then stretched; a region is what is strictly above; it is 8-connected;
    equal boxes of both levels count once.

    Parameters
    ----------
    levels : sequence of float
        Between 0 and 255.

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
    """What is above a level of the map itself, not stretched: for maps with a meaning, such as PCAM's probabilities.

    A map without such a place has no box, so a label that the model does not see needs no box to be drawn.

    Parameters
    ----------
    level : float
        Of the map's own values.

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
    """What is above a percentile of the map's own values: a fixed share of the image.

    Parameters
    ----------
    percentile : float
        Above 0 and below 100.

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
    """What is above the level that parts a map's values best (Otsu 1979, IEEE Trans. SMC 9).

    The level maximises the variance between the two classes of a histogram of 256 bins.

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
    """What is above a multiple of the map's mean, or above a ceiling where that is lower: alinstein/X_RAY.

    Its boxes exactly, with those of holes, are "x_ray_mean_factor".

    Parameters
    ----------
    factor, ceiling : float
        The threshold is ``min(factor * mean, ceiling)`` of the stretched map; 1.95 and 0.6 there, and 1.7666 and 0.7666
        in its main run.

    Other Parameters
    ----------------
    connectivity, resolution, dedupe, min_area, max_area, max_side, keep
        See :class:`BoxRule`. Its pictures leave out what is smaller than 0.00095 or larger than 0.385 of the image, or
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
