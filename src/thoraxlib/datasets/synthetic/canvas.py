"""Pixel grid of an image in the patient's coordinates, and tools that draw on it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from thoraxlib.datasets.synthetic.anatomy import Thorax

Array = NDArray[np.float32]
Window = tuple[slice, slice]


def ramp(distance: Array, width: float) -> Array:
    """Soft step: 0 for `distance` <= 0, 1 from `width` on, linear between."""
    return np.clip(distance * np.float32(1 / width), 0, 1)


class Canvas:
    """The pixels of an image as points of the patient.

    Attributes
    ----------
    h, w : int
        Pixels.
    unit : float
        Pixels per unit of the patient's coordinates.
    x : Array
        (1, w), patient coordinates of the pixel centres, without the lean.
    y : Array
        (h, 1), the same, without the tilt.
    mid : Array
        (h, 1), x of the midline.
    level : Array
        (h, w), y counted along the tilted horizontals.
    """

    def __init__(self, h: int, w: int, thorax: Thorax) -> None:
        self.h, self.w = h, w
        half = min(h, w) / 2
        self.unit = half * thorax.zoom
        self.origin = (w / 2 + thorax.offset[0] * half, h / 2 + thorax.offset[1] * half)
        self.thorax = thorax
        self.x = ((np.arange(w, dtype=np.float32) + 0.5 - self.origin[0]) / self.unit).astype(np.float32)[None, :]
        self.y = ((np.arange(h, dtype=np.float32) + 0.5 - self.origin[1]) / self.unit).astype(np.float32)[:, None]
        self.mid = self.midline(self.y)
        self.level = self.y - np.float32(thorax.tilt) * self.x

    def midline(self, y: Array) -> Array:
        """Return x of the spine at height y."""
        t = self.thorax
        return (t.lean * y + t.scoliosis * np.sin(3.0 * y)).astype(np.float32)

    def pixels(self, points: Array) -> Array:
        """Convert points (..., 2), as (distance right of the midline, y), to pixels (..., 2)."""
        x = points[..., 0] + self.midline(points[..., 1])
        y = points[..., 1] + self.thorax.tilt * points[..., 0]
        return np.stack([x * self.unit + self.origin[0], y * self.unit + self.origin[1]], axis=-1).astype(np.float32)

    def ellipse(
        self, x: float, y: float, rx: float, ry: float, reach: float | None = None, turn: float = 0.0
    ) -> tuple[Window, Array]:
        """Return the window within `reach` of a point, and the elliptic radius around the point in it.

        The point is (distance right of the midline, y); the radius is 1 on the ellipse of half-axes `rx` and `ry`,
        rotated by `turn` radians. By default the window just holds the ellipse.
        """
        px, py = self.pixels(np.array([x, y], np.float32)).tolist()
        r = (max(rx, ry) if reach is None else reach) * self.unit + 1
        rows = slice(min(max(int(py - r), 0), self.h - 1), max(int(py + r) + 1, 1))
        columns = slice(min(max(int(px - r), 0), self.w - 1), max(int(px + r) + 1, 1))
        cx = x + float(self.midline(np.float32(y)))  # type: ignore[arg-type]
        cy = y + self.thorax.tilt * x
        dx, dy = self.x[:, columns] - np.float32(cx), self.y[rows] - np.float32(cy)
        c, s = np.float32(np.cos(turn)), np.float32(np.sin(turn))
        radius = np.sqrt(((c * dx + s * dy) / np.float32(rx)) ** 2 + ((c * dy - s * dx) / np.float32(ry)) ** 2)
        return (rows, columns), radius

    def cloud(self, rng: np.random.Generator, cells: int) -> Array:
        """Draw smooth noise over the image, about -1.5 to 1.5, with `cells` independent values along a side."""
        coarse = Image.fromarray(rng.standard_normal((cells, cells), dtype=np.float32))
        return np.asarray(coarse.resize((self.w, self.h), Image.Resampling.BICUBIC))

    def smooth(self, image: Array, pixels: int) -> Array:
        """Average `image` over blocks of about `pixels`, and interpolate between them."""
        small = (max(self.w // pixels, 2), max(self.h // pixels, 2))
        whole = Image.fromarray(image)
        return np.asarray(whole.resize(small, Image.Resampling.BOX).resize((self.w, self.h), Image.Resampling.BILINEAR))


class Pen:
    """Draw lines and areas, given as points of the patient, at twice the resolution."""

    def __init__(self, canvas: Canvas) -> None:
        self.canvas = canvas
        self.image = Image.new("L", (2 * canvas.w, 2 * canvas.h))
        self.draw = ImageDraw.Draw(self.image)

    def _points(self, points: Array | Sequence[tuple[float, float]]) -> list[float]:
        return (2 * self.canvas.pixels(np.asarray(points, np.float32))).ravel().tolist()  # type: ignore[no-any-return]

    def line(self, points: Array | Sequence[tuple[float, float]], width: float, ink: int = 255) -> None:
        """Draw a line through points; the width is in patient units."""
        wide = max(1, round(2 * width * self.canvas.unit))
        self.draw.line(self._points(points), fill=ink, width=wide, joint="curve" if wide > 3 else None)

    def area(self, points: Array | Sequence[tuple[float, float]], ink: int = 255) -> None:
        """Draw a filled polygon."""
        self.draw.polygon(self._points(points), fill=ink)

    def disc(self, point: tuple[float, float], radius: float, ink: int = 255) -> None:
        """Draw a filled circle."""
        (x, y), r = self._points([point]), 2 * radius * self.canvas.unit
        self.draw.ellipse((x - r, y - r, x + r, y + r), fill=ink)

    def segments(self, starts: Array, ends: Array, widths: Array, inks: NDArray[np.int64]) -> None:
        """Draw N straight lines: starts and ends (N, 2), widths and inks (N,)."""
        flat = (2 * self.canvas.pixels(np.stack([starts, ends], axis=1))).reshape(-1, 4).tolist()
        wide = np.maximum(1, np.rint(2 * widths * self.canvas.unit)).astype(int).tolist()
        for line, width, ink in zip(flat, wide, inks.tolist(), strict=True):
            self.draw.line(line, fill=ink, width=width)

    def result(self) -> Array:
        """Return the drawing at the image's resolution, 0 to 1."""
        return np.asarray(self.image.reduce(2)).astype(np.float32) * np.float32(1 / 255)
