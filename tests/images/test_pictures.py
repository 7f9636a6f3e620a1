"""Files of pictures: which formats, in what depth, and which way up."""

from __future__ import annotations

import io
import re
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image

import thoraxlib
from thoraxlib import datasets, images, plotting
from thoraxlib.datasets.files import image_size
from thoraxlib.images.pictures import decode

RNG = np.random.default_rng(5)
GREY = RNG.integers(0, 65536, (13, 9), dtype=np.uint16)
COLOUR = RNG.integers(0, 65536, (13, 9, 3), dtype=np.uint16)
LUMA = (COLOUR.astype(np.float64) @ [0.299, 0.587, 0.114] / 65535).astype(np.float32)
_CHANNELS = {1: 0, 2: 4, 3: 2, 4: 6}  # PNG's number of each kind


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(pixels: np.ndarray, after: bytes = b"", before: bytes = b"", filtered: int = 0) -> bytes:
    """A PNG file of 16 bits, or of 8; each row is `filtered` as 0, not at all, or 1, by its left neighbour."""
    h, w, c = (*pixels.shape, 1)[:3]
    rows = pixels.astype(">u2" if pixels.dtype == np.uint16 else np.uint8).reshape(h, -1).view(np.uint8)
    if filtered:
        pixel = rows.shape[1] // w
        rows = np.concatenate([rows[:, :pixel], rows[:, pixel:] - rows[:, :-pixel]], axis=1)
    body = b"".join(bytes([filtered]) + row.tobytes() for row in rows)
    head = struct.pack(">IIBBBBB", w, h, 8 * pixels.dtype.itemsize, _CHANNELS[c], 0, 0, 0)
    parts = (chunk(b"IHDR", head), before, chunk(b"IDAT", zlib.compress(body)), after, chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def tiff(pixels: np.ndarray, photometric: int, order: str = "<", packed: bool = False, **tags: int) -> bytes:
    """A TIFF file with one strip; `tags` are written as t274=6, and may stand for those below."""
    h, w, c = (*pixels.shape, 1)[:3]
    planes = np.moveaxis(pixels, -1, 0) if tags.get("t284") == 2 else pixels
    strips = [plane.astype(pixels.dtype.newbyteorder(order)).tobytes() for plane in planes]
    strips = strips if tags.get("t284") == 2 else [b"".join(strips)]
    strips = [zlib.compress(strip) if packed else strip for strip in strips]
    offsets = np.cumsum([8, *map(len, strips)]).tolist()
    values: dict[int, list[int]] = {
        256: [w],
        257: [h],
        258: [8 * pixels.dtype.itemsize] * c,
        259: [8 if packed else 1],
        262: [photometric],
        273: offsets[:-1],
        277: [c],
        278: [h],
        279: [len(strip) for strip in strips],
        339: [3 if pixels.dtype.kind == "f" else 1] * c,
    }
    values |= {int(name[1:]): [value] for name, value in tags.items()}
    if c == 4:
        values[338] = [2]
    start, extra, entries = offsets[-1], b"", b""
    after = start + 2 + 12 * len(values) + 4
    for tag, numbers in sorted(values.items()):
        content = struct.pack(f"{order}{len(numbers)}I", *numbers)
        if len(numbers) > 1:
            content, extra = struct.pack(f"{order}I", after + len(extra)), extra + content
        entries += struct.pack(f"{order}HHI", tag, 4, len(numbers)) + content
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", start)
    return head + b"".join(strips) + struct.pack(f"{order}H", len(values)) + entries + bytes(4) + extra


def saved(pixels: np.ndarray, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def read(content: bytes, path: Path, **options: Any) -> np.ndarray:
    path.write_bytes(content)
    image = images.read(path, **options)
    assert image_size(path) == tuple(image.shape[-2:])
    return image[0].numpy()


# -- formats ------------------------------------------------------------------------------------------

BYTES = (GREY >> 8).astype(np.uint8)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP", "GIF", "PPM", "WEBP", "JPEG2000"])
def test_the_content_decides_the_format(kind: str, tmp_path: Path) -> None:
    smooth = np.linspace(0, 255, 13 * 9).astype(np.uint8).reshape(13, 9)
    options = {"lossless": True} if kind == "WEBP" else {}
    for name in ("image.png", "image.jpg", "image.eps", "image"):
        got = read(saved(smooth, kind, **options), tmp_path / name)
        assert np.abs(got.astype(int) - smooth).max() <= (12 if kind == "JPEG" else 0)


def test_cameras_jpeg_of_several_pictures(tmp_path: Path) -> None:
    file = io.BytesIO()
    first, second = (Image.fromarray(np.full((16, 16), value, np.uint8)) for value in (40, 200))
    first.save(file, "MPO", save_all=True, append_images=[second])
    assert Image.open(file).format == "MPO"
    assert np.abs(read(file.getvalue(), tmp_path / "image.jpg").astype(int) - 40).max() <= 1


@pytest.mark.parametrize("kind", ["TIFF", "GIF", "PNG", "WEBP"])
def test_of_several_pictures_the_first_is_read(kind: str, tmp_path: Path) -> None:
    file = io.BytesIO()
    first, second = (Image.fromarray(np.full((8, 8), value, np.uint8)) for value in (40, 200))
    options = {"lossless": True} if kind == "WEBP" else {}
    first.save(file, kind, save_all=True, append_images=[second] * 3, **options)
    assert (read(file.getvalue(), tmp_path / "image") == 40).all()


def test_postscript_reaches_no_ghostscript(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[Any] = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *args, **options: called.append(args))
    for folder in ("image", "label"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.png").write_bytes(saved(BYTES * 0, "PNG"))
    for folder in ("label", "image"):
        path = tmp_path / folder / "a.png"
        path.write_bytes(saved(BYTES, "EPS"))
        with pytest.raises(ValueError, match=r"a\.png is no image that Pillow can read here.*it is PostScript"):
            datasets.build("image_mask", root=tmp_path, classes=["lungs"])[0]
        for reader in (images.read, image_size):
            with pytest.raises(ValueError, match=r"a\.png is no image.*it is PostScript"):
                reader(path)
    assert not called


@pytest.mark.parametrize(
    ("start", "kind"),
    [
        (b"%PDF-1.7", "PDF"),
        (b"SIMPLE  =", "FITS"),
        (b"\x89HDF\r\n", "HDF5"),
        (b"PK\x03\x04", "zip archive"),
        (b"<!DOCTYPE html>", "HTML"),
        (b"version https://git-lfs.github.com/spec/v1", "Git LFS"),
        (b"GRIB", "another kind"),
        (b"\xd7\xcd\xc6\x9a", "another kind"),
        (b"", "empty"),
    ],
)
def test_other_files_are_told_apart(start: bytes, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(start + bytes(100) * bool(start))
    with pytest.raises(ValueError, match=rf"image\.png is no image that Pillow can read here.*{kind}"):
        images.read(path)


@pytest.mark.parametrize("kind", ["ICO", "PCX", "SGI", "TGA", "DDS", "SPIDER", "IM", "ICNS", "EPS", "QOI"])
def test_formats_that_are_not_read(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    square = np.zeros((16, 16, 3), np.uint8) if kind in ("QOI", "DDS") else np.zeros((16, 16), np.uint8)
    try:
        path.write_bytes(saved(square, kind))
    except (KeyError, OSError) as error:
        pytest.skip(f"this Pillow does not write it: {error}")
    with pytest.raises(ValueError, match=r"image\.png is no image that Pillow can read here"):
        images.read(path)


def test_only_one_function_opens_pictures() -> None:
    sources = Path(thoraxlib.__file__).parent
    found = [path for path in sources.rglob("*.py") if re.search(r"Image\.open\(", path.read_text(encoding="utf-8"))]
    assert [path.name for path in found] == ["pictures.py"]


def test_a_failing_disk_or_short_memory_is_not_the_files_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(saved(BYTES, "PNG"))
    for error in (MemoryError(), OSError(5, "Input/output error")):

        def fail(self: Any, error: BaseException = error) -> None:
            raise error

        with monkeypatch.context() as patch, path.open("rb") as file:
            patch.setattr(Image.Image, "load", fail)
            patch.setattr("PIL.ImageFile.ImageFile.load", fail)
            with pytest.raises(type(error)) as raised:
                decode(file, path)
            assert raised.value is error


# -- bounds -------------------------------------------------------------------------------------------


def test_text_of_png_that_would_fill_the_memory(tmp_path: Path) -> None:
    bomb = zlib.compress(bytes(80 << 20), 9)
    for kind, head in ((b"zTXt", b"Comment\0\0"), (b"iTXt", b"Comment\0\1\0\0\0"), (b"iCCP", b"icc\0\0")):
        for where in ("before", "after"):
            if (kind, where) != (b"iCCP", "after"):
                path = tmp_path / "image.png"
                path.write_bytes(png(BYTES, **{where: chunk(kind, head + bomb)}))
                with pytest.raises(ValueError, match=r"image\.png is truncated or corrupt: .*too large"):
                    images.read(path)


def test_tiles_of_tiff_larger_than_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "image.tif"
    path.write_bytes(tiff(BYTES, 1, packed=True, t322=40_000, t323=40_000, t324=8, t325=100))
    with pytest.raises(ValueError, match=r"image\.tif is too large: it has tiles of 40000 x 40000 pixels"):
        images.read(path)


def test_pixels_beyond_the_limit(tmp_path: Path) -> None:
    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    path = tmp_path / "image.png"
    path.write_bytes(png(BYTES)[:8] + chunk(b"IHDR", head) + chunk(b"IDAT", b""))
    for reader in (images.read, image_size):
        with pytest.raises(ValueError, match=r"image\.png is too large"):
            reader(path)


# -- depth --------------------------------------------------------------------------------------------

DEEP = {
    "RGB PNG": (png(COLOUR), LUMA),
    "RGB PNG, filtered": (png(COLOUR, filtered=1), LUMA),
    "RGBA PNG": (png(np.dstack([COLOUR, GREY])), LUMA),
    "grey and alpha PNG": (png(np.dstack([GREY, GREY[::-1]]), filtered=1), GREY / np.float32(65535)),
    "RGB TIFF": (tiff(COLOUR, 2), LUMA),
    "RGB TIFF, big-endian": (tiff(COLOUR, 2, ">"), LUMA),
    "RGB TIFF, packed": (tiff(COLOUR, 2, packed=True), LUMA),
    "RGB TIFF, packed, big-endian": (tiff(COLOUR, 2, ">", packed=True), LUMA),
    "RGBA TIFF": (tiff(np.dstack([COLOUR, GREY]), 2), LUMA),
    "grey PNG": (png(GREY), GREY / np.float32(65535)),
    "grey TIFF, big-endian, packed": (tiff(GREY, 1, ">", packed=True), GREY / np.float32(65535)),
}


@pytest.mark.parametrize("kind", DEEP)
def test_16_bits_of_every_channel(kind: str, tmp_path: Path) -> None:
    content, expected = DEEP[kind]
    got = read(content, tmp_path / "image")
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)


def test_bits_and_window_count_for_every_channel(tmp_path: Path) -> None:
    twelve = GREY >> 4
    colour, plain = np.dstack([twelve] * 3), png(twelve)
    for option in ({"bits": 12}, {"window": "minmax"}, {"window": "percentiles"}, {"window": (2000.0, 3000.0)}):
        expected = read(plain, tmp_path / "grey.png", **option)
        for content in (png(colour), png(np.dstack([colour, GREY])), png(np.dstack([twelve, GREY])), tiff(colour, 2)):
            np.testing.assert_allclose(read(content, tmp_path / "image", **option), expected, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match=r"image: bits=10 allows pixels up to 1023"):
        read(png(colour), tmp_path / "image", bits=10)


def jpeg_2000(pixels: np.ndarray) -> bytes:
    openjpeg = pytest.importorskip("openjpeg.utils", reason="needs pylibjpeg-openjpeg, of the extra dicom")
    return bytes(openjpeg.encode_array(np.tile(pixels, (8, 8, 1)), photometric_interpretation=1))


@pytest.mark.parametrize(
    "content",
    [
        lambda: tiff(COLOUR, 2, t284=2),
        lambda: tiff(COLOUR, 2, packed=True, t284=2),
        lambda: tiff(np.dstack([COLOUR, GREY]), 5),
        lambda: b"P6 9 13 65535\n" + COLOUR.astype(">u2").tobytes(),
        lambda: b"P6 9 13 4095\n" + (COLOUR >> 4).astype(">u2").tobytes(),
        lambda: b"P3 1 1 1023\n1 2 3\n",
        lambda: jpeg_2000(COLOUR),
    ],
    ids=["planes", "packed planes", "CMYK", "PPM", "PPM of 12 bits", "plain PPM", "JPEG 2000"],
)
def test_depth_is_never_lost_in_silence(content: Any, tmp_path: Path) -> None:
    for options in ({}, {"bits": 12}, {"window": "minmax"}):
        with pytest.raises(
            ValueError, match=r"image has colours of more than 8 bits|image is no image that Pillow can read"
        ):
            read(content(), tmp_path / "image", **options)


def test_grey_formats_of_16_bits(tmp_path: Path) -> None:
    for content in (b"P5 9 13 65535\n" + GREY.astype(">u2").tobytes(), saved(GREY, "JPEG2000", irreversible=False)):
        np.testing.assert_allclose(read(content, tmp_path / "image"), GREY / 65535, rtol=0, atol=1e-6)


def test_masks_of_deep_colours_are_refused(tmp_path: Path) -> None:
    for folder, content in (("image", saved(BYTES, "PNG")), ("label", png(np.dstack([GREY] * 3)))):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.png has colours of more than 8 bits"):
        datasets.build("image_mask", root=tmp_path, classes=["lungs"])[0]


def test_packed_big_endian_tiff_of_32_bits_is_refused(tmp_path: Path) -> None:
    """Pillow would take its bytes in the wrong order."""
    values = (GREY / 65535).astype(np.float32)
    np.testing.assert_array_equal(read(tiff(values, 1, ">"), tmp_path / "image"), values)
    with pytest.raises(ValueError, match="TIFF with pixels of a kind that Pillow does not read"):
        read(tiff(values, 1, ">", packed=True), tmp_path / "image")


def test_32_bits_that_16_do_not_hold(tmp_path: Path) -> None:
    wide = GREY.astype(np.int32)
    np.testing.assert_allclose(read(saved(wide, "TIFF"), tmp_path / "image"), GREY / 65535, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match=r"image: 32-bit pixels must lie in 0 \.\.\. 65535, got 70000"):
        read(saved(wide * 0 + 70_000, "TIFF"), tmp_path / "image")


# -- polarity -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", ["1", "8", "16", "float"])
def test_zero_is_white_where_tiff_says_so(kind: str, packed: bool, tmp_path: Path) -> None:
    if kind == "1":
        content = saved(GREY > 30_000, "TIFF")  # Pillow writes BlackIsZero
        pixels: np.ndarray = (GREY > 30_000) * np.uint8(255)
        white = bytearray(content)
        at = content.index(struct.pack("<HHIH", 262, 3, 1, 1))
        white[at + 8] = 0
        contents = {1: content, 0: bytes(white)}
    else:
        pixels = {"8": BYTES, "16": GREY, "float": (GREY / 65535).astype(np.float32)}[kind]
        contents = {photometric: tiff(pixels, photometric, packed=packed) for photometric in (0, 1)}
    black, white_ = (read(contents[p], tmp_path / "image") for p in (1, 0))
    top = 255 if kind in ("1", "8") else 1
    np.testing.assert_allclose(black, pixels / (65535 if kind == "16" else 1), atol=1e-6)
    np.testing.assert_allclose(white_.astype(np.float64), top - black.astype(np.float64), atol=1e-6)


def test_zero_is_white_after_bits_and_window(tmp_path: Path) -> None:
    twelve = GREY >> 4
    for option in ({"bits": 12}, {"window": "minmax"}, {"window": (2000.0, 3000.0)}):
        black, white = (read(tiff(twelve, photometric), tmp_path / "image", **option) for photometric in (1, 0))
        np.testing.assert_allclose(white, 1 - black, atol=1e-6)
    assert read(tiff(twelve * 0, 0), tmp_path / "image", bits=12).min() == 1


# -- orientation --------------------------------------------------------------------------------------

CORNERS = np.kron(np.array([[250, 180, 120], [60, 90, 0]], np.uint8), np.ones((16, 16), np.uint8))
# EXIF 2.32, tag Orientation: where the first row and the first column of the file are
TURNED = {
    1: CORNERS,
    2: CORNERS[:, ::-1],
    3: CORNERS[::-1, ::-1],
    4: CORNERS[::-1],
    5: CORNERS.T,
    6: np.rot90(CORNERS, -1),
    7: CORNERS[::-1, ::-1].T,
    8: np.rot90(CORNERS),
}


def exif(orientation: int) -> bytes:
    return struct.pack("<2sHIHHHIHHI", b"II", 42, 8, 1, 274, 3, 1, orientation, 0, 0)


ORIENTED = {
    "JPEG": lambda o: saved(CORNERS, "JPEG", quality=100, exif=b"Exif\0\0" + exif(o)),
    "PNG": lambda o: png(CORNERS, before=chunk(b"eXIf", exif(o))),
    "PNG, at its end": lambda o: png(CORNERS, after=chunk(b"eXIf", exif(o))),
    "TIFF": lambda o: tiff(CORNERS, 1, t274=o),
    "packed TIFF": lambda o: tiff(CORNERS, 1, packed=True, t274=o),
    "WebP": lambda o: saved(CORNERS, "WEBP", lossless=True, exif=exif(o)),
    "deep PNG": lambda o: png(np.dstack([CORNERS.astype(np.uint16) * 257] * 3), before=chunk(b"eXIf", exif(o))),
    "deep TIFF": lambda o: tiff(np.dstack([CORNERS.astype(np.uint16) * 257] * 3), 2, t274=o),
    "deep grey TIFF": lambda o: tiff(CORNERS.astype(np.uint16) * 257, 1, t274=o),
}


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize("kind", ORIENTED)
def test_images_are_turned_as_they_say(kind: str, orientation: int, tmp_path: Path) -> None:
    got = read(ORIENTED[kind](orientation), tmp_path / "image")  # the size from the header is checked too
    expected = TURNED[orientation]
    assert got.shape == expected.shape
    assert np.abs(got * (255 if got.dtype == np.float32 else 1) - expected).max() <= 3


@pytest.mark.parametrize("damaged", [b"", b"II", exif(9), exif(6)[:-8], b"\xff" * 30, exif(0)])
def test_orientation_that_says_nothing_is_ignored(damaged: bytes, tmp_path: Path) -> None:
    for where in ("before", "after"):
        got = read(png(CORNERS, **{where: chunk(b"eXIf", damaged)}), tmp_path / "image.png")
        np.testing.assert_array_equal(got, CORNERS)


def test_every_user_of_an_image_sees_one_frame(tmp_path: Path) -> None:
    """A turned image as path, as Pillow's image, with its mask, in a training copy, and in a picture."""
    for folder, value in (("image", CORNERS), ("label", (CORNERS > 200).astype(np.uint8))):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.png").write_bytes(png(value, before=chunk(b"eXIf", exif(6))))
    path = tmp_path / "image/a.png"
    image = images.read(path)
    with Image.open(path) as opened:
        assert torch.equal(images.read(opened), image)
        assert np.array_equal(np.array(plotting.fit(opened, 48))[..., 0], np.array(plotting.fit(image, 48))[..., 0])
    sample = datasets.build("image_mask", root=tmp_path, classes=["lungs"])[0]
    assert torch.equal(sample["image"], image)
    assert torch.equal(sample["masks"][0].bool(), image[0] > 200)
    spec = thoraxlib.InputSpec(size=(48, 32))
    copy = thoraxlib.prepare(tmp_path / "image", tmp_path / "copy", spec=spec, num_workers=0, progress=False)
    assert copy.size("a.png") == (48, 32)
    assert torch.equal(copy.image("a.png"), image)
    with Image.open(path) as opened:
        assert thoraxlib.preprocess_for(spec)([path, opened]).unique(dim=0).shape[0] == 1


def test_deep_images_of_pillows_are_drawn_in_their_greys() -> None:
    ramp = np.linspace(0, 65535, 64, dtype=np.uint16).reshape(8, 8)
    drawn = np.array(plotting.fit(Image.fromarray(ramp), 8))[..., 0]
    np.testing.assert_allclose(drawn, ramp / 257, atol=1)
