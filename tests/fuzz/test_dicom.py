"""Damaged DICOM files of every compression that can be written here: pixels, or an error; the process stays."""

from __future__ import annotations

import functools
import io
import subprocess
import sys
import tempfile
import traceback
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("pydicom", reason="needs the extra dicom")
pytest.importorskip("gdcm", reason="needs python-gdcm, of the extra dicom")
sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "images"))

from damage import FEW, damaged, refused
from dicom_files import DEEP, compressed, dataset, extended, jpeg, lossless, saved, table
from pydicom import dcmread, uid
from pydicom.encaps import get_frame

from thoraxlib import images

BLOCKS = np.arange(15).reshape(5, 3) * 290
SMOOTH = np.kron(BLOCKS, np.ones((8, 8))).astype(np.uint16)
LARGE = np.tile(DEEP, (2, 3))
EIGHT = (DEEP // 16).astype(np.uint8)


RECODE = """
import sys, gdcm
source, target, syntax = sys.argv[1:]
reader = gdcm.ImageReader()
reader.SetFileName(source)
assert reader.Read()
change = gdcm.ImageChangeTransferSyntax()
change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(syntax)))
change.SetInput(reader.GetImage())
assert change.Change()
writer = gdcm.ImageWriter()
writer.SetFile(reader.GetFile())
writer.SetImage(change.GetOutput())
writer.SetFileName(target)
assert writer.Write()
"""


def by_gdcm(pixels: np.ndarray, syntax: str) -> bytes:
    """A compressed image, written by GDCM, in a process of its own as it may end that one."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "source.dcm"), Path(folder, "target.dcm")
        source.write_bytes(saved(dataset(pixels)).getvalue())
        subprocess.run([sys.executable, "-c", RECODE, source, target, syntax], check=True, capture_output=True)
        return get_frame(dcmread(target).PixelData, 0, number_of_frames=1)


def by_pydicom(pixels: np.ndarray, syntax: str) -> bytes:
    data = dataset(pixels)
    data.compress(syntax, generate_instance_uid=False)
    return get_frame(data.PixelData, 0, number_of_frames=1)


STREAMS = {
    "JPEGBaseline8Bit": lambda _: (EIGHT, jpeg(EIGHT)),
    "JPEGExtended12Bit": lambda _: (SMOOTH, extended(BLOCKS)),
    "JPEGLossless": lambda _: (DEEP, lossless(DEEP, 12)),
    "JPEGLosslessSV1": lambda _: (EIGHT, lossless(EIGHT, 8)),
    "JPEGLSLossless": lambda syntax: (DEEP, by_gdcm(DEEP, syntax)),
    "JPEGLSNearLossless": lambda syntax: (EIGHT, by_gdcm(EIGHT, syntax)),
    "JPEG2000Lossless": lambda syntax: (LARGE, by_pydicom(LARGE, syntax)),
    "RLELossless": lambda syntax: (DEEP, by_pydicom(DEEP, syntax)),
}


@functools.lru_cache
def stream(name: str) -> tuple[np.ndarray, bytes]:
    return STREAMS[name](getattr(uid, name))


def read(name: str, content: bytes, bits: int) -> np.ndarray | None:
    pixels, _ = stream(name)
    file = compressed(pixels, content or b"\0\0", getattr(uid, name), BitsStored=bits)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        seen = refused(lambda: images.read(file, window="bits"), "the file")
    if seen is None:
        return None
    assert tuple(seen.shape) == (1, *pixels.shape)
    values = seen[0].numpy()
    return values if values.dtype == np.uint8 else values * (2**bits - 1)


@pytest.mark.parametrize("name", STREAMS)
def test_the_whole_streams_are_read(name: str) -> None:
    pixels, content = stream(name)
    seen = read(name, content, pixels.itemsize * 8)
    assert seen is not None
    assert np.abs(seen - pixels.astype(float)).max() <= (2 if name == "JPEGBaseline8Bit" else 0.01)


@pytest.mark.parametrize("name", STREAMS)
@given(data=st.data())
@FEW
def test_damaged_streams(name: str, data: st.DataObject) -> None:
    pixels, content = stream(name)
    if data.draw(st.booleans()):  # markers are where decoders are most easily led astray
        places = [at for at in range(len(content) - 1) if content[at] == 0xFF]
        at = data.draw(st.sampled_from(places)) + 1 if places else 0
        content = content[:at] + bytes([data.draw(st.integers(0, 255))]) + content[at + 1 :]
    else:
        content = data.draw(damaged(content))
    bits = data.draw(st.integers(1, 8)) if pixels.itemsize == 1 else data.draw(st.integers(8, 16))
    values = read(name, content, bits)
    assert values is None or (values.min() >= 0 and values.max() <= 2**bits - 0.99)


HEADERS = {
    "explicit": saved(dataset(DEEP, BitsStored=12, WindowCenter=2000, WindowWidth=3000)).getvalue(),
    "implicit": saved(
        dataset(DEEP, syntax=uid.ImplicitVRLittleEndian, VOILUTSequence=[table(np.arange(99), 0, 8)])
    ).getvalue(),
    "deflated": saved(dataset(DEEP, syntax=uid.DeflatedExplicitVRLittleEndian, PixelSpacing=[0.1, 0.1])).getvalue(),
    "raw": saved(dataset(DEEP, Modality="CR")).getvalue().partition(b"\x08\0\x60\0")[2],
}
HEADERS["raw"] = b"\x08\0\x60\0" + HEADERS["raw"]


@pytest.mark.parametrize("name", HEADERS)
@given(data=st.data())
@FEW
def test_damaged_headers(name: str, data: st.DataObject) -> None:
    content = data.draw(damaged(HEADERS[name]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for function in (images.read, images.read_geometry):
            file = io.BytesIO(content)
            file.name = "image.dcm"  # type: ignore[attr-defined]
            found = refused(lambda function=function, file=file: function(file), "image.dcm")
            if function is images.read and found is not None:
                assert found.min() >= 0
                assert found.max() <= (1 if found.is_floating_point() else 255)


@given(value=st.text(st.characters(codec="ascii", exclude_characters="\\\0"), min_size=8, max_size=16), data=st.data())
@FEW
def test_texts_are_not_quoted(value: str, data: st.DataObject) -> None:
    keyword = data.draw(st.sampled_from(("WindowCenter", "RescaleSlope", "NumberOfFrames", "PixelSpacing", "Rows")))
    told = ""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        written = dataset(DEEP, WindowWidth=5)
        written.add_new(keyword, "LT", value)
        content = saved(written)
        warned.clear()
        for function in (images.read, images.read_geometry):
            content.seek(0)
            try:
                function(content)
            except ValueError as error:
                told += "".join(line for line in traceback.format_exception(error) if "File" not in line)
        told += " ".join(str(warning.message) for warning in warned)
    assert value not in told
