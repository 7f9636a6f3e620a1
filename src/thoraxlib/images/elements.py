"""Elements of a DICOM data set: those that are asked for, found within bounds and without looking into the others.

pydicom reads and converts all that a file holds, at any depth, and quotes it in errors and warnings. Files here may be
hostile, and their texts are of patients: this reader takes a list of tags, skips everything else unread, counts its
steps, and puts no value into a message.
"""

from __future__ import annotations

import functools
import struct
import zlib
from typing import BinaryIO, NamedTuple

from PIL import Image as PILImage

_START = 132
_DEFLATED = "1.2.840.10008.1.2.1.99"
_BIG_ENDIAN = "1.2.840.10008.1.2.2"
_EXPLICIT, _IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"

_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_PIXELS = 0x7FE00010

_LONG = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
_SHORT = frozenset(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())
_BINARY = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "FL": "f", "FD": "d"}

_MOST_STEPS = 100_000  # elements and items, at all depths that are walked through
_MOST_BYTES = 1 << 26  # beside the pixels
_LONGEST = 4096  # bytes of a number or text

_HEADER = (
    *("SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames", "Rows", "Columns"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit"),
    *("WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence"),
    *("RescaleIntercept", "RescaleSlope", "ModalityLUTSequence"),
    *("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio", "PatientOrientation"),
    "PixelData",
)
_TABLE = ("LUTDescriptor", "LUTData")


class _Element(NamedTuple):
    vr: str
    start: int
    stop: int


def is_dicom(head: bytes) -> bool:
    """Whether a file that begins with `head`, at least its first 132 bytes, may be DICOM.

    Either the prefix is at its place, or a data set without preamble and file meta information begins at once: with
    group 8 (or 2), in explicit or implicit VR.
    """
    if head[128:_START] == b"DICM":
        return True
    if len(head) < 8:
        return False
    little = head[0] != 0
    group, element = struct.unpack_from("<HH" if little else ">HH", head)
    if group not in (2, 8) or element > 0x1FF:
        return False
    if head[4:6] in _LONG | _SHORT:
        return True
    return little and struct.unpack_from("<I", head, 4)[0] <= _LONGEST


def parse(stream: BinaryIO) -> DataSet:
    """The data set of a DICOM file, from its first byte on.

    Raises
    ------
    ValueError
        It is no DICOM file, is cut off within an element, or has more elements or bytes than are read.
    """
    begin = stream.tell()
    head = _read(stream, _START)
    if not is_dicom(head):
        raise ValueError("it has neither the prefix DICM nor a data set at its start")
    limit = PILImage.MAX_IMAGE_PIXELS
    most = None if limit is None else _MOST_BYTES + 4 * limit
    stream.seek(begin)
    content = _read(stream, None if most is None else most + 1)
    start, syntax = _file_meta(content, _START if head[128:] == b"DICM" else 0)
    if syntax == _DEFLATED:
        content, start = _inflated(content[start:], most), 0
    if most is not None and len(content) > most:
        raise ValueError(f"it is longer than {most} bytes; raise PIL.Image.MAX_IMAGE_PIXELS if it is meant")
    little = syntax != _BIG_ENDIAN
    if not syntax:
        little = content[start : start + 1] != b"\0"
        explicit = content[start + 4 : start + 6] in _LONG | _SHORT
        syntax = (_EXPLICIT if explicit else _IMPLICIT) if little else _BIG_ENDIAN
    return DataSet(content, start, len(content), little, _HEADER, syntax)


class DataSet:
    """The elements of one level of a DICOM file, by keyword; values are made of their bytes when they are asked for.

    Parameters
    ----------
    content : bytes
        The file.
    start, stop : int
        Where the level lies in it.
    little : bool
        Whether it is little-endian.
    keywords : tuple of str
        The elements to find.
    syntax : str
        UID of the transfer syntax.

    Raises
    ------
    ValueError
        The level is cut off within an element, or has too many of them.
    """

    def __init__(
        self, content: bytes, start: int, stop: int, little: bool, keywords: tuple[str, ...], syntax: str
    ) -> None:
        self.syntax = syntax
        self.little = little
        self._content, self._order, self._steps = content, "<" if little else ">", 0
        # writers mix them up: the first element shows which it is
        self._explicit = content[start + 4 : start + 6] in _LONG | _SHORT
        tags = _tags(keywords)
        self._elements: dict[str, _Element] = {}
        while start + 8 <= stop:
            tag, vr, begin, length = self._head(start)
            if length == _UNDEFINED:
                end, start = self._past(begin, stop)
            else:
                end = start = begin + length
            if start > stop:
                raise ValueError("it is cut off")
            if tag in tags:
                self._elements[tags[tag]] = _Element(vr, begin, end)
            if tag >= _PIXELS:
                break

    def __contains__(self, keyword: str) -> bool:
        """Whether the element is there and not empty."""
        return self.length(keyword) > 0

    def length(self, keyword: str) -> int:
        """Bytes of an element's value; 0 where it is empty or absent."""
        element = self._elements.get(keyword)
        return element.stop - element.start if element else 0

    def vr(self, keyword: str) -> str:
        """How the value of an element that is there is represented, such as ``"US"``."""
        from pydicom.datadict import dictionary_VR

        stated = self._elements[keyword].vr
        return dictionary_VR(keyword).partition(" or ")[0] if stated in ("", "UN") else stated

    def value(self, keyword: str) -> bytes:
        """The bytes of an element; none where it is empty or absent."""
        element = self._elements.get(keyword)
        return self._content[element.start : element.stop] if element else b""

    def texts(self, keyword: str) -> list[str]:
        """The values of an element with one or several texts, without the spaces around them.

        Raises
        ------
        ValueError
            The element is longer than texts are.
        """
        value = self._short(keyword).decode("ascii", "replace")
        return [text.strip(" \0") for text in value.split("\\")] if value.strip(" \0") else []

    def numbers(self, keyword: str) -> list[float]:
        """The values of an element with one or several numbers.

        Raises
        ------
        ValueError
            One is no number, or not finite; the element is longer than numbers are.
        """
        value, code = self._short(keyword), _BINARY.get(self.vr(keyword)) if keyword in self else None
        try:
            if code is None:
                texts = self.texts(keyword)
                numbers = [float(text) for text in texts if "_" not in text]
                whole = len(numbers) == len(texts)
            else:
                numbers = [number for (number,) in struct.iter_unpack(self._order + code, value)]
                whole = True
        except (ValueError, struct.error):
            whole = False
        if not whole or not all(abs(number) < float("inf") for number in numbers):
            raise ValueError(f"{keyword} must be a finite number, or several") from None
        return numbers

    def integer(self, keyword: str, default: int | None = None) -> int:
        """The first value of an element, as an integer; `default` where it is empty or absent.

        Raises
        ------
        ValueError
            It is no integer, or absent without a `default`.
        """
        numbers = self.numbers(keyword)
        if not numbers:
            if default is None:
                raise ValueError(f"it has no {keyword}")
            return default
        if numbers[0] != int(numbers[0]):
            raise ValueError(f"{keyword} must be an integer")
        return int(numbers[0])

    def tables(self, keyword: str) -> list[DataSet]:
        """The look-up tables in a sequence.

        Raises
        ------
        ValueError
            The sequence is damaged, or has too many elements and items.
        """
        found: list[DataSet] = []
        element = self._elements.get(keyword)
        if element is None:
            return found
        start, stop = element.start, element.stop
        while start + 8 <= stop:
            tag, _, begin, length = self._head(start)
            if tag != _ITEM:
                raise ValueError(f"{keyword} does not consist of items")
            end, start = self._past(begin, stop) if length == _UNDEFINED else (begin + length, begin + length)
            if start > stop:
                raise ValueError("it is cut off")
            found.append(DataSet(self._content, begin, end, self.little, _TABLE, self.syntax))
            self._steps += found[-1]._steps
        return found

    def _short(self, keyword: str) -> bytes:
        if self.length(keyword) > _LONGEST:
            raise ValueError(f"{keyword} is longer than {_LONGEST} bytes")
        return self.value(keyword)

    def _head(self, at: int) -> tuple[int, str, int, int]:
        """(tag, VR or nothing, where the value begins, its length) of the element or item at `at`."""
        self._steps += 1
        if self._steps > _MOST_STEPS:
            raise ValueError(f"it has more than {_MOST_STEPS} elements and items")
        try:
            group, element, length = struct.unpack_from(self._order + "HHI", self._content, at)
            vr = self._content[at + 4 : at + 6]
            if group == 0xFFFE or not self._explicit or not (vr.isalpha() and vr.isupper()):
                return group << 16 | element, "", at + 8, length
            if vr in _LONG:
                return (
                    group << 16 | element,
                    vr.decode(),
                    at + 12,
                    *struct.unpack_from(self._order + "I", self._content, at + 8),
                )
            return (
                group << 16 | element,
                vr.decode(),
                at + 8,
                *struct.unpack_from(self._order + "H", self._content, at + 6),
            )
        except struct.error:
            raise ValueError("it is cut off") from None

    def _past(self, at: int, stop: int) -> tuple[int, int]:
        """Where a value of undefined length, with all that is nested in it, ends; and what comes after its delimiter.

        Items and sequences are counted in and out, so that no depth of them needs a stack.
        """
        depth = 1
        while at + 8 <= stop:
            tag, _, begin, length = self._head(at)
            if tag in (_ITEM_END, _SEQUENCE_END):
                depth -= 1
                if depth == 0:
                    return at, begin
                at = begin
            elif length == _UNDEFINED:
                depth, at = depth + 1, begin
            else:
                at = begin + length
        raise ValueError("it is cut off")


def _read(stream: BinaryIO, most: int | None) -> bytes:
    parts, left = [], most
    while left is None or left > 0:
        part = stream.read(1 << 24 if left is None else min(left, 1 << 24))
        if not part:
            break
        parts.append(part)
        left = None if left is None else left - len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _file_meta(content: bytes, start: int) -> tuple[int, str]:
    """Where the file meta information (explicit VR, little-endian) ends, and the transfer syntax; "" without one."""
    syntax = ""
    while content[start : start + 2] == b"\x02\0" and start + 12 <= len(content):
        long = content[start + 4 : start + 6] in _LONG
        length = int.from_bytes(content[start + 8 : start + 12] if long else content[start + 6 : start + 8], "little")
        begin = start + (12 if long else 8)
        if content[start + 2 : start + 4] == b"\x10\0":
            syntax = content[begin : begin + min(length, 64)].decode("ascii", "replace").strip(" \0")
        start = begin + length
    return start, syntax


def _inflated(content: bytes, most: int | None) -> bytes:
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        inflated = stream.decompress(content, 0 if most is None else most + 1)
    except zlib.error:
        raise ValueError("its deflated data set is damaged") from None
    if not stream.eof and (most is None or len(inflated) <= most):
        raise ValueError("it is cut off")
    return inflated


@functools.lru_cache
def _tags(keywords: tuple[str, ...]) -> dict[int, str]:
    from pydicom.datadict import tag_for_keyword

    return {int(tag_for_keyword(keyword) or 0): keyword for keyword in keywords}
