"""Draw heat maps over images, boxes and panels with Pillow."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageColor, ImageDraw, ImageFilter, ImageFont
from torch import Tensor

from thoraxlib.utils.files import replacing

ImageLike: TypeAlias = Tensor | NDArray[np.generic] | Image.Image

# Sky blue of Okabe and Ito's palette for colour-blind readers; a green that is distinct from the heat map's colours.
_BOX, _TRUTH = "#56b4e9", "#2ee6a8"
_OUTLINE = "#f0e442"  # that palette's yellow
# Dark to light through purple and orange: lightness rises steadily, so that it can be read in grey as well.
_HEAT = ("#000004", "#280b54", "#65156e", "#9f2a63", "#d44842", "#f57d15", "#fac127", "#fcffa4")


def overlay(image: ImageLike, heat: ImageLike, *, alpha: float = 0.6) -> Image.Image:
    """Draw a heat map over an image; pixels without heat keep their contrast.

    Parameters
    ----------
    image : tensor, array or Pillow image
        uint8, or floating point in [0, 1]; (H, W), (1, H, W), (3, H, W) or (H, W, 3).
    heat : tensor or array
        (h, w), any range of values: resized to the image (bilinear) and stretched to [0, 1]. A constant map is
        invisible.
    alpha : float
        Opacity of the highest value, 0 to 1.

    Returns
    -------
    PIL.Image.Image
        RGB, of the image's size.

    Raises
    ------
    TypeError, ValueError
        Pixels or shapes other than these; `alpha` outside its range.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha={alpha}: from 0 to 1")
    picture = _image(image)
    values = torch.as_tensor(np.asarray(heat.detach().cpu() if isinstance(heat, Tensor) else heat)).float()
    if values.ndim != 2 or not values.numel():
        raise ValueError(f"heat must be (h, w), with at least one pixel, got {tuple(values.shape)}")
    if not (values.max() - values.min()).isfinite():
        raise ValueError("heat holds NaN or infinite values, or too large a range")
    from thoraxlib.localization.maps import normalize, upsample

    level = normalize(upsample(values[None, None], (picture.height, picture.width)))[0, 0].numpy()
    colour = _colours()[(level * 255).round().astype(np.intp)]
    opacity = (alpha * level)[..., None]
    mixed = (1 - opacity) * np.asarray(picture, np.float32) + opacity * colour
    return Image.fromarray(mixed.round().astype(np.uint8))


@cache
def _colours() -> NDArray[np.float32]:
    colours = np.array([ImageColor.getrgb(colour) for colour in _HEAT]).T
    steps = np.linspace(0, 255, len(_HEAT))
    return np.stack([np.interp(np.arange(256), steps, channel) for channel in colours], axis=1).astype(np.float32)


def draw_boxes(
    image: ImageLike,
    boxes: Tensor | Sequence[Sequence[float]],
    texts: Sequence[str] | None = None,
    *,
    color: str | Sequence[str] | None = None,
    truth: bool = False,
) -> Image.Image:
    """Draw boxes on an image; lines and letters scale with its size and have a black edge.

    Detected boxes are blue and solid. True boxes are green and dashed, so that they differ also without colours.

    Parameters
    ----------
    image : tensor, array or Pillow image
        As for :func:`overlay`.
    boxes : Tensor or sequence
        (B, 4): x1, y1, x2, y2 in the image's pixels.
    texts : sequence of str, optional
        B texts, written above each box, or inside it at the upper edge.
    color : str or sequence of str, optional
        One for all boxes, or B colours; default blue, or green for true boxes.
    truth : bool
        Draw true boxes, dashed.

    Raises
    ------
    ValueError
        Another number of texts or colours than of boxes; a box that leaves the image, or whose x2 < x1 or y2 < y1.
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
                "the pixels of this image are needed"
            )
    pen = ImageDraw.Draw(picture)
    side = min(picture.size)
    width = max(1, round(side / 300))
    font = ImageFont.load_default(size=max(11.0, side / 36))
    for (x1, y1, x2, y2), ink in zip(corners, colors, strict=True):
        x2, y2 = max(x2 - 1, x1), max(y2 - 1, y1)  # x2 and y2 are exclusive
        (_dashed if truth else _solid)(pen, (x1, y1, x2, y2), ink, width)
    # after all boxes, so that no line crosses a text
    for (x1, y1, _, _), ink, text in zip(corners, colors, texts or [], strict=bool(texts)):
        left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
        x = min(max(x1, 0), picture.width - right)
        y = y1 - bottom - width if y1 - bottom - width >= 0 else y1 + width
        pen.rectangle((x + left - 1, y + top - 1, x + right + 1, y + bottom + 1), fill="black")
        pen.text((x, y), text, fill=ink, font=font)
    return picture


def _solid(pen: ImageDraw.ImageDraw, box: tuple[float, float, float, float], ink: str, width: int) -> None:
    """Draw a rectangle with a black edge."""
    x1, y1, x2, y2 = box
    pen.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline="black", width=width + 2)
    pen.rectangle(box, outline=ink, width=width)


def _dashed(pen: ImageDraw.ImageDraw, box: tuple[float, float, float, float], ink: str, width: int) -> None:
    """Draw a dashed rectangle with a black edge."""
    x1, y1, x2, y2 = box
    for a, b, c, d in ((x1, y1, x2, y1), (x2, y1, x2, y2), (x2, y2, x1, y2), (x1, y2, x1, y1)):
        length = max(abs(c - a), abs(d - b))
        count = max(1, round(length / (6 * width)))
        for dash in range(count):
            start, stop = dash / count, (dash + 0.6) / count
            ends = (a + (c - a) * start, b + (d - b) * start, a + (c - a) * stop, b + (d - b) * stop)
            pen.line(ends, fill="black", width=width + 2)
            pen.line(ends, fill=ink, width=width)


def outline(image: ImageLike, mask: ImageLike, *, color: str = _OUTLINE) -> Image.Image:
    """Draw the edge of a mask on an image; the line lies inside the mask.

    Parameters
    ----------
    image : tensor, array or Pillow image
        As for :func:`overlay`.
    mask : tensor or array
        (h, w), 0 or False outside: resized to the image by nearest neighbours.
    color : str
        Colour of the line.

    Raises
    ------
    ValueError
        A mask that is not (h, w), or has no pixel.
    """
    picture = _image(image)
    inside = np.asarray(mask.detach().cpu() if isinstance(mask, Tensor) else mask) != 0
    if inside.ndim != 2 or not inside.size:
        raise ValueError(f"mask must be (h, w), with at least one pixel, got {inside.shape}")
    shape = Image.fromarray(inside.astype(np.uint8) * 255).resize(picture.size, Image.Resampling.NEAREST)
    core = shape
    for _ in range(max(1, round(min(picture.size) / 250))):
        core = core.filter(ImageFilter.MinFilter(3))
    picture.paste(color, mask=ImageChops.subtract(shape, core))
    return picture


def fit(image: ImageLike, side: int) -> Image.Image:
    """Resize an image so that its longer side has `side` pixels: RGB."""
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
    """Arrange images in a grid, row by row, with a title above each.

    Titles that are too long get a smaller font, and are then shortened in the middle.

    Parameters
    ----------
    cells : sequence
        Images, as for :func:`overlay`.
    titles : sequence of str, optional
        One title for each image.
    columns : int
        Images in a row.
    side : int
        Longer side of an image in the grid, in pixels.
    legend : bool or mapping of str to str
        Add a legend of the boxes of :func:`draw_boxes` below; a mapping adds entries, from text to colour.

    Raises
    ------
    ValueError
        No images; another number of titles; `columns` or `side` below 1.
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
        _legend(pen, gap, height, foot, sheet.width - 2 * gap, {} if legend is True else legend)
    return sheet


def _fitting(text: str, side: int) -> tuple[str, ImageFont.ImageFont | ImageFont.FreeTypeFont]:
    """Shorten a title to `side` pixels; return it with its font."""
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


def _legend(pen: ImageDraw.ImageDraw, x: float, y: float, height: int, wide: int, colors: Mapping[str, str]) -> None:
    """Draw a solid box "detected", a dashed box "true", and `colors`, in at most `wide` times `height` pixels."""
    ink = "black" if colors else None
    entries = (("detected", ink or _BOX), ("true", ink or _TRUTH), *colors.items())
    font = ImageFont.load_default(size=height / 2)
    length = sum(height * 2.4 + font.getlength(text) for text, _ in entries)
    height = round(height * min(1.0, wide / length))
    font = ImageFont.load_default(size=max(9.0, height / 2))
    width = max(1, height // 14)
    for text, color in entries:
        box = (x + width + 1, y + height * 0.2, x + height * 1.4, y + height * 0.8)
        if text in colors:
            pen.rectangle(box, fill=color)
        else:
            (_dashed if text == "true" else _solid)(pen, box, color, width)
        pen.text((x + height * 1.7, y + height / 2), text, fill="black", font=font, anchor="lm")
        x += height * 2.4 + font.getlength(text)


def save(image: Image.Image, path: str | os.PathLike[str]) -> None:
    """Write an image atomically; its folder is created if needed."""
    with replacing(path) as scratch:
        image.save(scratch)


def _image(image: ImageLike) -> Image.Image:
    """Convert an image of any accepted type to a new RGB image."""
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
