"""Maps to boxes: what all rules share, and how each finds the places that count."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from thoraxlib.localization import register
from thoraxlib.localization.boxes import Boxes
from thoraxlib.maps import Components, find_components, normalize, otsu, upsample

__all__ = ["BoxRule", "LevelBoxes", "MeanFactorBoxes", "OtsuBoxes", "PercentileBoxes", "ThresholdBoxes"]

_PIXELS = 2**20  # of the maps that are cut at once: bounds memory, and is faster than all at once


@dataclass(kw_only=True, eq=False)
class BoxRule(abc.ABC):
    """Boxes around the connected regions of what a rule picks from each map.

    A map is enlarged to the image and then stretched to [0, 1]; a constant map has no box.

    Parameters
    ----------
    connectivity : {8, 4}
        Whether pixels that touch at a corner are of one region.
    resolution : {"image", "native"}
        Where the map is cut: enlarged to the image, or as it is (corners times the stride).
    dedupe : bool
        Drop a box that another level of the same map has given already.
    min_area, max_area : float
        Drop boxes that cover a smaller or larger share of the image.
    max_side : float
        Drop boxes whose width or height is a larger share of the image's.
    keep : int, optional
        Of each map, only so many boxes: those with the highest scores.

    Raises
    ------
    ValueError
        An option out of its range.
    """

    connectivity: int = 8
    resolution: str = "image"
    dedupe: bool = True
    min_area: float = 0.0
    max_area: float = 1.0
    max_side: float = 1.0
    keep: int | None = None

    def __post_init__(self) -> None:
        if self.connectivity not in (4, 8):
            raise ValueError(f"connectivity={self.connectivity}: allowed are 4 and 8")
        if self.resolution not in ("image", "native"):
            raise ValueError(f"resolution={self.resolution!r}: allowed are 'image' and 'native'")
        if not 0 <= self.min_area <= self.max_area <= 1:
            raise ValueError(
                f"min_area={self.min_area}, max_area={self.max_area}: shares of the image from 0 to 1, in this order"
            )
        if not 0 < self.max_side <= 1:
            raise ValueError(f"max_side={self.max_side}: a share of the image's side, above 0 and at most 1")
        if self.keep is not None and self.keep < 1:
            raise ValueError(f"keep={self.keep}: a number of boxes, at least 1, or None")

    def __call__(self, maps: Tensor, size: tuple[int, int] | int, scores: Tensor | None = None) -> Boxes:
        """Boxes of maps.

        Parameters
        ----------
        maps : Tensor
            (N, K, h, w), of any scale.
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
            Maps or scores of another shape, or maps with NaN or infinite values; a `size` that is not positive.
        """
        _check_maps(maps, scores)
        n, k = maps.shape[:2]
        size = (size, size) if isinstance(size, Integral) else size
        if not isinstance(size, Sequence) or len(size) != 2 or not all(isinstance(n, Integral) and n > 0 for n in size):
            raise ValueError(f"size={size}: one side or (H, W), in whole pixels, at least 1")
        h, w = size if self.resolution == "image" else maps.shape[2:]
        scale = np.array([size[1] / w, size[0] / h] * 2)
        flat, step = maps.detach().float().flatten(0, 1)[:, None], max(1, _PIXELS // (h * w))
        tables = [np.zeros((0, 7))]  # of map, level, x1, y1, x2, y2, mean
        for start in range(0, n * k, step):
            heat = self.prepare(flat[start : start + step], (h, w))[:, 0]
            values = heat.cpu().numpy()
            for level, mask in enumerate(self.masks(heat)):
                found = self.regions(mask.cpu().numpy(), values)
                of_level = np.full(len(found.plane), level)
                mean = found.total / np.maximum(found.area, 1)
                tables.append(np.column_stack([start + found.plane, of_level, found.xyxy * scale, mean]))
        rows = self._filtered(np.concatenate(tables), size)
        table = torch.from_numpy(rows)
        plane, xyxy, score = table[:, 0].long(), table[:, 2:6].float(), table[:, 6].float()
        image, label = plane // max(k, 1), plane % max(k, 1)
        if scores is not None:
            score = score * scores.detach().float().cpu()[image, label]
        return Boxes(xyxy, image, label, score)

    def prepare(self, maps: Tensor, size: tuple[int, int]) -> Tensor:
        """Maps (P, 1, h, w) as they are cut: at `size`, (P, 1, H, W)."""
        return normalize(upsample(maps, size))

    @abc.abstractmethod
    def masks(self, heat: Tensor) -> list[Tensor]:
        """For each level, what counts of the prepared maps (P, h, w): bool (P, h, w)."""

    def regions(self, mask: NDArray[np.bool_], values: NDArray[np.float32]) -> Components:
        """The regions of a level's masks (P, h, w)."""
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


def _check_maps(maps: Tensor, scores: Tensor | None) -> None:
    if maps.ndim != 4 or not maps.shape[2] or not maps.shape[3]:
        raise ValueError(f"maps must be (N, K, h, w), with at least one place, got {tuple(maps.shape)}")
    if scores is not None and scores.shape != maps.shape[:2]:
        raise ValueError(f"scores must be {tuple(maps.shape[:2])}, one for each map, got {tuple(scores.shape)}")
    low, high = maps.detach().float().flatten(2).aminmax(dim=2)
    bad = (~(high - low).isfinite()).nonzero().tolist()
    if bad:
        raise ValueError(
            "maps hold NaN or infinite values, or such that lie too far apart, e.g. that of (image, label) "
            f"{tuple(bad[0])}"
        )


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
        threshold = heat.flatten(1).quantile(self.percentile / 100, dim=1)
        return [heat > threshold[:, None, None]]


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
        bins = (heat * 256).clamp(max=255).to(torch.uint8)
        return [bins > otsu(bins.flatten(1)).to(torch.uint8)[:, None, None]]


@register("mean_factor")
@dataclass(kw_only=True, eq=False)
class MeanFactorBoxes(BoxRule):
    """What is above a multiple of the map's mean, or above a ceiling where that is lower: alinstein/X_RAY.

    Parameters
    ----------
    factor, ceiling : float
        The threshold is ``min(factor * mean, ceiling)`` of the stretched map; 1.95 and 0.6 there, and 1.7666 and 0.7666
        in its main run.
    variant : {"x_ray"}, optional
        Its boxes exactly: the map is stretched before it is enlarged, and the holes in regions count as boxes too
        (its contours are inner ones as well), one pixel larger than the hole on each side.

    Other Parameters
    ----------------
    connectivity, resolution, dedupe, min_area, max_area, max_side, keep
        See :class:`BoxRule`. Its pictures leave out what is smaller than 0.00095 or larger than 0.385 of the image, or
        longer than 0.75 of a side; its numbers do not.
    """

    factor: float = 1.95
    ceiling: float = 0.6
    variant: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.factor > 0 and 0 < self.ceiling <= 1):
            raise ValueError(f"factor={self.factor}, ceiling={self.ceiling}: above 0, and above 0 and at most 1")
        if self.variant not in (None, "x_ray"):
            raise ValueError(f"variant={self.variant!r}: allowed are None and 'x_ray'")

    def prepare(self, maps: Tensor, size: tuple[int, int]) -> Tensor:
        """See :meth:`BoxRule.prepare`."""
        return upsample(normalize(maps), size) if self.variant == "x_ray" else super().prepare(maps, size)

    def masks(self, heat: Tensor) -> list[Tensor]:
        """See :meth:`BoxRule.masks`."""
        threshold = (self.factor * heat.mean(dim=(1, 2))).clamp(max=self.ceiling)
        return [heat > threshold[:, None, None]]

    def regions(self, mask: NDArray[np.bool_], values: NDArray[np.float32]) -> Components:
        """See :meth:`BoxRule.regions`."""
        found = super().regions(mask, values)
        if self.variant != "x_ray":
            return found
        holes = find_components(~mask, values, 12 - self.connectivity)
        h, w = mask.shape[1:]
        inside = (holes.xyxy[:, :2] > 0).all(axis=1) & (holes.xyxy[:, 2] < w) & (holes.xyxy[:, 3] < h)
        holes = Components(*(column[inside] for column in holes))
        holes = holes._replace(xyxy=holes.xyxy + np.array([-1, -1, 1, 1]))
        return Components(*(np.concatenate(pair) for pair in zip(found, holes, strict=True)))
