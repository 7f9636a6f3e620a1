"""Which regions show which findings."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from thoraxlib.datasets.synthetic.findings import SIGNS, Box
from thoraxlib.datasets.synthetic.regions import REGIONS

_LUNGS = [REGIONS.index(f"{side} lung") for side in ("right", "left")]
_SHARE = 0.5  # of the smaller of the two, a finding's box and a region


def region_findings(shown: list[tuple[str, list[Box]]], regions: NDArray[np.float32]) -> NDArray[np.float32]:
    """Findings of each region, float32 (18, 14): 1, 0, or NaN for a region that is not in the picture.

    A finding belongs only to regions of the organs that its sign changes (``Finding.parts``). A diffuse finding is in
    all of these. A focal one is in those where half of one of its boxes lies, or half of which one of its boxes covers,
    and at least in the one that has most of it; a lung shows what its zones show. A focal finding of which nothing is
    in the picture is NaN in all its regions.

    Parameters
    ----------
    shown : list of (str, list of Box)
        The image's findings, with the boxes of the focal ones.
    regions : NDArray
        float32 (18, 4): the regions' boxes; empty where a region is not in the picture.
    """
    found = np.zeros((len(REGIONS), len(SIGNS)), np.float32)
    for name, boxes in shown:
        parts, k = _parts(name), list(SIGNS).index(name)
        if SIGNS[name].focal and not boxes:
            found[parts, k] = np.nan
        elif SIGNS[name].focal:
            share, within = _overlaps(np.array(boxes, np.float32), regions[parts])
            found[parts, k] = (share >= _SHARE).any(axis=0)
            found[np.array(parts)[within.argmax(axis=1)[within.any(axis=1)]], k] = 1
        else:
            found[parts, k] = 1
    for lung in _LUNGS:  # its zones follow it
        found[lung] = np.maximum(found[lung], found[lung + 1 : lung + 7].max(axis=0))
    sides = regions[:, 2:] - regions[:, :2]
    found[(sides <= 0).any(axis=1)] = np.nan
    return found


def _parts(name: str) -> list[int]:
    """Rows of the regions in which a finding may be."""
    parts = SIGNS[name].parts
    return [row for row, region in enumerate(REGIONS) if region.removeprefix("right ").removeprefix("left ") in parts]


def _overlaps(boxes: NDArray[np.float32], regions: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
    """(B, R) each: what two boxes share, over the smaller of them, and over the first."""
    low = np.maximum(boxes[:, None, :2], regions[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], regions[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    area, whole = (np.clip(each[:, 2:] - each[:, :2], 0, None).prod(axis=1) for each in (boxes, regions))
    smaller = np.minimum(area[:, None], whole[None])
    return shared / np.maximum(smaller, 1e-6), shared / np.maximum(area[:, None], 1e-6)
