"""Read image files with Pillow (selected formats, in full depth, upright), and headers of JPEG without decoding."""

from __future__ import annotations

import errno
import re
import struct
import sys
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, UnidentifiedImageError
from PIL import Image as PILImage

#: Pillow's names of the accepted formats, all decoded within this process; JPEG includes the MPO of cameras.
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "PPM", "WEBP", "JPEG2000")

_ODD_TIFF = "TIFF with pixels of a kind that Pillow does not read"
_KINDS: dict[str, bytes | tuple[bytes, ...]] = {
    "PostScript": (b"%!PS", b"\xc5\xd0\xd3\xc6"),
    "PDF": b"%PDF",
    _ODD_TIFF: (b"II*\0", b"MM\0*"),
    "HDF5": b"\x89HDF",
    "FITS": b"SIMPLE",
    "a zip archive": b"PK\x03\x04",
    "packed by gzip": b"\x1f\x8b",
    "HTML or XML": b"<",
    "a pointer of Git LFS, whose file was not fetched": b"version https://git-lfs",
    "a NumPy array": b"\x93NUMPY",
}
_TURNS = {
    2: PILImage.Transpose.FLIP_LEFT_RIGHT,
    3: PILImage.Transpose.ROTATE_180,
    4: PILImage.Transpose.FLIP_TOP_BOTTOM,
    5: PILImage.Transpose.TRANSPOSE,
    6: PILImage.Transpose.ROTATE_270,
    7: PILImage.Transpose.TRANSVERSE,
    8: PILImage.Transpose.ROTATE_90,
}
_WIDTH, _HEIGHT, _BITS, _PHOTOMETRIC, _PLANAR, _TILE_WIDTH, _TILE_HEIGHT = 256, 257, 258, 262, 284, 322, 323  # of TIFF
_SWAPPED = re.compile(r"B[FS]$")  # deep big-endian values, which libtiff returns in native order
_DEEP = re.compile(r"(RGB|RGBA|RGBX);16([BLN])")
_FRAMES = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}  # markers SOF, and SOF of JPEG-LS
_SCAN = 0xDA
_JPEG_END = b"\xff\xd9"
_JP2, _J2K = b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51"  # some writers store JPEG 2000 as a JP2 file


class Pixels(NamedTuple):
    """Pixels of an image, grey or colour.

    Attributes
    ----------
    values : ndarray
        (H, W) or (H, W, 3): uint8, uint16, or float32 for floating-point files.
    inverted : bool
        The lowest value is white.
    """

    values: NDArray[Any]
    inverted: bool


def read_pixels(file: BinaryIO, path: Path) -> Pixels:
    """Read the pixels of an image file in the file's own depth, upright.

    Raises
    ------
    ValueError
        As :func:`decode`; or the colours have more than 8 bits and Pillow cannot read them in full depth.
    """
    image = _opened(file, path)
    if not _is_narrowed(image, file, path):
        _load(image, path)
        try:
            return pixels_of(image)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    first, second = (_bytes(file, path, byte) for byte in (0, 1))
    order = _deep(image.tile[0])[1] or "B"
    big_endian = order == "B" or (order == "N" and sys.byteorder == "big")
    high, low = (first, second) if big_endian else (second, first)
    return Pixels(high.astype(np.uint16) << 8 | low, inverted=False)


def decode(file: BinaryIO, path: Path) -> PILImage.Image:
    """Decode the first image of a file with Pillow, upright.

    Raises
    ------
    ValueError
        The file has none of the :data:`FORMATS`, is damaged, larger than Pillow's limit, or has colours of more than 8
        bits. The message names the file.
    MemoryError, OSError
        Memory is short, or the disk fails.
    """
    image = _opened(file, path)
    if _is_narrowed(image, file, path):
        raise ValueError(f"{path} has colours of more than 8 bits")
    _load(image, path)
    return upright(image)


def size_of(file: BinaryIO, path: Path) -> tuple[int, int]:
    """Read (H, W) of the upright image from the header.

    Raises
    ------
    ValueError
        The file has none of the :data:`FORMATS`, or is larger than Pillow's limit. The message names the file.
    """
    image = _opened(file, path)
    tags = getattr(image, "tag_v2", None)  # some versions of Pillow turn image.size of a TIFF, others do not
    width, height = image.size if tags is None else (tags[_WIDTH], tags[_HEIGHT])
    if width == height:
        return height, width
    if image.format == "PNG" and _has_late_text(file):
        _load(image, path)
    return (width, height) if _orientation(image) >= 5 else (height, width)


def pixels_of(image: PILImage.Image) -> Pixels:
    """Return the pixels of a Pillow image, upright.

    Raises
    ------
    ValueError
        32-bit pixels do not fit into 16 bits.
    """
    image.load()
    tags = getattr(image, "tag_v2", {})
    inverted = is_deep(image) and tags.get(_PHOTOMETRIC) == 0  # Pillow inverts pixels of up to 8 bits itself
    image = upright(image)
    if image.mode.startswith("I;16"):
        values = np.array(image).astype(np.uint16)  # converts big-endian modes to native order
    elif image.mode == "I":  # 32 bits: some versions of Pillow open a 16-bit PNG so
        values = np.array(image)
        if values.size and (values.min() < 0 or values.max() > 65535):
            raise ValueError(f"32-bit pixels must lie in 0 ... 65535, got {values.min()} ... {values.max()}")
        values = values.astype(np.uint16)
    elif image.mode in ("F", "L"):
        values = np.array(image)
    else:
        values = np.array(image.convert("RGB").convert("L"))
    return Pixels(values, inverted)


def _opened(file: BinaryIO, path: Path) -> Any:
    """Open an image without reading pixels; raise ValueError for TIFF files that Pillow would misread."""
    try:
        image: Any = PILImage.open(file, formats=FORMATS)
    except Exception as error:
        raise _explained(error, file, path) from error
    if image.format != "TIFF":
        return image
    if any(tile[0] == "libtiff" and _SWAPPED.search(str(tile[3][0])) for tile in image.tile):
        raise ValueError(f"{path} is no image that Pillow can read here: it is {_ODD_TIFF}")
    width, height = (image.tag_v2.get(tag, 1) for tag in (_TILE_WIDTH, _TILE_HEIGHT))
    limit = PILImage.MAX_IMAGE_PIXELS  # a tile is decoded as a whole, whatever the size of the image
    if limit is not None and isinstance(width, int) and isinstance(height, int) and width * height > 2 * limit:
        raise ValueError(f"{path} is too large: it has tiles of {width} x {height} pixels")
    return image


def _load(image: PILImage.Image, path: Path) -> None:
    try:
        image.load()
    except Exception as error:
        raise _explained(error, None, path) from error


def _explained(error: Exception, file: BinaryIO | None, path: Path) -> Exception:
    """Turn an error of Pillow into a ValueError that names the file; keep errors of memory and disk."""
    # a damaged file can make Pillow seek outside of the file, which is EINVAL
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno not in (None, errno.EINVAL)):
        return error
    if isinstance(error, UnidentifiedImageError) and file is not None:
        file.seek(0)
        start, other = file.read(32), "empty, truncated or of another kind"
        kind = next((kind for kind, starts in _KINDS.items() if start.startswith(starts)), other)
        return ValueError(f"{path} is no image that Pillow can read here ({', '.join(FORMATS)}): it is {kind}")
    if isinstance(error, PILImage.DecompressionBombError):
        return ValueError(f"{path} is too large ({error}); raise PIL.Image.MAX_IMAGE_PIXELS if it is meant")
    return ValueError(f"{path} is truncated or corrupt: {error}")  # Pillow's plug-ins raise many kinds


def is_deep(image: PILImage.Image) -> bool:
    """Return True if a Pillow image has one channel of more than 8 bits."""
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def upright(image: PILImage.Image) -> PILImage.Image:
    """Turn an image as its EXIF or TIFF orientation says; without orientation, return it unchanged."""
    image.load()
    turn = _TURNS.get(_orientation(image))
    return image if turn is None else image.transpose(turn)


def _orientation(image: PILImage.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1 if it is absent or unreadable, as in image viewers."""
    try:
        # not PNG's own, which would load the pixels
        orientation = PILImage.Image.getexif(image).get(ExifTags.Base.Orientation)
    except Exception:  # EXIF has the structure of a TIFF file, and may be damaged
        return 1
    return orientation if isinstance(orientation, int) and orientation in _TURNS else 1


def _has_late_text(file: BinaryIO) -> bool:
    """Return True if a PNG file has text or EXIF after its pixels, which Pillow reads only after them."""
    position, after_pixels = 8, False
    while True:
        file.seek(position)
        start = file.read(8)
        length, kind = int.from_bytes(start[:4], "big"), start[4:]
        if len(start) < 8 or kind == b"IEND":
            return False
        if after_pixels and kind in (b"eXIf", b"tEXt", b"zTXt", b"iTXt"):
            return True
        after_pixels |= kind == b"IDAT"
        position += 12 + length


def _is_narrowed(image: Any, file: BinaryIO, path: Path) -> bool:
    """Return True if there are several channels of more than 8 bits, which Pillow reduces to 8 bits."""
    if len(image.getbands()) == 1 or not image.tile:
        return False
    if image.format == "TIFF":
        return bool(max(image.tag_v2.get(_BITS, (1,))) > 8)
    if image.format == "JPEG2000":
        file.seek(0)
        try:
            head = header(file.read())
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        return head is not None and head.bits > 8
    args = image.tile[0][3]
    if image.format == "PPM":
        return isinstance(args, tuple) and isinstance(args[1], int) and args[1] > 255
    return ";16" in str(args)


def _deep(tile: Any) -> tuple[str, str]:
    """Channels and byte order of a 16-bit tile, such as ("RGB", "B"); ("", "") for other tiles."""
    args = tile[3]
    match = _DEEP.fullmatch(args if isinstance(args, str) else str(args[0]))
    return (match[1], match[2]) if match else ("", "")


def _bytes(file: BinaryIO, path: Path, byte: int) -> NDArray[np.uint8]:
    """Read the first or second byte of each 16-bit value, (H, W) or (H, W, 3), which Pillow's decoders select."""
    image = _opened(file, path)
    tiles = []
    for tile in image.tile:
        args, channels = tile[3], _deep(tile)[0]
        if getattr(image, "tag_v2", {}).get(_PLANAR) == 2:  # planar: Pillow returns the same byte for both modes
            channels = ""
        if args == "LA;16B":
            mode = ("LA;16B", "ARGB")[byte]  # the second mode reads the four bytes as alpha, red, green, blue
        elif channels:
            mode = f"{channels};16{'BL'[byte]}"
        else:
            raise ValueError(f"{path} has colours of more than 8 bits, in a form that is not read")
        changed = mode if isinstance(args, str) else (mode, *args[1:])
        tiles.append(getattr(tile, "_make", tuple)((*tile[:3], changed)))
    image.tile = tiles
    _load(image, path)
    values: NDArray[np.uint8] = np.array(upright(image))
    return values[..., 0] if args == "LA;16B" else values[..., :3]


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
    if image.startswith(_JP2):
        image = image[max(image.find(_J2K), 0) :]
    if image[:2] not in (b"\xff\xd8", b"\xff\x4f"):
        return None
    if _JPEG_END not in image[-64:]:  # some writers pad after it
        raise ValueError("the compressed image is cut off: it has no end")
    try:
        return _of_jpeg(image) if image[1] == 0xD8 else _of_jpeg_2000(image)
    except (struct.error, IndexError) as error:
        raise ValueError("the compressed image has no whole header") from error


def _of_jpeg(image: bytes) -> Header:
    frame, position = None, 2
    while image[position] == 0xFF:  # up to the pixels: a broken chain of segments may crash a decoder
        marker, length = struct.unpack_from(">xBH", image, position)
        if marker == _SCAN and frame is not None:
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
