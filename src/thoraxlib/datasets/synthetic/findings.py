"""Radiological signs of the 14 NIH findings.

The constructor of a finding draws its extent, and changes the patient if necessary (a large heart, a raised diaphragm).
:meth:`Finding.draw` then changes the body's fields, and returns the boxes of a focal finding.
"""

from __future__ import annotations

import abc
from typing import ClassVar

import numpy as np

from thoraxlib.datasets.synthetic.anatomy import Thorax
from thoraxlib.datasets.synthetic.body import Body
from thoraxlib.datasets.synthetic.canvas import Array, Pen, Window, ramp
from thoraxlib.labels import build

Box = tuple[float, float, float, float]
_WHOLE: Window = (slice(None), slice(None))
_ZONES = ("apical zone", "upper lung zone", "mid lung zone", "lower lung zone")
_PLEURA = ("lung", *_ZONES, "costophrenic angle")


class Finding(abc.ABC):
    """A finding on an image; `focal` if it has boxes; `parts` are its possible regions, on both sides."""

    focal: ClassVar[bool] = True
    parts: ClassVar[tuple[str, ...]] = (*_PLEURA, "hilar structures")

    def __init__(self, rng: np.random.Generator, thorax: Thorax) -> None:
        self.rng, self.u = rng, rng.uniform
        self.side = int(rng.random() < 0.5)
        self.sign = 1.0 if self.side else -1.0
        self.shape(thorax)

    @abc.abstractmethod
    def shape(self, thorax: Thorax) -> None:
        """Draw the extent, and change the patient."""

    @abc.abstractmethod
    def draw(self, body: Body) -> list[Box]:
        """Change the body's fields; return the boxes in pixels."""

    def half(self, body: Body) -> Array:
        """Return 1 on the finding's side and 0 on the other."""
        return (body.left == bool(self.side)).astype(np.float32)


def bounds(shown: Array, window: Window = _WHOLE, level: float = 0.3) -> list[Box]:
    """Return the box around the pixels above `level`; none if it is smaller than 2 pixels."""
    mask = shown > level
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows) or min(rows[-1] - rows[0], columns[-1] - columns[0]) < 1:
        return []
    y, x = window[0].start or 0, window[1].start or 0
    return [(float(x + columns[0]), float(y + rows[0]), float(x + columns[-1] + 1), float(y + rows[-1] + 1))]


class Cardiomegaly(Finding):
    """A heart wider than half the thorax."""

    parts = ("cardiac silhouette",)

    def shape(self, thorax: Thorax) -> None:
        thorax.ctr = self.u(0.56, 0.68)
        thorax.heart_right = self.u(0.29, 0.36)

    def draw(self, body: Body) -> list[Box]:
        return [body.heart_box()]


class Emphysema(Finding):
    """Large dark lungs, low flat diaphragms, a narrow heart, few vessels."""

    focal = False
    parts = ("lung", *_ZONES)

    def shape(self, thorax: Thorax) -> None:
        much = self.u(0.7, 1.2)
        thorax.dome = [dome + 0.11 * much for dome in thorax.dome]
        thorax.arch *= 0.40
        thorax.air *= 1 + 0.16 * much
        thorax.ctr *= 1 - 0.14 * much
        thorax.rib_pitch *= 1.10
        thorax.rib_drop *= 0.7
        thorax.vessel_gain = [gain * 0.62 for gain in thorax.vessel_gain]
        self.bullae = [(s, self.u(0.3, 0.8), self.u(0.1, 0.3)) for s in (0, 1)]

    def draw(self, body: Body) -> list[Box]:
        for side, across, down in self.bullae:
            window, r = body.canvas.ellipse(*body.point(side, across, down), 0.15, 0.13, 0.16)
            hole = np.clip((1 - r) * 6, 0, 1)
            body.lucency[window] += np.float32(0.12) * hole
            body.vessels[window] *= 1 - np.float32(0.8) * hole
        return []


class Effusion(Finding):
    """Fluid that fills the costophrenic angle and climbs the chest wall as a meniscus."""

    parts = _PLEURA

    def shape(self, thorax: Thorax) -> None:
        self.sides = [self.side] if self.rng.random() < 0.7 else [0, 1]
        self.heights = self.u(0.32, 0.55, 2)
        if len(self.sides) == 1 and self.rng.random() < 0.3:
            self.heights = self.u(0.6, 0.9, 2)
            thorax.shift -= 0.05 * self.sign

    def draw(self, body: Body) -> list[Box]:
        boxes = []
        width, angle = body.pick(*body.thorax.width), body.angle
        for side in self.sides:
            height = float(self.heights[side])
            climb = np.float32(0.40) + np.float32(0.60) * np.clip(body.a / width, 0, 1) ** 4
            fluid = ramp(body.y - angle + np.float32(height) * climb, 0.045) * (body.left == bool(side))
            body.filled = np.maximum(body.filled, fluid)
            body.extra += np.float32(0.12) * fluid * body.lung
            # with the angle that it hides
            boxes += bounds(fluid * (body.inside > -0.03))
        return boxes


class Atelectasis(Finding):
    """Plates of airless lung near the base, the diaphragm drawn up and the mediastinum towards the side."""

    def shape(self, thorax: Thorax) -> None:
        thorax.dome[self.side] -= self.u(0.0, 0.04)
        thorax.shift += self.sign * self.u(0.0, 0.03)
        u, count = self.u, int(self.rng.integers(1, 3))
        self.plates = [
            (0.45 + u(-0.15, 0.2), 0.92 - 0.16 * k - u(0.0, 0.06), u(0.20, 0.30), u(0.045, 0.065), u(-0.1, 0.45))
            for k in range(count)
        ]

    def draw(self, body: Body) -> list[Box]:
        boxes = []
        for across, down, length, thick, turn in self.plates:
            point = body.point(self.side, across, down)
            window, r = body.canvas.ellipse(*point, length, thick, length, -self.sign * turn)
            plate = np.clip((1 - r) * 2.5, 0, 1)
            body.filled[window] = np.maximum(body.filled[window], np.float32(0.75) * plate)
            body.extra[window] += np.float32(0.20) * plate * body.lung[window]
            boxes += bounds(plate * body.lung[window], window)
        return boxes


class Infiltration(Finding):
    """An ill-defined haze with fine streaks and nodules."""

    def shape(self, thorax: Thorax) -> None:
        self.spot = (self.u(0.35, 0.65), self.u(0.25, 0.8), self.u(0.22, 0.34), self.u(0.24, 0.38))

    def draw(self, body: Body) -> list[Box]:
        across, down, rx, ry = self.spot
        window, r = body.canvas.ellipse(*body.point(self.side, across, down), rx, ry)
        patch = np.clip((1 - r) * 2, 0, 1)
        grain = np.clip(body.canvas.cloud(self.rng, 36)[window], -0.8, 1.6)
        haze = patch * (np.float32(0.50) + np.float32(0.36) * grain)
        body.filled[window] = np.maximum(body.filled[window], haze)
        return bounds(patch * body.lung[window], window)


class Pneumonia(Finding):
    """Patches that run together around the segments of one lung, with fuzzy borders."""

    def shape(self, thorax: Thorax) -> None:
        self.spot = (self.u(0.35, 0.6), self.u(0.5, 0.85), self.u(0.20, 0.30), self.u(0.18, 0.28))

    def draw(self, body: Body) -> list[Box]:
        across, down, rx, ry = self.spot
        window, r = body.canvas.ellipse(*body.point(self.side, across, down), rx, ry, 1.1 * max(rx, ry))
        lumps = body.canvas.cloud(self.rng, 13)[window]
        patch = np.clip((1 - r) * 1.8, 0, 1)
        dense = patch * np.clip(np.float32(0.78) + np.float32(0.50) * lumps, 0.30, 1)
        body.filled[window] = np.maximum(body.filled[window], np.float32(0.85) * dense)
        return bounds(patch * body.lung[window], window)


class Consolidation(Finding):
    """A lobe or segment without air: even, cut off straight at the fissure, with air-filled bronchi."""

    def shape(self, thorax: Thorax) -> None:
        self.top = self.u(0.05, 0.50)
        self.bottom = self.top + self.u(0.26, 0.40)
        self.slope = self.u(-0.25, 0.25)
        self.medial = self.u(0.0, 0.30)

    def draw(self, body: Body) -> list[Box]:
        down = body.down_to_dome + np.float32(self.slope) * (body.a - np.float32(0.35))
        lobe = ramp(down - np.float32(self.top), 0.05) * ramp(np.float32(self.bottom) - down, 0.02)
        lobe = lobe * ramp(body.a - body.inner - np.float32(self.medial * 0.4), 0.05) * self.half(body)
        bronchi = np.clip(body.vessels * np.float32(1.3), 0, 1)
        body.filled = np.maximum(body.filled, lobe * (np.float32(0.88) - np.float32(0.45) * bronchi))
        return bounds(lobe * body.lung)


class Edema(Finding):
    """Haze spreading like wings from both hila, broad vessels, septal lines at the bases."""

    focal = False
    parts = ("lung", *_ZONES[1:], "hilar structures")

    def shape(self, thorax: Thorax) -> None:
        thorax.vessel_gain = [gain * 1.5 for gain in thorax.vessel_gain]
        thorax.vessel_bright *= 1.2
        self.much = self.u(0.8, 1.1)

    def draw(self, body: Body) -> list[Box]:
        grain = np.clip(body.canvas.cloud(self.rng, 22), -1.2, 1.5)
        r = np.sqrt(
            ((body.a - np.float32(0.2)) / np.float32(0.40)) ** 2 + ((body.y - np.float32(0.02)) / np.float32(0.46)) ** 2
        )
        wings = np.exp(-r * r) * (np.float32(0.66) + np.float32(0.16) * grain) * np.float32(self.much)
        body.filled = np.maximum(body.filled, wings)
        pen = Pen(body.canvas)
        for side in (0, 1):
            for k in range(7):
                x, y = body.point(side, 0.97, 0.66 + 0.05 * k + self.u(-0.01, 0.01))
                pen.line([(x, y), (x - (0.09 if side else -0.09), y + self.u(-0.01, 0.01))], 0.009, 220)
        body.extra += np.float32(0.16) * pen.result() * body.lung
        return []


class Fibrosis(Finding):
    """A network of lines at the bases and under the pleura; the lungs shrink."""

    focal = False
    parts = ("lung", *_ZONES[2:], "costophrenic angle")

    def shape(self, thorax: Thorax) -> None:
        rise = self.u(0.03, 0.09)
        thorax.dome = [dome - rise for dome in thorax.dome]
        self.much = self.u(0.8, 1.2)

    def draw(self, body: Body) -> list[Box]:
        net = np.clip(1 - np.abs(body.canvas.cloud(self.rng, 30)) * np.float32(2.2), 0, 1)
        edge = np.exp(-np.clip(body.inside, 0, None) * np.float32(5))
        where = np.clip(edge + np.float32(1.2) * (body.down_to_dome - np.float32(0.35)), 0, 1) * body.lung
        body.extra += np.float32(0.24 * self.much) * net * where
        body.filled = np.maximum(body.filled, np.float32(0.15) * where)
        return []


class Mass(Finding):
    """A round or lobulated opacity of 3 cm or more."""

    def shape(self, thorax: Thorax) -> None:
        self.spot = (self.u(0.3, 0.75), self.u(0.15, 0.8), self.u(0.10, 0.17), self.u(0.85, 1.15), self.u(-1.5, 1.5))

    def draw(self, body: Body) -> list[Box]:
        across, down, radius, oval, turn = self.spot
        return _ball(body, *body.point(self.side, across, down), radius, radius * oval, turn)


class Nodule(Finding):
    """One to three round opacities of less than 3 cm."""

    def shape(self, thorax: Thorax) -> None:
        count = int(self.rng.choice([1, 1, 2, 3]))
        sides = [self.side, 1 - self.side, self.side]
        self.spots = [(sides[k], self.u(0.3, 0.8), self.u(0.12, 0.85), self.u(0.050, 0.072)) for k in range(count)]

    def draw(self, body: Body) -> list[Box]:
        return [
            box
            for side, across, down, radius in self.spots
            for box in _ball(body, *body.point(side, across, down), radius, radius, 0.0)
        ]


def _ball(body: Body, x: float, y: float, rx: float, ry: float, turn: float) -> list[Box]:
    window, r = body.canvas.ellipse(x, y, rx, ry, turn=turn)
    ball = np.sqrt(np.clip(1 - r * r, 0, 1))
    body.extra[window] += np.float32(0.80) * ball * (np.float32(0.25) + np.float32(0.75) * body.lung[window])
    return bounds(r.max() - r, window, float(r.max()) - 1.0)


class Pneumothorax(Finding):
    """Air between wall and lung: a thin pleural line, beyond it darkness without vessels."""

    parts = _PLEURA

    def shape(self, thorax: Thorax) -> None:
        self.gap = self.u(0.12, 0.24)
        self.end = self.u(0.75, 1.1)
        if self.gap > 0.20:
            thorax.shift -= self.sign * 0.04

    def draw(self, body: Body) -> list[Box]:
        gap = np.float32(self.gap) * np.sqrt(np.clip(1 - body.down_to_dome / np.float32(self.end), 0, 1))
        from_pleura = np.minimum(body.wall, (body.y - np.float32(body.thorax.apex)) * np.float32(0.8)) - gap
        half = self.half(body)
        free = ramp(-from_pleura, 0.01) * (gap > 0.01) * body.lung * half
        line = np.clip(1 - np.abs(from_pleura) * np.float32(1 / 0.014), 0, 1) * (gap > 0.01) * half
        body.vessels = body.vessels * (1 - free)
        body.filled = body.filled * (1 - free)
        body.lucency += np.float32(0.40) * free
        body.extra += np.float32(0.30) * line * body.lung
        return bounds(free)


class PleuralThickening(Finding):
    """A band of soft tissue along the chest wall or over the apex."""

    parts = _PLEURA

    def shape(self, thorax: Thorax) -> None:
        self.top = self.u(-0.05, 0.45)
        self.bottom = self.top + self.u(0.35, 0.55)
        self.thick = self.u(0.07, 0.11)

    def draw(self, body: Body) -> list[Box]:
        down = body.down_to_dome
        along = ramp(down - np.float32(self.top), 0.08) * ramp(np.float32(self.bottom) - down, 0.08) * self.half(body)
        band = along * ramp(np.float32(self.thick) * along - body.wall, 0.015) * (body.inside > 0)
        body.filled = np.maximum(body.filled, band)
        body.extra += np.float32(0.24) * band
        return bounds(band)


class Hernia(Finding):
    """The stomach behind the heart: a round shadow with a rim, air above a level of fluid."""

    parts = ("mediastinum",)

    def shape(self, thorax: Thorax) -> None:
        self.x = self.u(-0.04, 0.12)
        self.radius = self.u(0.13, 0.20)

    def draw(self, body: Body) -> list[Box]:
        x, y = self.x + body.thorax.shift, float(np.mean(body.thorax.dome)) - 0.55 * self.radius
        window, r = body.canvas.ellipse(x, y, 1.2 * self.radius, self.radius, 1.25 * self.radius)
        ball, core = np.clip((1 - r) * 8, 0, 1), np.clip((0.86 - r) * 8, 0, 1)
        air = core * ramp(np.float32(y - 0.05 * self.radius) - body.y[window], 0.012)
        body.filled[window] = np.maximum(body.filled[window], ball)
        body.extra[window] += np.float32(0.16) * ball - np.float32(0.62) * air
        return bounds(ball, window)


_BY_NAME = {finding.__name__: finding for finding in Finding.__subclasses__()}
#: The findings in the order of ``labels.build("nih14")``.
SIGNS: dict[str, type[Finding]] = {name: _BY_NAME[name.replace("_", "")] for name in build("nih14")}
#: Findings that come with boxes.
FOCAL = tuple(name for name, sign in SIGNS.items() if sign.focal)
