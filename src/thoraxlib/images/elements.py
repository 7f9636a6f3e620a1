"""Read chosen elements of a DICOM file, with bounds on memory and work.

pydicom reads and converts all elements of a file, at any depth, and quotes values in errors and warnings. Files may be
hostile, and their texts are personal data of patients. This reader therefore takes a list of elements, skips all others
unread, counts its steps, and puts no value into a message.
"""

from __future__ import annotations

import functools
import struct
import sys
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

_LONG = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())  # VRs with a length of four bytes
_SHORT = frozenset(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())
_BINARY = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "FL": "f", "FD": "d"}

_MOST_STEPS = 100_000  # elements and items, at all depths
_MOST_BYTES = 1 << 26  # in addition to the pixels
_LONGEST = 4096  # bytes of a number or text
_CHUNK = 1 << 24  # bytes read at once

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


_ABSENT = _Element("", 0, 0)


def is_dicom(head: bytes) -> bool:
    """Return True if a file that begins with `head`, at least its first 132 bytes, may be a DICOM file.

    The file has the prefix DICM after its preamble; or it has no preamble and no file meta information, and its data
    set begins with group 8 (or 2), in explicit or implicit VR.
    """
    if head[128:_START] == b"DICM":
        return True
    if len(head) < 8:
        return False
    little = head[0] != 0
    group, element = struct.unpack_from("<HH" if little else ">HH", head)
    if group not in (2, 8) or element > 0x1FF:
        return False
    return head[4:6] in _LONG | _SHORT or (little and struct.unpack_from("<I", head, 4)[0] <= _LONGEST)


def parse(stream: BinaryIO) -> DataSet:
    """Read a DICOM file from its first byte.

    Raises
    ------
    ValueError
        The file is not DICOM, is cut off within an element, or has too many elements or bytes.
    """
    begin = stream.tell()
    head = _read(stream, _START)
    if not is_dicom(head):
        raise ValueError("it has neither the prefix DICM nor a data set at its start")
    limit = PILImage.MAX_IMAGE_PIXELS
    most = sys.maxsize - 1 if limit is None else _MOST_BYTES + 4 * limit
    stream.seek(begin)
    content = _read(stream, most + 1)
    start, syntax = _file_meta(content, _START if head[128:] == b"DICM" else 0)
    if syntax == _DEFLATED:
        content, start = _inflated(content[start:], most), 0
    if len(content) > most:
        raise ValueError(f"it is longer than {most} bytes; raise PIL.Image.MAX_IMAGE_PIXELS if it is meant")
    little = syntax != _BIG_ENDIAN
    if not syntax:
        little = content[start : start + 1] != b"\0"
        explicit = content[start + 4 : start + 6] in _LONG | _SHORT
        syntax = (_EXPLICIT if explicit else _IMPLICIT) if little else _BIG_ENDIAN
    return DataSet(content, start, len(content), little, _HEADER, syntax)


class DataSet:
    """Elements of one level of a DICOM file by keyword; their values are converted on request.

    Parameters
    ----------
    content : bytes
        The whole file.
    start, stop : int
        First byte of the level, and the byte after its last one.
    little : bool
        The byte order is little-endian.
    keywords : tuple of str
        The elements to find.
    syntax : str
        UID of the transfer syntax.

    Raises
    ------
    ValueError
        The level is cut off within an element, or has too many elements.
    """

    def __init__(
        self, content: bytes, start: int, stop: int, little: bool, keywords: tuple[str, ...], syntax: str
    ) -> None:
        self.syntax, self.little = syntax, little
        self._content, self._order, self._steps = content, "<" if little else ">", 0
        # some writers use the wrong one of explicit and implicit VR: the first element shows which it is
        self._explicit = content[start + 4 : start + 6] in _LONG | _SHORT
        tags = _tags(keywords)
        self._elements: dict[str, _Element] = {}
        while start + 8 <= stop:
            tag, vr, begin, length = self._head(start)
            end, start = self._ends(begin, length, stop)
            if tag in tags:
                self._elements[tags[tag]] = _Element(vr, begin, end)
            if tag >= _PIXELS:
                break

    def __contains__(self, keyword: str) -> bool:
        """Return True if the element is there and not empty."""
        _, start, stop = self._elements.get(keyword, _ABSENT)
        return stop > start

    def vr(self, keyword: str) -> str:
        """Return the value representation of an element that is there, such as ``"US"``."""
        from pydicom.datadict import dictionary_VR

        stated = self._elements[keyword].vr
        return dictionary_VR(keyword).partition(" or ")[0] if stated in ("", "UN") else stated

    def value(self, keyword: str) -> bytes:
        """Return the bytes of an element; none if it is empty or absent."""
        _, start, stop = self._elements.get(keyword, _ABSENT)
        return self._content[start:stop]

    def texts(self, keyword: str) -> list[str]:
        """Return the texts of an element, without the spaces around them.

        Raises
        ------
        ValueError
            The element is too long for texts.
        """
        value = self._short(keyword).decode("ascii", "replace")
        return [text.strip(" \0") for text in value.split("\\")] if value.strip(" \0") else []

    def numbers(self, keyword: str) -> list[float]:
        """Return the numbers of an element.

        Raises
        ------
        ValueError
            A value is not a finite number, or the element is too long for numbers.
        """
        value, code = self._short(keyword), _BINARY.get(self.vr(keyword)) if keyword in self else None
        try:
            if code is None:
                # float() takes "1_0", which DICOM does not have
                numbers = [float(text.replace("_", "x")) for text in self.texts(keyword)]
            else:
                numbers = [number for (number,) in struct.iter_unpack(self._order + code, value)]
        except (ValueError, struct.error):
            numbers = [float("nan")]
        if not all(abs(number) < float("inf") for number in numbers):
            raise ValueError(f"{keyword} must be a finite number, or several")
        return numbers

    def integer(self, keyword: str, default: int | None = None) -> int:
        """Return the first value of an element as an integer; `default` if it is empty or absent.

        Raises
        ------
        ValueError
            The value is not an integer, or is absent and there is no `default`.
        """
        numbers = self.numbers(keyword) or ([] if default is None else [default])
        if not numbers:
            raise ValueError(f"it has no {keyword}")
        if numbers[0] != int(numbers[0]):
            raise ValueError(f"{keyword} must be an integer")
        return int(numbers[0])

    def tables(self, keyword: str) -> list[DataSet]:
        """Return the look-up tables in a sequence.

        Raises
        ------
        ValueError
            The sequence is damaged, or has too many elements and items.
        """
        tables: list[DataSet] = []
        _, start, stop = self._elements.get(keyword, _ABSENT)
        while start + 8 <= stop:
            tag, _, begin, length = self._head(start)
            if tag != _ITEM:
                raise ValueError(f"{keyword} does not consist of items")
            end, start = self._ends(begin, length, stop)
            tables.append(DataSet(self._content, begin, end, self.little, _TABLE, self.syntax))
            self._steps += tables[-1]._steps
        return tables

    def _short(self, keyword: str) -> bytes:
        value = self.value(keyword)
        if len(value) > _LONGEST:
            raise ValueError(f"{keyword} is longer than {_LONGEST} bytes")
        return value

    def _head(self, at: int) -> tuple[int, str, int, int]:
        """Return (tag, VR or "", first byte of the value, length of the value) of the element or item at `at`."""
        self._steps += 1
        if self._steps > _MOST_STEPS:
            raise ValueError(f"it has more than {_MOST_STEPS} elements and items")
        try:
            group, element, length = struct.unpack_from(self._order + "HHI", self._content, at)
            tag, vr, begin = group << 16 | element, self._content[at + 4 : at + 6], at + 8
            if group == 0xFFFE or not self._explicit or not (vr.isalpha() and vr.isupper()):
                return tag, "", begin, length
            if vr in _LONG:
                begin, (length,) = at + 12, struct.unpack_from(self._order + "I", self._content, at + 8)
            else:
                (length,) = struct.unpack_from(self._order + "H", self._content, at + 6)
            return tag, vr.decode(), begin, length
        except struct.error:
            raise ValueError("it is cut off") from None

    def _ends(self, at: int, length: int, stop: int) -> tuple[int, int]:
        """Return the end of the value at `at`, and the first byte after it and its delimiter.

        A value of undefined length ends where all nested items and sequences are closed. They are counted, so no depth
        needs a stack.
        """
        if length != _UNDEFINED:
            if at + length > stop:
                raise ValueError("it is cut off")
            return at + length, at + length
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


def _read(stream: BinaryIO, most: int) -> bytes:
    """Read a stream to its end, or its first `most` bytes."""
    chunks: list[bytes] = []
    while most > 0 and (chunk := stream.read(min(most, _CHUNK))):
        chunks.append(chunk)
        most -= len(chunk)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _file_meta(content: bytes, start: int) -> tuple[int, str]:
    """Return the end of the file meta information (explicit VR, little-endian) and the transfer syntax, "" if none."""
    syntax = ""
    while content[start : start + 2] == b"\x02\0" and start + 12 <= len(content):
        begin, digits = (start + 12, 4) if content[start + 4 : start + 6] in _LONG else (start + 8, 2)
        length = int.from_bytes(content[begin - digits : begin], "little")
        if content[start + 2 : start + 4] == b"\x10\0":
            syntax = content[begin : begin + min(length, 64)].decode("ascii", "replace").strip(" \0")
        start = begin + length
    return start, syntax


def _inflated(content: bytes, most: int) -> bytes:
    """Inflate a deflated data set, up to `most` + 1 bytes."""
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        inflated = stream.decompress(content, most + 1)
    except zlib.error:
        raise ValueError("its deflated data set is damaged") from None
    if not stream.eof and len(inflated) <= most:
        raise ValueError("it is cut off")
    return inflated


@functools.lru_cache
def _tags(keywords: tuple[str, ...]) -> dict[int, str]:
    from pydicom.datadict import tag_for_keyword

    return {int(tag_for_keyword(keyword) or 0): keyword for keyword in keywords}
