"""What a compressed picture says of itself, read without decoding it: JPEG, JPEG lossless, JPEG-LS, JPEG 2000."""

from __future__ import annotations

import struct
from typing import NamedTuple

_FRAMES = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}  # the SOF markers, and JPEG-LS's
_PIXELS = 0xDA
_END = b"\xff\xd9"
_BOXED, _START = b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51"  # JPEG 2000 in a JP2 file, as some writers have it


class Header(NamedTuple):
    """Size of a picture, bits of a value, and channels."""

    height: int
    width: int
    bits: int
    channels: int


def header(picture: bytes) -> Header | None:
    """The header of a picture in one of the JPEG formats; None for anything else.

    Raises
    ------
    ValueError
        The picture has no such header, or no end: it is cut off.

    Examples
    --------
    >>> header(bytes.fromhex("ffd8 ffc3 000b 0c 0028 0019 01 011100 ffda 0008 ffd9"))
    Header(height=40, width=25, bits=12, channels=1)
    """
    if picture.startswith(_BOXED):
        picture = picture[max(picture.find(_START), 0) :]
    if picture[:2] not in (b"\xff\xd8", b"\xff\x4f"):
        return None
    if _END not in picture[-64:]:  # some writers pad after it
        raise ValueError("the compressed picture is cut off: it has no end")
    try:
        return _of_jpeg(picture) if picture[1] == 0xD8 else _of_jpeg_2000(picture)
    except (struct.error, IndexError) as error:
        raise ValueError("the compressed picture has no whole header") from error


def _of_jpeg(picture: bytes) -> Header:
    found, position = None, 2
    while picture[position] == 0xFF:  # on to the pixels: decoders may not survive a broken chain of segments
        marker, length = struct.unpack_from(">xBH", picture, position)
        if marker == _PIXELS and found is not None:
            return found
        if marker in _FRAMES:
            bits, height, width, channels = struct.unpack_from(">BHHB", picture, position + 4)
            found = Header(height, width, bits, channels)
        position += 1 if marker == 0xFF else 2 + length  # a marker may have 0xFF before it
    raise IndexError


def _of_jpeg_2000(picture: bytes) -> Header:
    marker, right, bottom, left, top, channels, depth = struct.unpack_from(">2xH4x4I16xHB", picture)
    if marker != 0xFF51:
        raise IndexError
    return Header(bottom - top, right - left, (depth & 127) + 1, channels)
