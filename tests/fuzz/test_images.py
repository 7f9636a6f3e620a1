"""Image files of every kind, damaged: pixels within their range, or an error that names the file."""

from __future__ import annotations

import io
import json
import struct
import sys
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))

from damage import FEW, ODD_BYTES, ODD_TEXTS, damaged, odd_json, refused

import thoraxlib
from thoraxlib import datasets, images
from thoraxlib.archives.sources import listed
from thoraxlib.datasets.files import image_size
from thoraxlib.images import TrainingCopy
from thoraxlib.images.pictures import header
from thoraxlib.input_spec import InputSpec

GREY = (np.arange(20 * 24) % 251).astype(np.uint8).reshape(20, 24)

TURNED = struct.pack("<2sHIHHHIHHI", b"II", 42, 8, 1, 274, 3, 1, 6, 0, 0)  # EXIF: the first row is at the right


def chunks(*parts: tuple[bytes, bytes]) -> bytes:
    """Of a PNG file."""
    made = (struct.pack(">I", len(content)) + kind + content for kind, content in parts)
    return b"".join(one + struct.pack(">I", zlib.crc32(one[4:])) for one in made)


TURNED_AT_END = chunks((b"eXIf", TURNED), (b"IEND", b""))
DEEP_COLOUR = b"\x89PNG\r\n\x1a\n" + chunks(
    (b"IHDR", struct.pack(">IIBBBBB", 2, 3, 16, 2, 0, 0, 0)),
    (b"IDAT", zlib.compress(b"".join(b"\1" + bytes(range(12)) for _ in range(3)))),
    (b"IEND", b""),
)
# 2 x 3 pixels of 16-bit RGB in one strip: 9 entries, each of tag, kind 4, how many, value or where it is
COLOUR_TIFF = (
    struct.pack("<2sHIH", b"II", 42, 8, 9)
    + b"".join(
        struct.pack("<HHII", tag, 4, count, value)
        for tag, count, value in (
            *((256, 1, 2), (257, 1, 3), (258, 3, 122), (259, 1, 1), (262, 1, 2)),
            *((273, 1, 134), (277, 1, 3), (278, 1, 3), (279, 1, 36)),
        )
    )
    + bytes(4)
    + struct.pack("<3I", 16, 16, 16)
    + bytes(range(36))
)


def written(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def dicom() -> bytes:
    pydicom = pytest.importorskip("pydicom", reason="needs the extra dicom")
    data = pydicom.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = pydicom.uid.DigitalXRayImageStorageForPresentation
    data.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    data.Rows, data.Columns = GREY.shape
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PixelRepresentation = 1, "MONOCHROME2", 0
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 12, 11
    data.WindowCenter, data.WindowWidth, data.PixelPaddingValue = 1000, 800, 0
    data.PixelData = (GREY.astype(np.uint16) * 16).tobytes()
    data["PixelData"].VR = "OW"
    file = io.BytesIO()
    data.save_as(file, enforce_file_format=True)
    return file.getvalue()


FILES = {
    "grey.png": lambda: written(Image.fromarray(GREY), "png"),
    "colour.png": lambda: DEEP_COLOUR,
    "deep.png": lambda: written(Image.fromarray(GREY.astype(np.uint16) * 257), "png"),
    "bits.png": lambda: written(Image.fromarray(GREY > 100), "png"),
    "palette.png": lambda: written(Image.fromarray(GREY).convert("P"), "png", transparency=3),
    "alpha.png": lambda: written(Image.fromarray(GREY).convert("RGBA"), "png"),
    "end.png": lambda: written(Image.fromarray(GREY), "png")[:-12] + TURNED_AT_END,
    "image.jpg": lambda: written(Image.fromarray(GREY), "jpeg"),
    "turned.jpg": lambda: written(Image.fromarray(GREY), "jpeg", exif=b"Exif\0\0" + TURNED),
    "turned.tif": lambda: written(Image.fromarray(GREY.astype(np.uint16) * 257), "tiff", tiffinfo={274: 6, 262: 0}),
    "colour.tif": lambda: COLOUR_TIFF,
    "image.webp": lambda: written(Image.fromarray(GREY), "webp", exif=TURNED),
    "image.ppm": lambda: b"P6 2 3 65535\n" + bytes(36),
    "image.jp2": lambda: written(Image.fromarray(GREY), "jpeg2000"),
    "image.tif": lambda: written(Image.fromarray(GREY.astype(np.float32) / 255), "tiff"),
    "image.gif": lambda: written(Image.fromarray(GREY), "gif"),
    "image.dcm": dicom,
}


def check(image: torch.Tensor) -> None:
    assert image.ndim == 3
    assert image.shape[0] == 1
    assert image.numel() > 0
    assert image.dtype == torch.uint8 or bool(((image >= 0) & (image <= 1)).all())


@pytest.mark.parametrize("name", FILES)
@given(data=st.data())
@FEW
def test_damaged_files(name: str, tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / name
    path.write_bytes(data.draw(damaged(FILES[name]())))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = refused(lambda: images.read(path), name)
        if image is not None:
            check(image)
        size = refused(lambda: image_size(path), name)
        assert size is None or min(size) > 0
        assert image is None or size == image.shape[-2:]


@given(
    st.sampled_from([*FILES, "image", "image.dicom"]),
    ODD_BYTES | st.binary(max_size=300) | st.binary(max_size=40).map(lambda tail: bytes(128) + b"DICM" + tail),
)
@FEW
def test_files_of_anything(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    image = refused(lambda: images.read(path), name)
    if image is not None:
        check(image)
    refused(lambda: image_size(path), name)
    refused(lambda: header(content), "compressed image")


@given(data=st.data())
@FEW
def test_arrays_and_tensors(data: st.DataObject) -> None:
    shape = data.draw(st.lists(st.sampled_from((0, 1, 2, 3, 4, 5)), max_size=4).map(tuple))
    kind = data.draw(st.sampled_from(("u1", "u2", ">u2", "i2", "i8", "f2", "f4", "f8", "c8", "?", "O", "U3", "M8[s]")))
    array = np.zeros(shape, kind)
    if kind in ("f2", "f4", "f8") and array.size:
        array.flat[0] = data.draw(st.sampled_from((0.0, 1.0, 0.5, -0.0, -1e-9, 1.001, np.nan, np.inf, 1e30)))
    sources: list[Any] = [array]
    if kind not in (">u2", "O", "U3", "M8[s]"):
        sources.append(torch.from_numpy(array))
    for source in sources:
        image = refused(lambda source=source: images.read(source), "pixels", "shape", "array", "tensor")
        if image is not None:
            check(image)


@pytest.mark.parametrize("kind", ["png", "jpg"])
@given(data=st.data())
@FEW
def test_damaged_masks(kind: str, tmp_path: Path, data: st.DataObject) -> None:
    for folder in ("image", "label"):
        (tmp_path / folder).mkdir(exist_ok=True)
    (tmp_path / "image/a.png").write_bytes(FILES["grey.png"]())
    mask = written(Image.fromarray((GREY > 100).astype(np.uint8)), "png")
    (tmp_path / "label/a.png").write_bytes(data.draw(damaged(mask)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pictures = datasets.build("image_mask", root=tmp_path, classes=["lungs"])
        sample = refused(lambda: pictures[0], "label/a.png")
        assert sample is None or sample["masks"].max() <= 1
        organs = datasets.WithOrganMasks(pictures, tmp_path / "label")
        sample = refused(lambda: organs[0], "label/a.png")
        assert sample is None or sample["organ_mask"].shape == (1, 20, 24)


def prepared(folder: Path) -> Path:
    (folder / "images/a").mkdir(parents=True)
    for name in ("images/a/one.png", "images/two.png"):
        (folder / name).write_bytes(FILES["grey.png"]())
    thoraxlib.prepare(folder / "images", folder / "copy", spec=InputSpec(size=(16, 16)), num_workers=0, progress=False)
    for name in ("copy.json", "manifest.jsonl", "pixels.npy"):
        (folder / name).write_bytes((folder / "copy" / name).read_bytes())
    return folder


@pytest.mark.parametrize("name", ["copy.json", "manifest.jsonl", "pixels.npy"])
@given(data=st.data())
@FEW
def test_damaged_training_copies(name: str, tmp_path: Path, data: st.DataObject) -> None:
    if not any(tmp_path.iterdir()):
        prepared(tmp_path)
    whole = (tmp_path / name).read_bytes()
    content = data.draw(damaged(whole))
    if name != "pixels.npy" and data.draw(st.booleans()):
        entries = [json.loads(whole)] if name == "copy.json" else [json.loads(line) for line in whole.splitlines()]
        lines = [json.dumps(entry) for entry in data.draw(odd_json(entries))]
        content = ("\n".join(lines) + "\n").encode()
    (tmp_path / "copy" / name).write_bytes(content)

    def read() -> None:
        copy = TrainingCopy(tmp_path / "copy")
        for image in copy.names:
            check(copy.image(image))

    refused(read, str(tmp_path / "copy"))


@given(data=st.data())
@FEW
def test_damaged_archives(tmp_path: Path, data: st.DataObject) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/one.png", FILES["grey.png"]())
        archive.writestr(data.draw(ODD_TEXTS)[:10_000] + ".png", FILES["grey.png"]())
    path = tmp_path / "images.zip"
    path.write_bytes(data.draw(damaged(file.getvalue())) if data.draw(st.booleans()) else file.getvalue())
    found = refused(lambda: listed([path]), "images.zip")
    assert found is None or all(image.member is not None for image in found)
