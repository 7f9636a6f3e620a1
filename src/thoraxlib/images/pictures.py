"""Files of pictures, opened with Pillow: chosen formats, in whole depth, as a viewer turns them."""

from __future__ import annotations

import errno
import re
import sys
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, UnidentifiedImageError
from PIL import Image as PILImage

from thoraxlib.images.codestream import header

#: Pillow's names of the formats that are read, all decoded within this process; JPEG includes cameras' MPO.
FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "PPM", "WEBP", "JPEG2000")

_ODD_TIFF = "TIFF with pixels of a kind that Pillow does not read"
_KINDS = {
    b"%!PS": "PostScript",
    b"\xc5\xd0\xd3\xc6": "PostScript",
    b"%PDF": "PDF",
    b"II*\0": _ODD_TIFF,
    b"MM\0*": _ODD_TIFF,
    b"\x89HDF": "HDF5",
    b"SIMPLE": "FITS",
    b"PK\x03\x04": "a zip archive",
    b"\x1f\x8b": "packed by gzip",
    b"<": "HTML or XML",
    b"version https://git-lfs": "a pointer of Git LFS, whose file was not fetched",
    b"\x93NUMPY": "a NumPy array",
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
_SWAPPED = re.compile(r"B[FS]$")  # deep big-endian values, which libtiff gives in this machine's order
_DEEP = re.compile(r"(RGB|RGBA|RGBX);16([BLN])")


class Pixels(NamedTuple):
    """The grey or colours of a picture.

    Attributes
    ----------
    values : ndarray
        (H, W) or (H, W, 3): uint8, uint16, or float32 for floating-point files.
    inverted : bool
        The least value is white.
    """

    values: NDArray[Any]
    inverted: bool


def read_pixels(file: BinaryIO, path: Path) -> Pixels:
    """The pixels of a picture, in the depth that the file has, turned as its orientation says.

    Raises
    ------
    ValueError
        As :func:`decode`; colours of more than 8 bits that Pillow does not give in whole depth.
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
    """The whole picture as Pillow has it, turned as its orientation says; of several pictures in a file the first.

    Raises
    ------
    ValueError
        Naming the file: it has none of the :data:`FORMATS`, is damaged, larger than Pillow's limit, or has colours of
        more than 8 bits.
    MemoryError, OSError
        Memory is short, or the disk fails.
    """
    image = _opened(file, path)
    if _is_narrowed(image, file, path):
        raise ValueError(f"{path} has colours of more than 8 bits")
    _load(image, path)
    return upright(image)


def size_of(file: BinaryIO, path: Path) -> tuple[int, int]:
    """(H, W) of what :func:`decode` gives, from the header.

    Raises
    ------
    ValueError
        Naming the file: it has none of the :data:`FORMATS`, or is larger than Pillow's limit.
    """
    image = _opened(file, path)
    tags = getattr(image, "tag_v2", None)  # whether Pillow has turned the size of a TIFF depends on its version
    width, height = image.size if tags is None else (tags[_WIDTH], tags[_HEIGHT])
    if width == height:
        return height, width
    if image.format == "PNG" and _says_more_at_its_end(file):
        _load(image, path)
    return (width, height) if _orientation(image) >= 5 else (height, width)


def pixels_of(image: PILImage.Image) -> Pixels:
    """The pixels of a picture of Pillow's, turned as its orientation says, if it still has one.

    Raises
    ------
    ValueError
        32-bit pixels that 16 bits do not hold.
    """
    image.load()
    tags = getattr(image, "tag_v2", {})
    inverted = is_deep(image) and tags.get(_PHOTOMETRIC) == 0  # Pillow itself inverts such pixels of 8 bits and less
    image = upright(image)
    if image.mode.startswith("I;16"):
        values = np.array(image).astype(np.uint16)  # also brings big-endian modes to native order
    elif image.mode == "I":  # 32 bits in memory: what some Pillow versions make of a 16-bit PNG
        wide = np.array(image)
        if wide.size and (wide.min() < 0 or wide.max() > 65535):
            raise ValueError(f"32-bit pixels must lie in 0 ... 65535, got {wide.min()} ... {wide.max()}")
        values = wide.astype(np.uint16)
    elif image.mode in ("F", "L"):
        values = np.array(image)
    else:
        values = np.array(image.convert("RGB").convert("L"))
    return Pixels(values, inverted)


def _opened(file: BinaryIO, path: Path) -> Any:
    """The picture, of which no pixel is read yet."""
    try:
        image = PILImage.open(file, formats=FORMATS)
    except Exception as error:
        raise _told(error, file, path) from error
    if image.format == "TIFF":
        _check_tiff(image, path)
    return image


def _check_tiff(image: Any, path: Path) -> None:
    if any(tile[0] == "libtiff" and _SWAPPED.search(str(tile[3][0])) for tile in image.tile):
        raise ValueError(f"{path} is no image that Pillow can read here: it is {_ODD_TIFF}")
    width, height = (image.tag_v2.get(tag, 1) for tag in (_TILE_WIDTH, _TILE_HEIGHT))
    limit = PILImage.MAX_IMAGE_PIXELS  # a tile is decoded whole, whatever the size of the picture
    if limit is not None and isinstance(width, int) and isinstance(height, int) and width * height > 2 * limit:
        raise ValueError(f"{path} is too large: it has tiles of {width} x {height} pixels")


def _load(image: PILImage.Image, path: Path) -> None:
    try:
        image.load()
    except Exception as error:
        raise _told(error, None, path) from error


def _told(error: Exception, file: BinaryIO | None, path: Path) -> Exception:
    """The error that says what is wrong with the file; memory and disk are not its fault."""
    # a damaged file can send Pillow to where no file reaches, which is EINVAL
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno not in (None, errno.EINVAL)):
        return error
    if isinstance(error, UnidentifiedImageError) and file is not None:
        file.seek(0)
        start = file.read(32)
        kind = next((kind for magic, kind in _KINDS.items() if start.startswith(magic)), None)
        return ValueError(
            f"{path} is no image that Pillow can read here ({', '.join(FORMATS)}): it is "
            f"{kind or 'empty, truncated or of another kind'}"
        )
    if isinstance(error, PILImage.DecompressionBombError):
        return ValueError(f"{path} is too large ({error}); raise PIL.Image.MAX_IMAGE_PIXELS if it is meant")
    return ValueError(f"{path} is truncated or corrupt: {error}")  # Pillow's plug-ins raise many kinds


def is_deep(image: PILImage.Image) -> bool:
    """Whether Pillow has one channel of more than 8 bits of the picture."""
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def upright(image: PILImage.Image) -> PILImage.Image:
    """The picture as a viewer turns it; the same one, if it says nothing of its orientation."""
    image.load()
    turn = _TURNS.get(_orientation(image))
    return image if turn is None else image.transpose(turn)


def _orientation(image: PILImage.Image) -> int:
    """1 to 8 as EXIF counts them; 1 where there is none, or none that can be read: viewers ignore it too."""
    try:
        # not PNG's own, which would load the pixels
        orientation = PILImage.Image.getexif(image).get(ExifTags.Base.Orientation)
    except Exception:  # EXIF is a TIFF of its own, and may be damaged as one
        return 1
    return orientation if isinstance(orientation, int) and orientation in _TURNS else 1


def _says_more_at_its_end(file: BinaryIO) -> bool:
    """Whether a PNG file has text or EXIF after its pixels, which Pillow sees when it has read these."""
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
    """Whether several channels have more bits than the 8 that Pillow leaves of them."""
    if len(image.getbands()) == 1 or not image.tile:
        return False
    if image.format == "TIFF":
        return bool(max(image.tag_v2.get(_BITS, (1,))) > 8)
    if image.format == "JPEG2000":
        file.seek(0)
        try:
            found = header(file.read())
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        return found is not None and found.bits > 8
    args = image.tile[0][3]
    if image.format == "PPM":
        return isinstance(args, tuple) and isinstance(args[1], int) and args[1] > 255
    return ";16" in str(args)


def _deep(tile: Any) -> tuple[str, str]:
    """The channels and the order of bytes of a 16-bit tile, as :data:`_DEEP`; ("", "") for others."""
    args = tile[3]
    found = _DEEP.fullmatch(args if isinstance(args, str) else str(args[0]))
    return (found[1], found[2]) if found else ("", "")


def _bytes(file: BinaryIO, path: Path, byte: int) -> NDArray[np.uint8]:
    """The first or second byte of each 16-bit value, (H, W) or (H, W, 3): Pillow's decoders keep the one asked for."""
    image = _opened(file, path)
    tiles = []
    for tile in image.tile:
        args, channels = tile[3], _deep(tile)[0]
        if getattr(image, "tag_v2", {}).get(_PLANAR) == 2:  # Pillow gives one of the bytes, whichever is asked for
            channels = ""
        if args == "LA;16B":
            mode = ("LA;16B", "ARGB")[byte]  # the second takes the four bytes as alpha, red, green, blue
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
