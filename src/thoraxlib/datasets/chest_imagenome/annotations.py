"""Boxes and mentions of many images in flat tables, and what is asked of them."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

#: What a region's label is when its sentences disagree; "last" is what the authors' converter does.
CONFLICTS = ("last", "any", "first", "majority")
#: What a finding is that no sentence mentions of a region.
UNMENTIONED = ("negative", "missing")


class Annotations(NamedTuple):
    """Everything a release says of its N images.

    Attributes
    ----------
    ids, patients, studies, views : list of str
        Of each image.
    regions, findings : tuple of str
        Names that occur.
    box_starts : NDArray
        int64 (N + 1,): image i has the boxes from ``box_starts[i]`` to ``box_starts[i + 1]``.
    box_region : NDArray
        int16 (B,): position in `regions`.
    boxes : NDArray
        float32 (B, 4): x1 y1 x2 y2 in pixels of the original image, as the release has them.
    mention_starts : NDArray
        int64 (N + 1,), likewise.
    mention_region, mention_finding : NDArray
        int16 (M,): positions in `regions` and `findings`.
    mention_yes : NDArray
        bool (M,): whether the finding is affirmed; in the order of the sentences.
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
    """Gathers :class:`Annotations` image by image, in a few bytes for each box and mention."""

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
        """One image (id, patient, study, view) with boxes (region, x1 y1 x2 y2) and mentions (region, finding, yes)."""
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
        """What was added."""
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
    """The boxes of some images and regions.

    Of several boxes of one region the first with an area counts.

    Parameters
    ----------
    annotations : Annotations
        Of a release.
    rows : NDArray
        (n,): images.
    regions : sequence of int
        (R,): positions in ``annotations.regions``, negative for a region that never occurs.

    Returns
    -------
    boxes : NDArray
        float32 (n, R, 4).
    listed : NDArray
        bool (n, R): whether there is one.
    flat, doubled : int
        Boxes left out because they have no area (or no finite coordinates), and because the region has another.
    """
    image, region = _places(annotations.box_starts, rows, annotations.box_region, regions, len(annotations.regions))
    asked = np.flatnonzero((image >= 0) & (region >= 0))
    xyxy = annotations.boxes[asked]
    has_area = np.isfinite(xyxy).all(axis=1) & (xyxy[:, 2:] > xyxy[:, :2]).all(axis=1)
    asked, xyxy = asked[has_area], xyxy[has_area]
    cells, first = np.unique(image[asked] * len(regions) + region[asked], return_index=True)
    boxes = np.zeros((len(rows) * len(regions), 4), np.float32)
    listed = np.zeros(len(boxes), np.bool_)
    boxes[cells], listed[cells] = xyxy[first], True
    shape = len(rows), len(regions)
    return boxes.reshape(*shape, 4), listed.reshape(shape), int((~has_area).sum()), len(asked) - len(cells)


def select_labels(
    annotations: Annotations,
    rows: NDArray[np.intp],
    regions: Sequence[int],
    findings: Sequence[int],
    *,
    conflict: str,
    unmentioned: str,
) -> NDArray[np.float32]:
    """Labels float32 (n, R, K) of some images, regions and findings, see :func:`select_boxes`.

    Parameters
    ----------
    annotations, rows, regions
        As there.
    findings : sequence of int
        (K,): positions in ``annotations.findings``, negative for a finding that never occurs.
    conflict : {"last", "any", "first", "majority"}
        The label of a finding that is mentioned more than once: that of the last or first mention, 1 if any affirms it,
        or what most say (the last, if as many affirm as deny).
    unmentioned : {"negative", "missing"}
        0 or NaN for what is not mentioned.
    """
    image, region = _places(
        annotations.mention_starts, rows, annotations.mention_region, regions, len(annotations.regions)
    )
    finding = _lookup(findings, len(annotations.findings))[annotations.mention_finding]
    asked = np.flatnonzero((image >= 0) & (region >= 0) & (finding >= 0))
    cells = (image[asked].astype(np.int64) * len(regions) + region[asked]) * len(findings) + finding[asked]
    order = np.argsort(cells, kind="stable")  # within a cell the order of the sentences stays
    cells, yes = cells[order], annotations.mention_yes[asked[order]]
    labels = np.full(len(rows) * len(regions) * len(findings), 0 if unmentioned == "negative" else np.nan, np.float32)
    if len(cells):
        starts = np.flatnonzero(np.diff(cells, prepend=-1))
        stops = np.append(starts[1:], len(cells))
        affirmed = np.add.reduceat(yes, starts, dtype=np.int64)
        last = yes[stops - 1]
        twice, mentions = 2 * affirmed, stops - starts
        labels[cells[starts]] = {
            "last": last,
            "first": yes[starts],
            "any": affirmed > 0,
            "majority": (twice > mentions) | ((twice == mentions) & last),
        }[conflict]
    return labels.reshape(len(rows), len(regions), len(findings))


def _places(
    starts: NDArray[np.int64], rows: NDArray[np.intp], region: NDArray[np.int16], regions: Sequence[int], known: int
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """For each entry the position of its image in `rows` and of its region in `regions`, or -1."""
    image = np.repeat(_lookup(rows.tolist(), len(starts) - 1), np.diff(starts))
    return image, _lookup(regions, known)[region]


def _lookup(asked: Sequence[int], known: int) -> NDArray[np.int32]:
    """(known,): where each number is in `asked`, or -1."""
    table = np.full(known, -1, np.int32)
    for place, number in enumerate(asked):
        if number >= 0:
            table[number] = place
    return table
