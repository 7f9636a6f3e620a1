"""Organ masks and the 18 anatomical regions of Chest ImaGenome, read off the body."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from thoraxlib import labels as label_sets
from thoraxlib.datasets.synthetic.body import Body
from thoraxlib.datasets.synthetic.canvas import Array, Pen, ramp

#: Organs of :func:`organ_masks`, in its order. "right" is the patient's right, the picture's left.
MASKS = ("right lung", "left lung", "heart", "mediastinum", "trachea", "right clavicle", "left clavicle")

#: Regions of :func:`region_boxes`, in its order: that of Chest ImaGenome as AnaXNet uses it (Agu et al., MICCAI 2021).
REGIONS = label_sets.build("regions18")

# the zones of a lung, as shares of the height of its box
_ZONES = ((0.0, 0.16), (0.10, 0.40), (0.40, 0.68), (0.68, 1.0))


def organ_masks(body: Body) -> NDArray[np.uint8]:
    """uint8 (7, h, w), 0 or 1: :data:`MASKS`. The lung fields keep their place whatever fills them."""
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
    """float32 (18, 4), x1 y1 x2 y2 in pixels within the image: :data:`REGIONS`; 0 0 0 0 for one that is beside it."""
    boxes = [box for side in (0, 1) for box in _lung_boxes(body, side)]
    t = body.thorax
    right, left = t.heart_half_widths()
    floor = max(t.dome)
    edge = t.waist + t.knob
    boxes.append(body.box([(-right + t.shift, t.apex), (left + t.shift, floor)]))
    boxes.append(body.box([(-t.waist + t.shift, t.apex), (edge + t.shift, t.heart_top)]))
    boxes.append(body.heart_box())
    boxes.append(body.box([(t.shift * 0.8 - 0.035, t.apex - 0.25), (t.shift * 0.8 + 0.06, -0.27)]))
    found = np.array(boxes, np.float32)
    found[(found[:, 2:] <= found[:, :2]).any(axis=1)] = 0
    return found


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
