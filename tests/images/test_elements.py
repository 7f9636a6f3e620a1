"""DICOM headers: found within bounds, and never quoted."""

from __future__ import annotations

import io
import logging
import struct
import sys
import traceback
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("pydicom", reason="needs the extra dicom")
sys.path.insert(0, str(Path(__file__).parent))

from dicom_files import DEEP, RAMP, compressed, dataset, jpeg, saved, table
from pydicom import uid
from pydicom.dataset import Dataset

from thoraxlib import images
from thoraxlib.images import elements

ITEM, ITEM_END, SEQUENCE_END = b"\xfe\xff\x00\xe0", b"\xfe\xff\x0d\xe0\0\0\0\0", b"\xfe\xff\xdd\xe0\0\0\0\0"
UNDEFINED = b"\xff\xff\xff\xff"
PLAIN = saved(dataset(RAMP)).getvalue()


def with_element(content: bytes, before: bytes = struct.pack("<HH", 0x28, 2)) -> bytes:
    """A good file, explicit and little-endian, with an element put in before SamplesPerPixel."""
    assert PLAIN.count(before) == 1
    return PLAIN.replace(before, content + before)


def sequence(tag: tuple[int, int], value: bytes, vr: bytes = b"SQ", undefined: bool = True) -> bytes:
    start = struct.pack("<HH2sxx", *tag, vr)
    return start + (UNDEFINED + value + SEQUENCE_END if undefined else struct.pack("<I", len(value)) + value)


def nested(depth: int) -> bytes:
    inner = struct.pack("<HH2sxx", 0x19, 0x1010, b"SQ") + UNDEFINED + ITEM + UNDEFINED
    return inner * depth + (ITEM_END + SEQUENCE_END) * depth


MANY = ITEM + UNDEFINED + ITEM_END
SHORT = ITEM + b"\0\0\0\0"


@pytest.mark.parametrize(
    "content",
    [
        sequence((0x19, 0x1001), MANY * 10**6),
        sequence((0x19, 0x1001), SHORT * 10**6),
        sequence((0x19, 0x1001), MANY * 10**6, b"UN"),
        sequence((0x18, 0x0026), struct.pack("<HH2sH", 0x19, 0x1001, b"LO", 0) * 10**6),
        struct.pack("<HH2sH", 0x19, 0x1001, b"LO", 0) * 10**6,
        nested(10**5),
    ],
    ids=["items", "short", "unknown", "elements", "flat", "nested"],
)
@pytest.mark.parametrize("function", [images.read, images.read_geometry])
def test_more_elements_than_are_read(content: bytes, function: Any) -> None:
    with pytest.raises(
        ValueError, match="the file cannot be read as DICOM: it has more than 100000 elements and items"
    ):
        function(io.BytesIO(with_element(content)))


@pytest.mark.parametrize("undefined", [True, False])
def test_tables_by_the_million(undefined: bool) -> None:
    content = with_element(sequence((0x28, 0x3010), SHORT * 10**6, undefined=undefined))
    with pytest.raises(ValueError, match="more than 100000 elements and items"):
        images.read(io.BytesIO(content))


@pytest.mark.parametrize(
    "content",
    [
        nested(1000),
        sequence((0x19, 0x1001), MANY * 1000),
        struct.pack("<HH2sxxI", 0x19, 0x1001, b"OB", 10**7) + bytes(10**7),
        sequence((0x19, 0x1001), (b"DOE^JANE" * 10**5), undefined=False),
        sequence((0x19, 0x1001), ITEM + UNDEFINED + struct.pack("<HHI", 8, 5, 4) + b"JANE" + ITEM_END, b"UN"),
    ],
    ids=["nested", "items", "huge", "no items", "unknown, implicit"],
)
def test_what_is_not_asked_for_is_passed_over(content: bytes) -> None:
    np.testing.assert_array_equal(images.read(io.BytesIO(with_element(content)))[0], RAMP)


@pytest.mark.parametrize("undefined", [True, False])
@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian])
def test_tables_in_items_of_both_kinds(undefined: bool, syntax: str) -> None:
    item = table(np.arange(4096)[::-1], 0, 12)
    item.is_undefined_length_sequence_item = undefined
    data = dataset(DEEP, syntax=syntax, BitsStored=12, VOILUTSequence=[item])
    data["VOILUTSequence"].is_undefined_length = undefined
    np.testing.assert_allclose(images.read(saved(data))[0], 1 - DEEP / 4095, atol=1e-6)


# -- files without file meta information ------------------------------------------------------------------


@pytest.mark.parametrize("implicit", [True, False])
@pytest.mark.parametrize("little", [True, False])
@pytest.mark.parametrize("name", ["CR-chest", "image.dcm"])
def test_raw_data_sets(tmp_path: Path, implicit: bool, little: bool, name: str) -> None:
    if implicit and not little:
        pytest.skip("no such encoding")
    data = dataset(DEEP, BitsStored=12, WindowCenter=2048, WindowWidth=4096)
    data.Modality = "CR"
    expected = images.read(saved(data))
    if not little:
        data.PixelData = DEEP.astype(">u2").tobytes()
    del data.file_meta
    data.save_as(tmp_path / name, implicit_vr=implicit, little_endian=little, enforce_file_format=False)
    np.testing.assert_array_equal(images.read(tmp_path / name), expected)


def test_file_meta_information_without_transfer_syntax() -> None:
    start = PLAIN.index(b"\x02\0\x10\0UI")
    stop = start + 8 + int.from_bytes(PLAIN[start + 6 : start + 8], "little")
    np.testing.assert_array_equal(images.read(io.BytesIO(PLAIN[:start] + PLAIN[stop:]))[0], RAMP)


@pytest.mark.parametrize("content", [b"not DICOM at all", bytes(500), b"\x08\0", b"", b"\x89PNG" + bytes(200)])
def test_no_dicom(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.dcm"
    path.write_bytes(content)
    with pytest.raises(
        ValueError, match="x.dcm cannot be read as DICOM: it has neither the prefix DICM nor a data set"
    ):
        images.read(path)


# -- bounds -----------------------------------------------------------------------------------------------


def deflated(content: bytes) -> bytes:
    whole = saved(dataset(RAMP, syntax=uid.DeflatedExplicitVRLittleEndian)).getvalue()
    start = elements._file_meta(whole, 132)[0]
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return whole[:start] + packer.compress(content) + packer.flush()


def test_a_deflated_bomb(monkeypatch: pytest.MonkeyPatch) -> None:
    body = PLAIN[elements._file_meta(PLAIN, 132)[0] :]
    np.testing.assert_array_equal(images.read(io.BytesIO(deflated(body)))[0], RAMP)
    monkeypatch.setattr(elements, "_MOST_BYTES", 10_000)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    asked = []
    real = zlib.decompressobj

    class Counted:
        def __init__(self, *options: Any) -> None:
            self.stream = real(*options)

        def decompress(self, content: bytes, most: int) -> bytes:
            asked.append(most)
            return self.stream.decompress(content, most)

        @property
        def eof(self) -> bool:
            return self.stream.eof

    monkeypatch.setattr(elements.zlib, "decompressobj", Counted)
    with pytest.raises(ValueError, match="longer than 14000 bytes"):
        images.read(io.BytesIO(deflated(body + bytes(10**7))))
    assert asked == [14_001]


@pytest.mark.parametrize(("spoil", "message"), [(lambda b: b[:-9], "cut off"), (lambda b: b[:-9] + b"\xff" * 9, "")])
def test_damaged_deflated_data(spoil: Any, message: str) -> None:
    content = deflated(PLAIN[elements._file_meta(PLAIN, 132)[0] :])
    with pytest.raises(ValueError, match=f"cannot be read as DICOM.*{message}"):
        images.read(io.BytesIO(spoil(content)))


class Endless(io.RawIOBase):
    """A file that never ends, as /dev/zero."""

    def __init__(self, start: bytes) -> None:
        self.start, self.given, self.name = start, 0, "endless"

    def seek(self, offset: int, whence: int = 0) -> int:
        self.given = offset
        return offset

    def read(self, size: int = -1) -> bytes:
        assert 0 <= size <= 1 << 24
        part = self.start[self.given : self.given + size].ljust(size, b"\0")
        self.given += size
        return part


@pytest.mark.parametrize(("start", "message"), [(b"", "neither"), (PLAIN, "longer than 14000 bytes")])
def test_a_file_without_end(monkeypatch: pytest.MonkeyPatch, start: bytes, message: str) -> None:
    monkeypatch.setattr(elements, "_MOST_BYTES", 10_000)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    endless = Endless(start)
    with pytest.raises(ValueError, match=f"endless cannot be read as DICOM.*{message}"):
        images.read_geometry(endless)  # type: ignore[arg-type]
    assert endless.given < 20_000


def test_an_error_of_the_system_is_not_the_fault_of_the_file() -> None:
    class Broken(Endless):
        def read(self, size: int = -1) -> bytes:
            raise OSError(5, "Input/output error")

    with pytest.raises(OSError, match="Input/output error"):
        images.read_geometry(Broken(b""))  # type: ignore[arg-type]


# -- no value of the header is quoted ---------------------------------------------------------------------

NAME = b"DOE^JANE"
PLACE = "12345678"  # as long
TEXTS = (
    *("RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth", "VOILUTFunction", "NumberOfFrames"),
    *("PhotometricInterpretation", "PixelSpacing", "ImagerPixelSpacing", "PixelAspectRatio", "SpecificCharacterSet"),
    *("StudyDate", "PatientAge", "PatientOrientation"),
)


def secretive(keyword: str) -> bytes:
    data = dataset(DEEP, BitsStored=12, WindowCenter="2048", WindowWidth="4096")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        paired = keyword in ("PixelSpacing", "ImagerPixelSpacing", "PixelAspectRatio")
        setattr(data, keyword, [PLACE, PLACE] if paired else PLACE)
        content = saved(data).getvalue()
    assert PLACE.encode() in content
    return content.replace(PLACE.encode(), NAME)


def in_a_binary_number(keyword: str) -> bytes:
    """The name in the place of a number of two bytes, with its own length: the field says US."""
    number = 0x28 | {"Rows": 0x10, "BitsStored": 0x101, "PixelRepresentation": 0x103}[keyword] << 16
    start = PLAIN.index(struct.pack("<I", number) + b"US")
    return PLAIN[: start + 6] + struct.pack("<H", 8) + NAME + PLAIN[start + 10 :]


def in_the_transfer_syntax() -> bytes:
    old = b"1.2.840.10008.1.2.1\0"
    return PLAIN.replace(old, NAME.ljust(len(old), b"\0"))


def in_a_fragment() -> bytes:
    file = compressed(RAMP, jpeg(RAMP), uid.JPEGBaseline8Bit).getvalue()
    return file.replace(b"JFIF", b"DOE^").replace(b"\xff\xda", NAME)


FILES = {
    **{keyword: secretive(keyword) for keyword in TEXTS},
    **{keyword: in_a_binary_number(keyword) for keyword in ("Rows", "BitsStored", "PixelRepresentation")},
    "TransferSyntaxUID": in_the_transfer_syntax(),
    "PixelData": in_a_fragment(),
}


@pytest.mark.parametrize("function", [images.read, images.read_geometry])
@pytest.mark.parametrize("keyword", FILES)
def test_no_name_comes_out(keyword: str, function: Any, caplog: pytest.LogCaptureFixture) -> None:
    told = ""
    with caplog.at_level(logging.DEBUG), warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            function(io.BytesIO(FILES[keyword]))
        except ValueError as error:
            told = "".join(traceback.format_exception(error))
    told += caplog.text + "".join(str(warning.message) for warning in warned)
    assert "DOE" not in told
    assert "JANE" not in told


@pytest.mark.parametrize(
    ("keyword", "message"),
    [
        ("RescaleSlope", "RescaleSlope must be a finite number"),
        ("NumberOfFrames", "NumberOfFrames must be a finite number"),
        ("PhotometricInterpretation", "MONOCHROME2, got another text"),
        ("VOILUTFunction", "VOILUTFunction, or that is not LINEAR"),
        ("TransferSyntaxUID", "the transfer syntax of the file is not known"),
    ],
)
def test_the_element_is_named(keyword: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        images.read(io.BytesIO(FILES[keyword]))


@pytest.mark.parametrize("text", ["nan", "inf", "1_0", "1e999", "0x10", "1,5", "9" * 5000])
def test_numbers_that_are_none(text: str) -> None:
    data = dataset(DEEP, WindowWidth="4096")
    data.add_new("WindowCenter", "LT", text)
    with pytest.raises(ValueError, match="WindowCenter (must be a finite number|is longer than 4096 bytes)"):
        images.read(saved(data))


def test_an_item_that_is_none() -> None:
    data = dataset(DEEP)
    data.VOILUTSequence = [Dataset()]
    with pytest.raises(ValueError, match="LUTDescriptor must be three numbers"):
        images.read(saved(data))
