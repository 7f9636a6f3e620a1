"""Parameters of a patient's thorax on an image.

Units and axes: 1 is half the side of the square image (about 20 cm); x points to the right of the image (the patient's
left), y points down, and the origin is the centre of the image before pose. Side 0 is the patient's right, side 1 the
left; ``a`` is the distance from the midline towards a side.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

_NORMAL_CTR = (0.40, 0.475)  # cardiothoracic ratio without cardiomegaly; AP images magnify it, but not beyond 0.495


@dataclass
class Thorax:
    """A patient on an image; findings change it, and :class:`~thoraxlib.datasets.synthetic.body.Body` draws it.

    Pairs are (patient's right, patient's left).
    """

    # the patient
    width: tuple[float, float] = (0.66, 0.65)  # largest half-width of the rib cage's inside
    apex: float = -0.70  # y of the lung apices
    dome: list[float] = field(default_factory=lambda: [0.36, 0.42])  # y of the diaphragm domes
    arch: float = 0.22  # how far the costophrenic angle lies below the dome
    ctr: float = 0.44  # heart's width over the rib cage's
    heart_right: float = 0.30  # share of the heart's width right of the midline
    heart_top: float = -0.14
    waist: float = 0.13  # half-width of the mediastinum
    knob: float = 0.045  # how far the aortic arch stands out
    soft: float = 0.10  # thickness of the chest wall
    build: float = 1.0  # attenuation of the torso
    rib_pitch: float = 0.120
    rib_drop: float = 0.36  # how steeply the posterior ribs fall
    rib_phase: float = 0.0
    rib_bright: float = 1.0
    clavicle: float = -0.53  # y of the clavicles' medial ends
    clavicle_rise: float = 0.10
    scoliosis: float = 0.0
    vessels: int = 0  # random seed of the vascular tree
    vessel_bright: float = 1.0
    gas: float = 0.0  # size of the gastric bubble, 0 = none
    female: bool = False
    # the image
    ap: bool = False
    zoom: float = 1.0
    offset: tuple[float, float] = (0.0, 0.0)
    lean: float = 0.0  # slope of the midline
    tilt: float = 0.0  # slope of the horizontals
    air: float = 1.0  # radiolucency of the lungs
    scapula: float = 0.74  # distance of the scapulae's medial border from the midline
    scatter: float = 0.06
    dose: float = 2500.0  # quanta per pixel of 224 px in the open beam
    exposure: float = 0.0
    contrast: float = 1.0
    collimation: tuple[float, float, float, float] | None = None  # left, top, right, bottom blades
    blade_white: bool = False
    marker: tuple[float, float] | None = None
    electrodes: int = 0
    line: bool = False
    extras: int = 0  # random seed of the positions of electrodes and lines
    # changed by findings
    shift: float = 0.0  # mediastinum towards the patient's left
    vessel_gain: list[float] = field(default_factory=lambda: [1.0, 1.0])

    def heart_half_widths(self) -> tuple[float, float]:
        """Return the heart's extent to the right and to the left of the midline."""
        whole = self.ctr * sum(self.width)
        return self.heart_right * whole, (1 - self.heart_right) * whole


def draw_patient(rng: np.random.Generator) -> Thorax:
    """Draw a patient without findings, on a neutral PA image."""
    u = rng.uniform
    size = u(0.92, 1.06)
    width = u(0.60, 0.70) * size
    dome = u(0.32, 0.42) * size
    female = bool(rng.random() < 0.45)
    return Thorax(
        width=(width * u(0.99, 1.02), width * u(0.97, 1.0)),
        apex=-0.70 * size + u(-0.02, 0.02),
        dome=[dome, dome + u(0.025, 0.075)],
        arch=u(0.17, 0.26),
        ctr=u(*_NORMAL_CTR),
        heart_right=u(0.27, 0.36),
        heart_top=u(-0.20, -0.12),
        waist=u(0.115, 0.14),
        knob=u(0.02, 0.06),
        soft=u(0.06, 0.15),
        build=u(0.90, 1.12),
        rib_pitch=u(0.112, 0.13) * size,
        rib_drop=u(0.28, 0.46),
        rib_phase=u(0.0, 1.0),
        rib_bright=u(0.7, 1.25),
        clavicle=u(-0.56, -0.48),
        clavicle_rise=u(0.05, 0.15),
        scoliosis=u(-0.02, 0.02),
        vessels=int(rng.integers(2**32)),
        vessel_bright=u(0.8, 1.2),
        gas=u(0.07, 0.13) if rng.random() < 0.5 else 0.0,
        female=female,
    )


def draw_image(thorax: Thorax, rng: np.random.Generator, ap: bool) -> None:
    """Draw pose, breath, exposure and view of an image; changes `thorax`."""
    u = rng.uniform
    thorax.ap = ap
    breath = u(-0.02, 0.03)  # how far the diaphragm is above a full breath
    thorax.zoom = u(0.90, 1.06)
    thorax.offset = (u(-0.06, 0.06), u(-0.02, 0.08))
    thorax.lean, thorax.tilt = u(-0.05, 0.05), u(-0.04, 0.04)
    thorax.air = u(0.92, 1.08)
    thorax.scapula = max(thorax.width) + u(0.03, 0.13)
    thorax.scatter = u(0.03, 0.06)
    thorax.dose = u(4000, 9000)
    thorax.exposure, thorax.contrast = u(-0.07, 0.07), u(0.9, 1.15)
    if rng.random() < 0.3:
        sides = rng.random(4) < 0.6
        thorax.collimation = tuple(np.where(sides, u(0.01, 0.07, 4), 0.0).tolist())
        thorax.blade_white = bool(rng.random() < 0.4)
    if rng.random() < 0.7:
        thorax.marker = (u(0.78, 0.92), u(-0.92, -0.6))
    thorax.extras = int(rng.integers(2**32))
    if ap:
        breath += u(0.03, 0.10)
        thorax.ctr = min(thorax.ctr * u(1.0, 1.08), 0.495)
        thorax.lean, thorax.tilt = thorax.lean * 1.6, thorax.tilt * 1.6
        thorax.scapula = max(thorax.width) - u(0.03, 0.16)
        thorax.clavicle_rise += u(0.02, 0.10)
        thorax.clavicle -= u(0.0, 0.05)
        thorax.scatter = u(0.05, 0.10)
        thorax.dose *= 0.6
        thorax.waist *= u(1.02, 1.15)
        thorax.electrodes = int(rng.integers(0, 4))
        thorax.line = bool(rng.random() < 0.45)
        thorax.gas *= float(rng.random() < 0.6)
    thorax.dome = [dome - breath for dome in thorax.dome]
