"""Headers of compressed images, read without decoding: JPEG, JPEG lossless, JPEG-LS and JPEG 2000."""

from __future__ import annotations

import struct
from typing import NamedTuple

_FRAMES = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}  # markers SOF, and SOF of JPEG-LS
_PIXELS = 0xDA
_END = b"\xff\xd9"
_BOXED, _START = b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51"  # some writers store JPEG 2000 as a JP2 file


class Header(NamedTuple):
    """Size of an image in pixels, bits of a value, and number of channels."""

    height: int
    width: int
    bits: int
    channels: int


def header(image: bytes) -> Header | None:
    """Return the header of an image in one of the JPEG formats; None for other data.

    Raises
    ------
    ValueError
        The header is damaged, or the image is cut off.

    Examples
    --------
    >>> header(bytes.fromhex("ffd8 ffc3 000b 0c 0028 0019 01 011100 ffda 0008 ffd9"))
    Header(height=40, width=25, bits=12, channels=1)
    """
    if image.startswith(_BOXED):
        image = image[max(image.find(_START), 0) :]
    if image[:2] not in (b"\xff\xd8", b"\xff\x4f"):
        return None
    if _END not in image[-64:]:  # some writers pad after it
        raise ValueError("the compressed image is cut off: it has no end")
    try:
        return _of_jpeg(image) if image[1] == 0xD8 else _of_jpeg_2000(image)
    except (struct.error, IndexError) as error:
        raise ValueError("the compressed image has no whole header") from error


def _of_jpeg(image: bytes) -> Header:
    frame, position = None, 2
    while image[position] == 0xFF:  # up to the pixels: a broken chain of segments may crash a decoder
        marker, length = struct.unpack_from(">xBH", image, position)
        if marker == _PIXELS and frame is not None:
            return frame
        if marker in _FRAMES:
            bits, height, width, channels = struct.unpack_from(">BHHB", image, position + 4)
            frame = Header(height, width, bits, channels)
        position += 1 if marker == 0xFF else 2 + length  # a marker may have 0xFF before it
    raise IndexError


def _of_jpeg_2000(image: bytes) -> Header:
    marker, right, bottom, left, top, channels, depth = struct.unpack_from(">2xH4x4I16xHB", image)
    if marker != 0xFF51:
        raise IndexError
    return Header(bottom - top, right - left, (depth & 127) + 1, channels)
