"""Organ masks, the 18 anatomical regions of Chest ImaGenome, and the findings of each region."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from thoraxlib import labels as label_sets
from thoraxlib.datasets.synthetic.body import Body
from thoraxlib.datasets.synthetic.canvas import Array, Pen, ramp
from thoraxlib.datasets.synthetic.findings import SIGNS, Box

#: Organs of :func:`organ_masks`, in its order. "right" is the patient's right, on the left of the image.
MASKS = ("right lung", "left lung", "heart", "mediastinum", "trachea", "right clavicle", "left clavicle")

#: Regions of :func:`region_boxes`, in its order: those of Chest ImaGenome that AnaXNet uses (Agu et al., MICCAI 2021).
REGIONS = label_sets.build("regions18")

_LUNGS = [REGIONS.index(f"{side} lung") for side in ("right", "left")]
_ZONES = ((0.0, 0.16), (0.10, 0.40), (0.40, 0.68), (0.68, 1.0))  # of a lung, as shares of the height of its box
_SHARE = 0.5  # of the smaller of a finding's box and a region


def organ_masks(body: Body) -> NDArray[np.uint8]:
    """Return masks uint8 (7, h, w), 0 or 1, of :data:`MASKS`; lungs include parts that findings fill."""
    lung = body.lung > 0
    outlines = [lung & ~body.left, lung & body.left, body.heart > 0, _mediastinum(body) > 0, body.trachea() > 0]
    for side in (0, 1):
        pen = Pen(body.canvas)
        pen.line(body.clavicle(side), 0.045)
        outlines.append(pen.result() > 0.5)
    return np.stack(outlines).view(np.uint8)


def _mediastinum(body: Body) -> Array:
    t = body.thorax
    core = ramp(body.inner - body.a, body.soft_edge) * ramp(body.y - np.float32(t.apex), body.soft_edge)
    return np.maximum(core * ramp(body.dome - body.y, body.soft_edge), body.heart)


def region_boxes(body: Body) -> NDArray[np.float32]:
    """Return boxes float32 (18, 4), x1 y1 x2 y2 in pixels, of :data:`REGIONS`; 0 0 0 0 for one outside the image."""
    boxes = [box for side in (0, 1) for box in _lung_boxes(body, side)]
    t = body.thorax
    right, left = t.heart_half_widths()
    floor = max(t.dome)
    edge = t.waist + t.knob
    boxes.append(body.box([(-right + t.shift, t.apex), (left + t.shift, floor)]))
    boxes.append(body.box([(-t.waist + t.shift, t.apex), (edge + t.shift, t.heart_top)]))
    boxes.append(body.heart_box())
    boxes.append(body.box([(t.shift * 0.8 - 0.035, t.apex - 0.25), (t.shift * 0.8 + 0.06, -0.27)]))
    regions = np.array(boxes, np.float32)
    regions[(regions[:, 2:] <= regions[:, :2]).any(axis=1)] = 0
    return regions


def _lung_boxes(body: Body, side: int) -> list[tuple[float, float, float, float]]:
    t = body.thorax
    sign = 1.0 if side else -1.0
    shift = sign * t.shift
    top, base, angle = t.apex, t.dome[side] + 0.5 * t.arch, t.dome[side] + t.arch
    inner = 0.72 * t.waist + shift

    def box(a1: float, y1: float, a2: float, y2: float) -> tuple[float, float, float, float]:
        return body.box([(sign * a1, y1), (sign * a2, y2)])

    whole = [box(inner, top, t.width[side], base)]
    for start, end in _ZONES:
        y1, y2 = top + start * (base - top), top + end * (base - top)
        whole.append(box(inner, y1, body.reach(side, y2), y2))
    a, y = body.hilum(side)
    whole.append(box(a - 0.05, y - 0.15, a + 0.15, y + 0.15))
    whole.append(box(t.width[side] - 0.20, angle - 0.22, t.width[side], angle))
    return whole


def region_findings(shown: list[tuple[str, list[Box]]], regions: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the findings of each region, float32 (18, 14): 1, 0, or NaN for a region that is not in the image.

    A finding belongs only to regions of the organs that its sign changes (``Finding.parts``). A diffuse finding is in
    all of them. A focal finding is in the regions that hold half of one of its boxes, or half of which one of its boxes
    covers, and at least in the region with most of it. A lung has the findings of its zones. A focal finding without a
    box in the image is NaN in all its regions.

    Parameters
    ----------
    shown : list of (str, list of Box)
        The image's findings, with the boxes of the focal ones.
    regions : NDArray
        float32 (18, 4): the regions' boxes; empty for a region that is not in the image.
    """
    findings = np.zeros((len(REGIONS), len(SIGNS)), np.float32)
    for name, boxes in shown:
        parts, k = _parts(name), list(SIGNS).index(name)
        if SIGNS[name].focal and not boxes:
            findings[parts, k] = np.nan
        elif SIGNS[name].focal:
            share, within = _overlaps(np.array(boxes, np.float32), regions[parts])
            findings[parts, k] = (share >= _SHARE).any(axis=0)
            findings[np.array(parts)[within.argmax(axis=1)[within.any(axis=1)]], k] = 1
        else:
            findings[parts, k] = 1
    for lung in _LUNGS:  # the rows of its zones follow
        findings[lung] = np.maximum(findings[lung], findings[lung + 1 : lung + 7].max(axis=0))
    sides = regions[:, 2:] - regions[:, :2]
    findings[(sides <= 0).any(axis=1)] = np.nan
    return findings


def _parts(name: str) -> list[int]:
    parts = SIGNS[name].parts
    return [row for row, region in enumerate(REGIONS) if region.removeprefix("right ").removeprefix("left ") in parts]


def _overlaps(boxes: NDArray[np.float32], regions: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
    """Return the intersections (B, R), divided by the smaller area, and by the first."""
    low = np.maximum(boxes[:, None, :2], regions[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], regions[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    area, whole = (np.clip(each[:, 2:] - each[:, :2], 0, None).prod(axis=1) for each in (boxes, regions))
    smaller = np.minimum(area[:, None], whole[None])
    return shared / np.maximum(smaller, 1e-6), shared / np.maximum(area[:, None], 1e-6)
