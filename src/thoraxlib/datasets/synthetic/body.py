"""Torso of a patient on an image: attenuation of air, soft tissue and bone, and positions of the organs."""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np

from thoraxlib.datasets.synthetic.anatomy import Thorax
from thoraxlib.datasets.synthetic.canvas import Array, Canvas, Pen, ramp

_AIR = 0.80  # attenuation that a full lung takes away
_TRACHEA = 0.040  # half-width
_PEAK = 0.19  # how far the apex of a lung is from the midline
_FULL = 0.78  # where the thorax is widest, as a share of the way from the apex to the costophrenic angle


class Body:
    """Fields of tissue at each pixel; findings change them before :meth:`attenuation` adds them up.

    Attributes
    ----------
    a, y : Array
        (h, w): distance from the midline, and y along the tilted horizontals.
    left : Array
        (h, w) bool: True in the patient's left half.
    inside : Array
        (h, w): distance from the border of the lung field, positive within.
    lung, heart : Array
        (h, w), 0 to 1: the organs' silhouettes.
    filled : Array
        (h, w), 0 to 1: share of the air that is replaced.
    vessels : Array
        (h, w), 0 to 1: pulmonary vessels.
    extra : Array
        (h, w): attenuation added by findings.
    """

    def __init__(self, thorax: Thorax, canvas: Canvas) -> None:
        self.thorax, self.canvas = thorax, canvas
        self.dx = canvas.x - canvas.mid
        self.left = self.dx > 0
        self.a = np.abs(self.dx)
        self.y = canvas.level
        self.soft_edge = 1.6 / canvas.unit  # 1.6 px
        self._lungs()
        self._heart()
        self.filled = np.zeros_like(self.a)
        self.extra = np.zeros_like(self.a)
        self.lucency = np.full_like(self.a, thorax.air)
        self.vessels = self._vessels()

    def pick(self, right: float, left: float) -> Array:
        """Return (h, w) with one number in the patient's right half, and another in the left."""
        return np.where(self.left, np.float32(left), np.float32(right))

    # -- lungs -----------------------------------------------------------------------------------------------------

    def _lungs(self) -> None:
        t = self.thorax
        width, dome = self.pick(*t.width), self.pick(*t.dome)
        base = dome + np.float32(t.arch)
        down = (self.y - np.float32(t.apex)) / (base - np.float32(t.apex))
        u = 1 - np.clip(down * np.float32(1 / _FULL), 0, 1)
        outer = np.float32(_PEAK) + (width - np.float32(_PEAK)) * np.sqrt(1 - u * u)
        self.outer = outer * (1 - np.float32(0.16) * np.clip(down - np.float32(_FULL), 0, None))
        y = self.y[:, :1]
        waist = t.waist * (0.72 + 0.28 * np.exp(-(((y + 0.12) / 0.16) ** 2)))
        waist = np.maximum(waist, 0.19 - 1.4 * (y - t.apex)).astype(np.float32)
        knob = (t.knob * np.exp(-(((y + 0.36) / 0.075) ** 2))).astype(np.float32)
        shift = np.float32(t.shift)
        self.inner = np.where(self.left, waist + knob + shift, waist - shift)
        across = self.a / width
        hump = np.where(across > np.float32(0.45), (across - np.float32(0.45)) * np.float32(1 / 0.55), np.float32(0))
        medial = np.clip(np.float32(0.45) - across, 0, None)
        self.dome = dome + np.float32(t.arch) * hump * hump + np.float32(0.5 * t.arch) * medial * medial
        self.wall = self.outer - self.a  # distance from the chest wall
        self.inside = np.minimum(np.minimum(self.wall, self.a - self.inner), self.dome - self.y)
        self.lung = ramp(self.inside, self.soft_edge)
        self.down, self.angle = down, base
        self.down_to_dome = (self.y - np.float32(t.apex)) / (dome - np.float32(t.apex))

    def point(self, side: int, across: float, down: float) -> tuple[float, float]:
        """Return a point of a lung as (distance right of the midline, y).

        `across` is 0 at the mediastinum and 1 at the chest wall, `down` 0 at the apex and 1 at the dome.
        """
        t = self.thorax
        y = t.apex + down * (t.dome[side] - t.apex)
        inner = t.waist + (t.shift if side else -t.shift)
        a = inner + across * (self.reach(side, y) - inner)
        return (a if side else -a), y

    def reach(self, side: int, y: float) -> float:
        """Return the distance of the chest wall from the midline at height y."""
        t = self.thorax
        down = (y - t.apex) / (t.dome[side] + t.arch - t.apex)
        u = 1 - min(max(down, 0.0) / _FULL, 1.0)
        return _PEAK + (t.width[side] - _PEAK) * math.sqrt(1 - u * u)

    # -- heart and mediastinum -------------------------------------------------------------------------------------

    def _heart(self) -> None:
        t = self.thorax
        right, left = t.heart_half_widths()
        half = self.pick(right - t.shift, left + t.shift)
        middle, slope = sum(t.dome) / 2 - 0.08, (t.dome[1] - t.dome[0]) / 2
        floor = np.float32(middle) + np.float32(slope) * np.clip(self.dx * np.float32(1 / 0.3), -1, 1)
        up = floor - np.float32(t.heart_top - 0.04)
        q = self.y - floor
        q = q / np.where(q < 0, up, np.float32(0.24))
        edge = half * np.sqrt(np.clip(1 - q * q, 0, None)) - self.a
        self.heart = ramp(edge, 2 * self.soft_edge)

    def heart_box(self) -> tuple[float, float, float, float]:
        """Return the box of the heart's silhouette in pixels: x1, y1, x2, y2."""
        t = self.thorax
        right, left = t.heart_half_widths()
        return self.box([(-right + t.shift, t.heart_top), (left + t.shift, max(t.dome) + 0.12)])

    def box(self, corners: list[tuple[float, float]]) -> tuple[float, float, float, float]:
        """Return the box between two opposite points of the patient in pixels, cut off at the image's border."""
        points = self.canvas.pixels(np.array(corners, np.float32))
        x1, y1 = np.clip(points.min(axis=0), 0, (self.canvas.w, self.canvas.h)).tolist()
        x2, y2 = np.clip(points.max(axis=0), 0, (self.canvas.w, self.canvas.h)).tolist()
        return x1, y1, x2, y2

    # -- vessels ---------------------------------------------------------------------------------------------------

    def hilum(self, side: int) -> tuple[float, float]:
        """Return the root of a lung: (distance from the midline towards its side, y)."""
        t = self.thorax
        return t.waist + 0.03 + (t.shift if side else -t.shift), -0.10 if side == 0 else -0.14

    def _vessels(self) -> Array:
        t = self.thorax
        rng = np.random.default_rng(t.vessels)
        pen = Pen(self.canvas)
        for side in (0, 1):
            sign = 1.0 if side else -1.0
            a, y = self.hilum(side)
            angle = np.linspace(-1.25, 1.35, 6) + rng.uniform(-0.12, 0.12, 6)
            points = np.tile(np.array([a - 0.02, y]), (6, 1))
            width, length = 0.030, 0.15
            for generation in range(5):
                step = length * rng.uniform(0.75, 1.25, len(angle))
                ends = points + step[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
                ink = np.full(len(angle), int(min(255, 235 * t.vessel_gain[side] * (1 - 0.13 * generation))))
                mirror = np.array([sign, 1.0])
                pen.segments(points * mirror, ends * mirror, np.full(len(angle), width), ink)
                bend = rng.uniform(0.16, 0.42, len(angle))
                points = np.repeat(ends, 2, axis=0)
                angle = np.stack([angle - bend, angle + bend], axis=1).ravel()
                kept = rng.random(len(angle)) < (1.0 if generation < 1 else 0.72)
                points, angle = points[kept], angle[kept]
                width, length = width * 0.66, length * 0.86
        return pen.result()

    # -- bones -----------------------------------------------------------------------------------------------------

    def _ribs(self) -> Array:
        t = self.thorax
        width = self.pick(*t.width)
        share = self.a / width
        pitch = np.float32(1 / t.rib_pitch)
        spread = np.float32(t.rib_drop)
        start = np.float32(t.rib_phase * t.rib_pitch)
        # posterior ribs fall towards the side, anterior ribs towards the midline; they meet at the chest wall
        back = (self.y - spread * share * share * width - start) * pitch
        front = (self.y + np.float32(0.85) * spread * (share - 2) * width - start) * pitch
        within = ramp(self.outer + np.float32(0.03) - self.a, 0.02) * ramp(self.down + np.float32(0.04), 0.05)
        within = within * (1 - ramp(self.down - np.float32(1.05), 0.25))
        strong = _bars(back, 0.21) * ramp(self.a - np.float32(0.07), 0.03)
        weak = _bars(front, 0.24) * ramp(self.a - np.float32(0.26), 0.08) * np.float32(0.6)
        rim = np.float32(0.10) * ramp(np.float32(0.10) - np.abs(self.wall), 0.10)  # ribs seen edge on
        return within * (np.float32(0.19 * t.rib_bright) * (strong + weak) + rim)

    def _spine(self) -> Array:
        disc = np.cos(self.y[:, :1] * np.float32(2 * math.pi / 0.115)) ** 8
        body = ramp(np.float32(0.088) - self.a, 0.02)
        return body * (np.float32(0.17) - np.float32(0.06) * disc) + np.float32(0.08) * ramp(
            np.float32(0.028) - self.a, 0.02
        )

    def clavicle(self, side: int) -> list[tuple[float, float]]:
        """Return the bone's axis from sternum to shoulder, as points (distance right of the midline, y)."""
        t = self.thorax
        sign = 1.0 if side else -1.0
        reach = t.width[side] * 1.02
        ends = []
        for s in np.linspace(0, 1, 9).tolist():
            a = 0.055 + (reach - 0.055) * s
            y = t.clavicle - t.clavicle_rise * s + 0.05 * math.sin(2 * math.pi * s)
            ends.append((sign * a, y))
        return ends

    def _shoulders(self) -> Array:
        t = self.thorax
        pen = Pen(self.canvas)
        for side in (0, 1):
            sign = 1.0 if side else -1.0
            s = t.scapula
            top = t.clavicle - t.clavicle_rise
            blade = [
                (s, top + 0.10),
                (s - 0.02, top + 0.55),
                (s + 0.05, top + 0.62),
                (s + 0.22, top + 0.22),
                (s + 0.24, top),
            ]
            pen.area([(sign * x, y) for x, y in blade], 70)
            pen.line([(sign * x, y) for x, y in blade[:3]], 0.014, 150)
            pen.line([(sign * (s - 0.01), top + 0.16), (sign * (s + 0.25), top + 0.02)], 0.03, 130)
            head = (sign * (s + 0.30), top + 0.10)
            pen.disc(head, 0.085, 190)
            pen.line([head, (sign * (s + 0.36), top + 0.9)], 0.09, 180)
            pen.line(self.clavicle(side), 0.045, 200)
        return np.float32(0.36) * pen.result()

    # -- all together ----------------------------------------------------------------------------------------------

    @cached_property
    def torso(self) -> Array:
        """Attenuation (h, w) of the soft tissue without the lungs."""
        t = self.thorax
        y = self.y[:, :1]
        wide = max(t.width) + t.soft
        shoulder = np.clip((np.float32(-0.30) - y) * np.float32(1 / 0.35), 0, 1)
        half = np.float32(wide) + np.float32(0.55) * shoulder * shoulder + np.float32(0.05) * np.clip(y, 0, None)
        slope = (
            np.float32(-1.02)
            + np.float32(0.42) * np.clip((self.a - np.float32(0.24)) * np.float32(1 / 0.75), 0, 1) ** 2
        )
        torso = np.sqrt(np.clip(1 - (self.a / half) ** 2, 0, 1))
        above = ramp(self.y - slope, 0.30)
        neck = ramp(np.float32(0.27) - self.a, 0.14) * ramp(np.float32(-0.55) - self.y, 0.3)
        arm_in = np.float32(wide + 0.10) + np.float32(0.12) * np.clip(y, -1, None)
        arm = ramp(self.a - arm_in, 0.06) * ramp(np.float32(0.42) + arm_in - self.a, 0.15) * (1 - shoulder)
        whole = (
            np.maximum(np.float32(1.45) * torso * np.sqrt(above), np.float32(1.0) * neck)
            + np.float32(0.55) * arm * above
        )
        liver = ramp(self.y - self.dome, 0.03) * ramp(self.outer + np.float32(0.08) - self.a, 0.1)
        whole = whole + np.float32(0.16) * liver * (1 - np.float32(0.25) * self.left)
        if t.female:
            for sign in (-1, 1):
                window, r = self.canvas.ellipse(sign * 0.36, t.dome[0] - 0.02, 0.29, 0.27, 0.4)
                whole[window] += np.float32(0.17) * np.sqrt(np.clip(1 - r, 0, 1))
        return whole * np.float32(t.build)

    def trachea(self) -> Array:
        """Return the trachea's silhouette (h, w)."""
        x = np.abs(self.dx - np.float32(self.thorax.shift * 0.8 + 0.012))
        return ramp(np.float32(_TRACHEA) - x, 0.018) * ramp(np.float32(-0.28) - self.y, 0.03)

    def attenuation(self) -> Array:
        """Return the sum of all fields (h, w): the logarithm of the image."""
        t = self.thorax
        depth = np.sqrt(np.clip(self.wall * np.float32(1 / 0.34), 0.12, 1))
        air = np.float32(_AIR) * self.lucency * depth * self.lung * (1 - np.float32(0.82) * self.heart)
        air = air * (1 - np.clip(self.filled, 0, 1))
        vessels = self.vessels * self.lung * (1 - np.clip(self.filled * np.float32(1.2), 0, 1))
        core = ramp(np.maximum(self.inner, 0.1) - self.a, 0.03) * ramp(self.y + np.float32(0.75), 0.1)
        whole = self.torso - air + np.float32(0.18 * t.vessel_bright) * vessels
        whole += np.float32(0.24) * core * (1 - ramp(self.y - np.float32(0.45), 0.2))
        whole += np.float32(0.16) * self.heart * (1 - ramp(self.y - self.dome, 0.1))
        for side in (0, 1):
            a, y = self.hilum(side)
            window, r = self.canvas.ellipse(a if side else -a, y, 0.065, 0.12, 0.16)
            whole[window] += np.float32(0.16) * np.clip(1 - r, 0, 1)
        whole -= np.float32(0.30) * self.trachea()
        if t.gas:
            window, r = self.canvas.ellipse(0.30, t.dome[1] + 0.05 + t.gas, 1.5 * t.gas, t.gas, 1.6 * t.gas)
            whole[window] -= np.float32(0.28) * np.clip((1 - r) * 3, 0, 1)
        whole += self._ribs() + self._spine() + self._shoulders() + self.extra
        return np.maximum(whole, 0)


def _bars(phase: Array, half: float) -> Array:
    """Draw a rib at each whole number of `phase`, with the brighter borders of a hollow bone."""
    from_axis = np.abs(phase - np.rint(phase)) * np.float32(1 / half)
    return np.clip((1 - from_axis) * np.float32(5), 0, 1) * (np.float32(0.62) + np.float32(0.38) * from_axis**4)
