"""Grey levels of an image from attenuation: scatter, quantum noise, exposure, collimation, markers, devices."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from thoraxlib.datasets.synthetic.body import Body
from thoraxlib.datasets.synthetic.canvas import Array, Pen


def develop(body: Body, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return the image, uint8 (h, w): white for high attenuation."""
    thorax, canvas = body.thorax, body.canvas
    whole = body.attenuation()
    if thorax.electrodes or thorax.line:
        whole = whole + _devices(body)
    through = np.exp(-whole)
    through += np.float32(thorax.scatter) * canvas.smooth(through, max(canvas.h // 8, 1))
    quanta = thorax.dose * (224 / min(canvas.h, canvas.w)) ** 2  # a pixel of half the side gathers a quarter
    noise = rng.standard_normal(whole.shape, dtype=np.float32)
    image = -np.log(through) + noise * np.float32(quanta**-0.5) / np.sqrt(through)
    dark, bright = _window(body, image)
    grey = (image - dark) * np.float32(thorax.contrast / (bright - dark)) + np.float32(thorax.exposure)
    grey = np.clip(grey, 0, 1) * np.float32(242) + np.float32(6)
    _collimate(grey, body)
    return _mark(grey.astype(np.uint8), body)


def _window(body: Body, image: Array) -> tuple[float, float]:
    """Return the attenuations of black (open air at the sides) and white (the densest part of the torso)."""
    sample = image[:: max(body.canvas.h // 48, 1), :: max(body.canvas.w // 48, 1)]
    inside = sample[sample > 0.25]
    low, high = np.quantile(inside, (0.02, 0.985)).tolist()
    return low - 0.12 * (high - low), high + 0.02 * (high - low)


def _devices(body: Body) -> Array:
    """Draw electrodes and a central line."""
    rng = np.random.default_rng(body.thorax.extras)
    pen = Pen(body.canvas)
    for _ in range(body.thorax.electrodes):
        x, y = rng.uniform(-0.6, 0.6), rng.uniform(-0.5, 0.5)
        pen.disc((x, y), 0.022, 255)
        end = (x + rng.uniform(-0.5, 0.5), 1.0)
        pen.line([(x, y), (x + rng.uniform(-0.2, 0.2), (y + 1) / 2), end], 0.008, 150)
    if body.thorax.line:
        side = -1.0 if rng.random() < 0.7 else 1.0
        pen.line([(side * 0.30, -1.0), (side * 0.24, -0.62), (side * 0.06, -0.42), (-0.05, -0.05)], 0.010, 190)
    return np.float32(0.55) * pen.result()


def _collimate(grey: Array, body: Body) -> None:
    if body.thorax.collimation is None:
        return
    left, top, right, bottom = body.thorax.collimation
    h, w = grey.shape
    tone = 248 if body.thorax.blade_white else 4
    grey[: int(top * h)] = tone
    grey[h - int(bottom * h) :] = tone
    grey[:, : int(left * w)] = tone
    grey[:, w - int(right * w) :] = tone


def _mark(grey: NDArray[np.uint8], body: Body) -> NDArray[np.uint8]:
    """Draw the letter L on the patient's left."""
    if body.thorax.marker is None:
        return grey
    image = Image.fromarray(grey)
    h, w = grey.shape
    x, y = body.thorax.marker
    size = max(h * 0.045, 5.0)
    font = ImageFont.load_default(size=size)
    ImageDraw.Draw(image).text(((x + 1) / 2 * w, (y + 1) / 2 * h), "L", fill=235, font=font, anchor="mm")
    return np.array(image)
