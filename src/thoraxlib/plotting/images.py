"""Heat maps over images, boxes and panels, drawn with Pillow."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from thoraxlib.utils.files import replacing

ImageLike: TypeAlias = Tensor | NDArray[np.generic] | Image.Image

# Sky blue of Okabe and Ito's palette, which is made for colour-blind readers; a green that stands out from the heat.
_BOX, _TRUTH = "#56b4e9", "#2ee6a8"
# Dark to light through purple and orange: lightness rises steadily, so that it reads in grey as well.
_HEAT = (
    (0, 0, 4),
    (40, 11, 84),
    (101, 21, 110),
    (159, 42, 99),
    (212, 72, 66),
    (245, 125, 21),
    (250, 193, 39),
    (252, 255, 164),
)


def overlay(image: ImageLike, heat: ImageLike, *, alpha: float = 0.6) -> Image.Image:
    """A picture with a heat map over it: cold places keep the image's own contrast.

    Parameters
    ----------
    image : tensor, array or Pillow image
        Image: uint8, or floating point in [0, 1]; (H, W), (1, H, W), (3, H, W) or (H, W, 3).
    heat : tensor or array
        (h, w), of any scale: enlarged to the picture bilinearly and stretched to its own range. A constant map shows
        nothing.
    alpha : float
        Opacity of the hottest place, 0 to 1.

    Returns
    -------
    PIL.Image.Image
        RGB, of the image's size.

    Raises
    ------
    TypeError, ValueError
        Pixels or shapes other than these; `alpha` out of its range.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha={alpha}: from 0 to 1")
    picture = _image(image)
    values = torch.as_tensor(np.asarray(heat.detach().cpu() if isinstance(heat, Tensor) else heat)).float()
    if values.ndim != 2 or not values.numel():
        raise ValueError(f"heat must be (h, w), with at least one place, got {tuple(values.shape)}")
    if not (values.max() - values.min()).isfinite():
        raise ValueError("heat holds NaN or infinite values, or such that lie too far apart")
    from thoraxlib.localization.maps import normalize, upsample

    level = normalize(upsample(values[None, None], (picture.height, picture.width)))[0, 0].numpy()
    colour = _colours()[(level * 255).round().astype(np.intp)]
    opacity = (alpha * level)[..., None]
    mixed = (1 - opacity) * np.asarray(picture, np.float32) + opacity * colour
    return Image.fromarray(mixed.round().astype(np.uint8))


@cache
def _colours() -> NDArray[np.float32]:
    steps = np.linspace(0, 255, len(_HEAT))
    return np.stack([np.interp(np.arange(256), steps, channel) for channel in zip(*_HEAT, strict=True)], axis=1).astype(
        np.float32
    )


def draw_boxes(
    image: ImageLike,
    boxes: Tensor | Sequence[Sequence[float]],
    texts: Sequence[str] | None = None,
    *,
    color: str | Sequence[str] | None = None,
    truth: bool = False,
) -> Image.Image:
    """A picture with boxes on it, lines and letters in proportion to its size, edged in black.

    Detected boxes are blue and solid; true ones green and dashed, so that they can be told apart without colours.

    Parameters
    ----------
    image : tensor, array or Pillow image
        As for :func:`overlay`.
    boxes : Tensor or sequence
        (B, 4): x1, y1, x2, y2 in the image's pixels.
    texts : sequence of str, optional
        B: written above each box, or inside it at the upper edge.
    color : str or sequence of str, optional
        One for all boxes, or B of them; default blue, or green for true ones.
    truth : bool
        These are true boxes: dashed.

    Raises
    ------
    ValueError
        Texts or colours that are not B; a box that leaves the picture, or is turned inside out.
    """
    picture = _image(image)
    corners = torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4).tolist()
    color = color if color is not None else _TRUTH if truth else _BOX
    colors = [color] * len(corners) if isinstance(color, str) else list(color)
    if len(colors) != len(corners) or (texts is not None and len(texts) != len(corners)):
        given = len(colors) if texts is None else (len(colors), len(texts))
        raise ValueError(f"{len(corners)} boxes, but {given} colours or texts")
    for box in corners:
        x1, y1, x2, y2 = box
        if not (-1 <= x1 <= x2 <= picture.width + 1 and -1 <= y1 <= y2 <= picture.height + 1):
            raise ValueError(
                f"box {box} does not lie in the image of {picture.width} x {picture.height} pixels: x1 y1 x2 y2 in "
                "the pixels of this very picture are needed"
            )
    pen = ImageDraw.Draw(picture)
    side = min(picture.size)
    width = max(1, round(side / 300))
    font = ImageFont.load_default(size=max(11.0, side / 36))
    for (x1, y1, x2, y2), ink in zip(corners, colors, strict=True):
        x2, y2 = max(x2 - 1, x1), max(y2 - 1, y1)  # x2 and y2 are exclusive
        if truth:
            _dashed(pen, (x1, y1, x2, y2), ink, width)
        else:
            _solid(pen, (x1, y1, x2, y2), ink, width)
    # after all boxes, so that no line crosses a text
    for (x1, y1, _, _), ink, text in zip(corners, colors, texts or [], strict=bool(texts)):
        left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
        x = min(max(x1, 0), picture.width - right)
        y = y1 - bottom - width if y1 - bottom - width >= 0 else y1 + width
        pen.rectangle((x + left - 1, y + top - 1, x + right + 1, y + bottom + 1), fill="black")
        pen.text((x, y), text, fill=ink, font=font)
    return picture


def _solid(pen: ImageDraw.ImageDraw, box: tuple[float, float, float, float], ink: str, width: int) -> None:
    """A rectangle, edged in black."""
    x1, y1, x2, y2 = box
    pen.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline="black", width=width + 2)
    pen.rectangle(box, outline=ink, width=width)


def _dashed(pen: ImageDraw.ImageDraw, box: tuple[float, float, float, float], ink: str, width: int) -> None:
    """A rectangle of dashes, edged in black."""
    x1, y1, x2, y2 = box
    for a, b, c, d in ((x1, y1, x2, y1), (x2, y1, x2, y2), (x2, y2, x1, y2), (x1, y2, x1, y1)):
        length = max(abs(c - a), abs(d - b))
        count = max(1, round(length / (6 * width)))
        for dash in range(count):
            start, stop = dash / count, (dash + 0.6) / count
            ends = (a + (c - a) * start, b + (d - b) * start, a + (c - a) * stop, b + (d - b) * stop)
            pen.line(ends, fill="black", width=width + 2)
            pen.line(ends, fill=ink, width=width)


def fit(image: ImageLike, side: int) -> Image.Image:
    """A picture in RGB whose longer side has `side` pixels."""
    picture = _image(image)
    scale = side / max(picture.size)
    size = max(round(picture.width * scale), 1), max(round(picture.height * scale), 1)
    return picture.resize(size, Image.Resampling.BICUBIC)


def panel(
    cells: Sequence[ImageLike],
    titles: Sequence[str] | None = None,
    *,
    columns: int = 4,
    side: int = 256,
    legend: bool | Mapping[str, str] = False,
) -> Image.Image:
    """Pictures in a grid, row by row, with a title above each.

    Titles that are too long are written smaller, and then shortened in the middle.

    Parameters
    ----------
    cells : sequence
        Images or pictures, as for :func:`overlay`.
    titles : sequence of str, optional
        One for each.
    columns : int
        In a row.
    side : int
        Longer side of a picture in the grid, in pixels.
    legend : bool or mapping of str to str
        Below, what the lines of :func:`draw_boxes` mean; and the colours of further ones, by what they mean.

    Raises
    ------
    ValueError
        No cells, or titles that are not as many; no column, or pictures without a pixel.
    """
    if not cells:
        raise ValueError("cells is empty")
    if columns < 1 or side < 1:
        raise ValueError(f"columns={columns}, side={side}: at least 1 of each")
    if titles is not None and len(titles) != len(cells):
        raise ValueError(f"{len(cells)} cells, but {len(titles)} titles")
    gap, head = max(side // 40, 2), round(side / 10) if titles is not None else 0
    rows = -(-len(cells) // columns)
    height = rows * (side + head + gap) + gap
    foot = max(side // 12, 16) if legend else 0
    sheet = Image.new("RGB", (min(columns, len(cells)) * (side + gap) + gap, height + foot), "white")
    pen = ImageDraw.Draw(sheet)
    for k, cell in enumerate(cells):
        x, y = gap + k % columns * (side + gap), gap + k // columns * (side + head + gap)
        image = fit(cell, side)
        sheet.paste(image, (x + (side - image.width) // 2, y + head + (side - image.height) // 2))
        if titles is not None:
            title, font = _fitting(titles[k], side)
            pen.text((x + side / 2, y + head / 2), title, fill="black", font=font, anchor="mm")
    if legend is not False:
        colors = {} if legend is True else legend
        _legend(pen, gap, height, _legend_height(colors, foot, sheet.width - 2 * gap), colors)
    return sheet


def _fitting(text: str, side: int) -> tuple[str, ImageFont.ImageFont | ImageFont.FreeTypeFont]:
    """A title that is no wider than `side`, and its font."""
    size = max(9.0, side / 16)
    font = ImageFont.load_default(size=size)
    if font.getlength(text) > side:
        font = ImageFont.load_default(size=max(9.0, size * max(0.6, side / font.getlength(text))))
    shown = text
    for kept in range(len(text) - 1, 0, -1):
        if font.getlength(shown) <= side:
            break
        shown = f"{text[: (kept + 1) // 2]}...{text[len(text) - kept // 2 :]}"
    return shown, font


def _legend_height(colors: Mapping[str, str], height: int, width: int) -> int:
    """`height`, or less for a legend no wider than `width`."""
    font = ImageFont.load_default(size=height / 2)
    entries = ("detected", "true", *colors)
    wide = sum(height * 2.4 + font.getlength(text) for text in entries)
    return round(height * min(1.0, width / wide))


def _legend(pen: ImageDraw.ImageDraw, x: float, y: float, height: int, colors: Mapping[str, str]) -> None:
    """A solid box "detected", a dashed one "true", and `colors` by what they mean, in a strip of `height` pixels."""
    font = ImageFont.load_default(size=max(9.0, height / 2))
    width = max(1, height // 14)
    ink = "black" if colors else None
    for text, color in (("detected", ink or _BOX), ("true", ink or _TRUTH), *colors.items()):
        box = (x + width + 1, y + height * 0.2, x + height * 1.4, y + height * 0.8)
        if text in colors:
            pen.rectangle(box, fill=color)
        elif text == "true":
            _dashed(pen, box, color, width)
        else:
            _solid(pen, box, color, width)
        pen.text((x + height * 1.7, y + height / 2), text, fill="black", font=font, anchor="lm")
        x += height * 2.4 + font.getlength(text)


def save(image: Image.Image, path: str | os.PathLike[str]) -> None:
    """Write a picture; its folder is made if need be, and an interruption leaves an earlier file whole."""
    with replacing(path) as scratch:
        image.save(scratch)


def _image(image: ImageLike) -> Image.Image:
    """A new RGB image of any of the accepted kinds."""
    if isinstance(image, Image.Image):
        from thoraxlib.images.pictures import is_deep, upright
        from thoraxlib.images.reading import read

        if not is_deep(image):
            return upright(image).convert("RGB")
        image = read(image)
    array = image.detach().cpu().numpy() if isinstance(image, Tensor) else np.asarray(image)
    if array.ndim == 3 and array.shape[0] in (1, 3) and array.shape[2] not in (1, 3):
        array = array.transpose(1, 2, 0)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3):
        raise ValueError(f"an image must be (H, W), (1, H, W), (3, H, W) or (H, W, 3), got {array.shape}")
    if np.issubdtype(array.dtype, np.floating):
        if not (np.isfinite(array).all() and array.min(initial=0) >= 0 and array.max(initial=0) <= 1):
            raise ValueError("floating-point pixels must be in [0, 1]; show the image, not the normalised model input")
        array = (array * 255).round().astype(np.uint8)
    if array.dtype != np.uint8:
        raise TypeError(f"pixels must be uint8 or floating point in [0, 1], got {array.dtype}")
    return Image.fromarray(array).convert("RGB")
