"""DICOM files made for tests with pydicom, compressed by hand where no library here does."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("pydicom", reason="needs the extra dicom")
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate

RAMP = np.arange(12 * 10, dtype=np.uint8).reshape(12, 10) * 2
DEEP = (np.arange(40 * 25, dtype=np.uint16) * 4).reshape(40, 25)


def dataset(
    pixels: np.ndarray, polarity: str = "MONOCHROME2", syntax: str = uid.ExplicitVRLittleEndian, **tags: Any
) -> Dataset:
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = syntax
    data.file_meta.MediaStorageSOPClassUID = uid.DigitalXRayImageStorageForPresentation
    data.file_meta.MediaStorageSOPInstanceUID = uid.generate_uid()
    data.Rows, data.Columns = pixels.shape[-2:]
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, polarity
    data.PixelRepresentation = int(pixels.dtype.kind == "i")
    data.BitsAllocated = pixels.dtype.itemsize * 8
    data.BitsStored = tags.pop("BitsStored", data.BitsAllocated)
    data.HighBit = data.BitsStored - 1
    data.PixelData = pixels.tobytes()
    data["PixelData"].VR = "OB" if pixels.dtype.itemsize == 1 else "OW"
    for name, value in tags.items():
        setattr(data, name, value)
    return data


def saved(data: Dataset) -> io.BytesIO:
    file = io.BytesIO()
    data.save_as(file, enforce_file_format=True)
    file.seek(0)
    return file


def table(entries: np.ndarray, first: int, depth: int, vr: str = "US") -> Dataset:
    item = Dataset()
    item.add_new("LUTDescriptor", "US" if first >= 0 else "SS", [len(entries) % 65536, first, depth])
    item.add_new("LUTData", vr, entries.astype("<u2").tobytes() if vr == "OW" else entries.tolist())
    return item


def jpeg(pixels: np.ndarray, quality: int = 95) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return file.getvalue()


def compressed(pixels: np.ndarray, content: bytes, syntax: str, **tags: Any) -> io.BytesIO:
    data = dataset(pixels, syntax=syntax, **tags)
    data.PixelData = encapsulate([content])
    data["PixelData"].VR = "OB"
    data["PixelData"].is_undefined_length = True
    return saved(data)


def lossless(pixels: np.ndarray, bits: int) -> bytes:
    """JPEG lossless, each pixel less its left neighbour (process 14, selection value 1), one code length for all."""
    x = pixels.astype(np.int64)
    left = np.empty_like(x)
    left[:, 1:], left[1:, 0], left[0, 0] = x[:, :-1], x[:-1, 0], 2 ** (bits - 1)
    text = ""
    for difference in (x - left).ravel().tolist():
        length = abs(difference).bit_length()
        text += f"{length:05b}"
        text += f"{difference if difference > 0 else difference + 2**length - 1:0{length}b}" if length else ""
    text += "1" * (-len(text) % 8)
    entropy = int(text, 2).to_bytes(len(text) // 8, "big").replace(b"\xff", b"\xff\x00")
    frame = struct.pack(">BHHB3B", bits, *x.shape, 1, 1, 0x11, 0)
    codes = bytes([0, 0, 0, 0, 0, 17, *[0] * 11, *range(17)])
    parts = [(0xC3, frame), (0xC4, codes), (0xDA, bytes([1, 1, 0, 1, 0, 0]))]
    segments = b"".join(struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body for marker, body in parts)
    return b"\xff\xd8" + segments + entropy + b"\xff\xd9"


def extended(blocks: np.ndarray) -> bytes:
    """JPEG of 12 bits (process 4), of 8 x 8 blocks with one grey each: nothing but their means is coded."""
    text = ""
    for difference in np.diff(8 * (blocks.astype(np.int64) - 2048).ravel(), prepend=0).tolist():
        length = abs(difference).bit_length()
        text += f"{length:05b}"
        text += f"{difference if difference > 0 else difference + 2**length - 1:0{length}b}" if length else ""
        text += "0"  # the end of the block
    text += "1" * (-len(text) % 8)
    entropy = int(text, 2).to_bytes(len(text) // 8, "big").replace(b"\xff", b"\xff\x00")
    frame = struct.pack(">BHHB3B", 12, blocks.shape[0] * 8, blocks.shape[1] * 8, 1, 1, 0x11, 0)
    means, others = bytes([0, 0, 0, 0, 0, 16, *[0] * 11, *range(16)]), bytes([0x10, 1, *[0] * 15, 0])
    parts = [(0xDB, bytes([0, *[1] * 64])), (0xC1, frame), (0xC4, means), (0xC4, others)]
    parts.append((0xDA, bytes([1, 1, 0, 0, 63, 0])))
    segments = b"".join(struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body for marker, body in parts)
    return b"\xff\xd8" + segments + entropy + b"\xff\xd9"
