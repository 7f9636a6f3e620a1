"""Boxes and mentions of findings of many images in flat tables, and their selection."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from thoraxlib.datasets.regions import dense_boxes, inverse

#: Rules for the label of a region whose sentences disagree; "last" is the authors' converter's.
CONFLICTS = ("last", "any", "first", "majority")
#: Labels of a finding that no sentence mentions for a region.
UNMENTIONED = ("negative", "missing")


class Annotations(NamedTuple):
    """All boxes and mentions of a release of N images.

    Attributes
    ----------
    ids, patients, studies, views : list of str
        One per image.
    regions, findings : tuple of str
        Names that occur.
    box_starts : NDArray
        int64 (N + 1,): image i has the boxes from ``box_starts[i]`` to ``box_starts[i + 1]``.
    box_region : NDArray
        int16 (B,): position in `regions`.
    boxes : NDArray
        float32 (B, 4): x1 y1 x2 y2 in pixels of the original image, as in the release.
    mention_starts : NDArray
        int64 (N + 1,): the same for mentions.
    mention_region, mention_finding : NDArray
        int16 (M,): positions in `regions` and `findings`.
    mention_yes : NDArray
        bool (M,): True if the finding is affirmed, False if it is denied; in the order of the sentences.
    """

    ids: list[str]
    patients: list[str]
    studies: list[str]
    views: list[str]
    regions: tuple[str, ...]
    findings: tuple[str, ...]
    box_starts: NDArray[np.int64]
    box_region: NDArray[np.int16]
    boxes: NDArray[np.float32]
    mention_starts: NDArray[np.int64]
    mention_region: NDArray[np.int16]
    mention_finding: NDArray[np.int16]
    mention_yes: NDArray[np.bool_]


class Collector:
    """Build :class:`Annotations` image by image, with a few bytes for each box and mention."""

    def __init__(self) -> None:
        self._images: list[tuple[str, str, str, str]] = []
        self._regions: dict[str, int] = {}
        self._findings: dict[str, int] = {}
        self._box_starts, self._mention_starts = array("q", [0]), array("q", [0])
        self._box_region, self._boxes = array("h"), array("f")
        self._mention_region, self._mention_finding, self._mention_yes = array("h"), array("h"), array("b")

    def add(
        self,
        image: tuple[str, str, str, str],
        boxes: Iterable[tuple[str, Sequence[float]]],
        mentions: Iterable[tuple[str, str, bool]],
    ) -> None:
        """Add an image (id, patient, study, view) with boxes (region, x1 y1 x2 y2), mentions (region, finding, yes)."""
        self._images.append(image)
        for region, box in boxes:
            self._box_region.append(self._regions.setdefault(region, len(self._regions)))
            self._boxes.extend(box)
        for region, finding, yes in mentions:
            self._mention_region.append(self._regions.setdefault(region, len(self._regions)))
            self._mention_finding.append(self._findings.setdefault(finding, len(self._findings)))
            self._mention_yes.append(yes)
        self._box_starts.append(len(self._box_region))
        self._mention_starts.append(len(self._mention_yes))

    def result(self) -> Annotations:
        """Return the annotations of the added images."""
        ids, patients, studies, views = (list(column) for column in zip(*self._images, strict=True))
        return Annotations(
            ids,
            patients,
            studies,
            views,
            tuple(self._regions),
            tuple(self._findings),
            np.array(self._box_starts, np.int64),
            np.array(self._box_region, np.int16),
            np.array(self._boxes, np.float32).reshape(-1, 4),
            np.array(self._mention_starts, np.int64),
            np.array(self._mention_region, np.int16),
            np.array(self._mention_finding, np.int16),
            np.array(self._mention_yes, np.bool_),
        )


def select_boxes(
    annotations: Annotations, rows: NDArray[np.intp], regions: Sequence[int]
) -> tuple[NDArray[np.float32], NDArray[np.bool_], int, int]:
    """Select the boxes of some images and regions: of several boxes of one region, the first with an area.

    Parameters
    ----------
    annotations : Annotations
        All annotations.
    rows : NDArray
        (n,): images.
    regions : sequence of int
        (R,): positions in ``annotations.regions``, negative for a region that never occurs.

    Returns
    -------
    boxes : NDArray
        float32 (n, R, 4).
    listed : NDArray
        bool (n, R): True where there is a box.
    flat, doubled : int
        Boxes left out because they have no area (or no finite coordinates), and because the region has another.
    """
    image, region = _positions(annotations.box_starts, rows, annotations.box_region, regions, len(annotations.regions))
    dense = dense_boxes(annotations.boxes, image, region, (len(rows), len(regions)))
    return dense.boxes, dense.source >= 0, dense.flat, dense.doubled


def select_labels(
    annotations: Annotations,
    rows: NDArray[np.intp],
    regions: Sequence[int],
    findings: Sequence[int],
    *,
    conflict: str,
    unmentioned: str,
) -> NDArray[np.float32]:
    """Select the labels float32 (n, R, K) of some images, regions and findings.

    Parameters
    ----------
    annotations, rows, regions
        See :func:`select_boxes`.
    findings : sequence of int
        (K,): positions in ``annotations.findings``, negative for a finding that never occurs.
    conflict : {"last", "any", "first", "majority"}
        Label of a finding with several mentions: that of the last or first one, 1 if any affirms it, or that of most
        (of the last one, if as many affirm as deny).
    unmentioned : {"negative", "missing"}
        Label of a finding without mention: 0 or NaN.
    """
    known = len(annotations.regions)
    image, region = _positions(annotations.mention_starts, rows, annotations.mention_region, regions, known)
    finding = inverse(findings, len(annotations.findings))[annotations.mention_finding]
    kept = np.flatnonzero((image >= 0) & (region >= 0) & (finding >= 0))
    cells = (image[kept].astype(np.int64) * len(regions) + region[kept]) * len(findings) + finding[kept]
    order = np.argsort(cells, kind="stable")  # stable: keeps the order of the sentences within a cell
    cells, yes = cells[order], annotations.mention_yes[kept[order]]
    labels = np.full(len(rows) * len(regions) * len(findings), 0 if unmentioned == "negative" else np.nan, np.float32)
    if len(cells):
        starts = np.flatnonzero(np.diff(cells, prepend=-1))
        stops = np.append(starts[1:], len(cells))
        last, affirmed = yes[stops - 1], np.add.reduceat(yes, starts, dtype=np.int64)
        surplus = 2 * affirmed - (stops - starts)
        labels[cells[starts]] = {
            "last": last,
            "first": yes[starts],
            "any": affirmed > 0,
            "majority": (surplus > 0) | ((surplus == 0) & last),
        }[conflict]
    return labels.reshape(len(rows), len(regions), len(findings))


def _positions(
    starts: NDArray[np.int64], rows: NDArray[np.intp], region: NDArray[np.int16], regions: Sequence[int], known: int
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return the position of the image in `rows`, and of the region in `regions`, of each entry; or -1."""
    image = np.repeat(inverse(rows.tolist(), len(starts) - 1), np.diff(starts))
    return image, inverse(regions, known)[region]
