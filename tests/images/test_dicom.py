"""DICOM files of every kind that a reader meets, written here with pydicom."""

from __future__ import annotations

import hashlib
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from thoraxlib import images
from thoraxlib.input_spec import InputSpec

pydicom = pytest.importorskip("pydicom", reason="needs the extra dicom")
sys.path.insert(0, str(Path(__file__).parent))

from dicom_files import DEEP, RAMP, compressed, dataset, jpeg, lossless, saved, table  # noqa: E402
from pydicom import uid  # noqa: E402
from pydicom.dataset import Dataset  # noqa: E402
from pydicom.encaps import encapsulate  # noqa: E402


def read(pixels: np.ndarray, polarity: str = "MONOCHROME2", *, window: Any = None, **tags: Any) -> np.ndarray:
    return images.read(saved(dataset(pixels, polarity, **tags)), window=window)[0].numpy()


# -- what is shown ------------------------------------------------------------------------------------


def test_the_choice_of_window() -> None:
    tags = {
        "BitsStored": 12,
        "WindowCenter": [1000, 3000],
        "WindowWidth": [401, 2001],
        "VOILUTSequence": [table(np.arange(4096)[::-1], 0, 12)],
    }
    seen = {
        how: read(DEEP, window=how, **tags) for how in (None, 0, 1, 2, (1000.0, 401.0), "percentiles", "minmax", "bits")
    }
    x = DEEP.astype(np.float64)
    np.testing.assert_array_equal(seen[None], seen[0])  # a table goes before windows
    np.testing.assert_allclose(seen[0], 1 - x / 4095, atol=1e-6)
    np.testing.assert_allclose(seen[1], images.window(x, 1000, 401), atol=1e-6)
    np.testing.assert_allclose(seen[2], images.window(x, 3000, 2001), atol=1e-6)
    np.testing.assert_array_equal(seen[1000.0, 401.0], seen[1])
    low, high = np.percentile(x, (0.5, 99.5))
    np.testing.assert_allclose(seen["percentiles"], np.clip((x - low) / (high - low), 0, 1), atol=1e-6)
    np.testing.assert_allclose(seen["minmax"], x / x.max(), atol=1e-6)
    np.testing.assert_allclose(seen["bits"], x / 4095, atol=1e-6)
    with pytest.raises(ValueError, match="window=3: the file has 3 VOI tables and windows"):
        read(DEEP, window=3, **tags)
    for wrong in ("soft", -1, (1.0,), (np.nan, 1.0), True, 1.5):
        with pytest.raises(ValueError, match="window must be"):
            read(DEEP, window=wrong)
    with pytest.raises(ValueError, match="too small"):
        read(DEEP, window=(100.0, 0.0))


def test_a_voi_table_of_8_bit_entries_over_12_bit_pixels() -> None:
    seen = read(DEEP, BitsStored=12, VOILUTSequence=[table(np.arange(4096) // 16, 0, 8)])
    np.testing.assert_allclose(seen, (DEEP // 16) / 255, atol=1e-6)


@pytest.mark.parametrize("vr", ["US", "OW"])
@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian])
@pytest.mark.parametrize(("top", "stated", "white"), [(4095, 16, 4095), (4000, 16, 4095), (200, 16, 255)])
@pytest.mark.parametrize("kind", ["VOILUTSequence", "ModalityLUTSequence"])
def test_a_table_that_states_the_size_of_its_entries(
    vr: str, syntax: str, top: int, stated: int, white: int, kind: str
) -> None:
    entries = np.linspace(0, top, 4096).round().astype(int)
    data = dataset(DEEP, syntax=syntax, BitsStored=12, **{kind: [table(entries, 0, stated, vr)]})
    file = images.read(saved(data), window=0 if kind == "VOILUTSequence" else (2048.0, 4096.0))
    expected = entries[DEEP] / white if kind == "VOILUTSequence" else images.window(entries[DEEP], 2048, 4096)
    np.testing.assert_allclose(file[0], expected, atol=1e-6)


def test_a_table_that_is_dark_of_its_own_keeps_its_depth() -> None:
    dark = np.linspace(0, 1000, 4096).round().astype(int)
    seen = read(DEEP, BitsStored=12, VOILUTSequence=[table(dark, 0, 12)])
    np.testing.assert_allclose(seen, dark[DEEP] / 4095, atol=1e-6)


@pytest.mark.parametrize("vr", ["US", "OW"])
def test_tables_hold_their_ends(vr: str) -> None:
    entries = np.array([100, 200, 300, 1023])
    seen = read(np.array([[0, 9, 10, 11, 12, 13, 999]], np.uint16), VOILUTSequence=[table(entries, 10, 10, vr)])
    np.testing.assert_allclose(seen[0] * 1023, [100, 100, 100, 200, 300, 1023, 1023], atol=1e-3)
    packed = Dataset()
    packed.LUTDescriptor = [4, 10, 8]
    packed.add_new("LUTData", "OW", bytes([0, 10, 20, 255]))
    seen = read(np.array([[10, 11, 12, 13]], np.uint16), VOILUTSequence=[packed])
    np.testing.assert_allclose(seen[0] * 255, [0, 10, 20, 255], atol=1e-3)


def test_modality_tables_and_negative_values() -> None:
    entries = np.arange(256) ** 2 // 2
    seen = read(RAMP, ModalityLUTSequence=[table(entries, 0, 16)], window="minmax")
    np.testing.assert_allclose(seen, entries[RAMP] / entries[RAMP].max(), atol=1e-6)
    signed = np.array([[-1000, -500, 0, 500, 1000]], np.int16)
    np.testing.assert_allclose(read(signed, window="minmax")[0], [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(read(signed, window="bits", BitsStored=12)[0], (signed[0] + 2048.0) / 4095, atol=1e-6)
    np.testing.assert_allclose(
        read(signed, VOILUTSequence=[table(np.arange(2001), -1000, 11)])[0], np.arange(0, 2001, 500) / 2047, atol=1e-6
    )
    shifted = dataset(np.array([[0, 500, 1000]], np.uint16), RescaleSlope=1, RescaleIntercept=-1000)
    item = table(np.arange(1001), 0, 10)
    item.add_new("LUTDescriptor", "US", [1001, 2**16 - 1000, 10])  # -1000, as writers without SS put it
    shifted.VOILUTSequence = [item]
    np.testing.assert_allclose(images.read(saved(shifted))[0, 0], [0, 500 / 1023, 1000 / 1023], atol=1e-6)


@pytest.mark.parametrize("polarity", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_black_and_no_part_of_the_percentiles(polarity: str) -> None:
    image = np.linspace(1000, 2000, 2000).astype(np.uint16).reshape(40, 50)
    padded = np.full((60, 70), 4000, np.uint16)
    padded[10:50, 10:60] = image
    padded[0, :35] = 4095
    plain = read(image, polarity, BitsStored=12)
    seen = read(padded, polarity, BitsStored=12, PixelPaddingValue=4095, PixelPaddingRangeLimit=3990)
    np.testing.assert_array_equal(seen[10:50, 10:60], plain)
    seen[10:50, 10:60] = 0
    assert seen.max() == 0
    one = read(padded, polarity, BitsStored=12, PixelPaddingValue=4095)
    assert one[0, :35].max() == 0
    assert one[0, 35:].min() == (1 if polarity == "MONOCHROME2" else 0)  # 4000 counts as image then
    eight = read(RAMP, polarity, PixelPaddingValue=int(RAMP[-1, -1]))
    assert eight.dtype == np.uint8
    assert eight[-1, -1] == 0
    np.testing.assert_array_equal(eight[0], RAMP[0] if polarity == "MONOCHROME2" else 255 - RAMP[0])
    assert read(np.full((4, 4), 7, np.uint16), polarity, PixelPaddingValue=7).max() == 0  # nothing but padding


@pytest.mark.parametrize("polarity", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(
    "view",
    [
        {"WindowCenter": 60000, "WindowWidth": 10},
        {"WindowCenter": -9000, "WindowWidth": 10},
        {"VOILUTSequence": [table(np.full(9, 5), 0, 12)]},
    ],
)
def test_a_window_that_no_pixel_falls_into(polarity: str, view: dict[str, Any]) -> None:
    stretched = read(DEEP, polarity, BitsStored=12)
    with pytest.warns(UserWarning, match="the file: no pixel falls into the file's window"):
        seen = read(DEEP, polarity, BitsStored=12, **view)
    np.testing.assert_array_equal(seen, stretched)
    with pytest.warns(UserWarning, match="the file: all pixels are shown with one value"):
        seen = read(DEEP, polarity, BitsStored=12, window=0, **view)  # asked for, so it is given
    assert seen.min() == seen.max()


@pytest.mark.parametrize("pixels", [np.full((4, 5), 7, np.uint8), np.full((4, 5), 300, np.uint16)])
def test_a_blank_image_is_told(pixels: np.ndarray) -> None:
    with pytest.warns(UserWarning, match="all pixels are shown with one value"):
        read(pixels)


EDGES = [0.0, -0.0, 5e-324, 1e-308, 1e-30, 0.5, 1.0, 4095.0, 1e16, 1e150, 1e300, 1e308]
NUMBERS = st.sampled_from([*EDGES, *(-edge for edge in EDGES)]) | st.floats(allow_nan=False, allow_infinity=False)


@settings(max_examples=150, deadline=None)
@given(slope=NUMBERS, intercept=NUMBERS, centre=NUMBERS, width=NUMBERS, data=st.data())
@example(slope=1e308, intercept=0.0, centre=0.0, width=1.0, data=None)
@example(slope=1.0, intercept=1e300, centre=0.0, width=1.0, data=None)
@example(slope=1e-308, intercept=0.0, centre=1e308, width=1e308, data=None)
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_numbers_at_the_edge(slope: float, intercept: float, centre: float, width: float, data: Any) -> None:
    signed = data is not None and data.draw(st.booleans())
    how = data.draw(st.sampled_from([None, "percentiles", "minmax", "bits", 0])) if data is not None else "minmax"
    function = data.draw(st.sampled_from(["LINEAR", "LINEAR_EXACT", "SIGMOID"])) if data is not None else "LINEAR"
    pixels = (DEEP.astype(np.int16) - 2000) if signed else DEEP
    tags = {"RescaleSlope": slope, "RescaleIntercept": intercept, "WindowCenter": centre, "WindowWidth": width}
    texts = {name: f"{value:.9e}" for name, value in tags.items()}  # within the 16 characters of a number
    try:
        seen = read(pixels, window=how, BitsStored=12, VOILUTFunction=function, **texts)
    except ValueError as error:
        refused = str(error)
    else:
        refused = ""
    assert not refused or any(name in refused for name in tags)
    if refused:
        return
    assert seen.min() >= 0
    assert seen.max() <= 1
    if how == "minmax":
        assert (seen.min(), seen.max()) == (0, 1)


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"RescaleSlope": "1e308"}, "RescaleSlope or RescaleIntercept is too large"),
        ({"RescaleIntercept": "1e20"}, "RescaleSlope or RescaleIntercept is too large"),
        ({"RescaleSlope": "0"}, "RescaleSlope must not be 0"),
    ],
)
def test_rescaling_that_leaves_no_values(tags: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(DEEP, window="minmax", **tags)


@pytest.mark.parametrize("slope", ["1e-12", "1e-300", "1e12", "1e300"])
def test_percentiles_are_the_same_at_every_scale(slope: str) -> None:
    np.testing.assert_allclose(read(DEEP, RescaleSlope=slope), read(DEEP), atol=1e-6)


def test_windows_beyond_floating_point() -> None:
    for wrong in ((10**400, 1), (0, 10**400)):
        with pytest.raises(ValueError, match="window must be"):
            read(DEEP, window=wrong)


def test_signed_padding_in_an_unsigned_field() -> None:
    pixels = np.array([[-2000, -2000, -100, 0, 100]], np.int16)
    data = dataset(pixels)
    data.add_new("PixelPaddingValue", "US", 2**16 - 2000)
    np.testing.assert_allclose(images.read(saved(data), window="minmax")[0, 0], [0, 0, 0, 0.5, 1])


def test_bits_that_are_not_in_use_do_not_count() -> None:
    overlay = DEEP | (np.indices(DEEP.shape).sum(axis=0) % 2 << 15).astype(np.uint16)
    np.testing.assert_array_equal(read(overlay, BitsStored=12), read(DEEP, BitsStored=12))
    assert read(RAMP // 4, BitsStored=6, window="bits").max() == pytest.approx(RAMP.max() // 4 / 63)


@pytest.mark.parametrize(
    "syntax",
    [uid.ImplicitVRLittleEndian, uid.ExplicitVRBigEndian, uid.DeflatedExplicitVRLittleEndian, uid.RLELossless],
)
def test_transfer_syntaxes(syntax: str) -> None:
    for pixels in (RAMP, DEEP):
        data = dataset(pixels, PixelPaddingValue=int(pixels[3, 3]))
        expected = images.read(saved(data))
        if syntax == uid.RLELossless:
            data.compress(syntax, generate_instance_uid=False)
        else:
            data.file_meta.TransferSyntaxUID = syntax
            if syntax == uid.ExplicitVRBigEndian:
                data.PixelData = pixels.astype(pixels.dtype.newbyteorder(">")).tobytes()
            data = pydicom.dcmread(_converted(data, syntax))
        assert torch.equal(images.read(saved(data)), expected)


def _converted(data: Dataset, syntax: str) -> io.BytesIO:
    file = io.BytesIO()
    data.save_as(
        file,
        implicit_vr=syntax == uid.ImplicitVRLittleEndian,
        little_endian=syntax != uid.ExplicitVRBigEndian,
        enforce_file_format=True,
    )
    file.seek(0)
    return file


def test_jpeg_baseline() -> None:
    seen = images.read(compressed(RAMP, jpeg(RAMP, 100), uid.JPEGBaseline8Bit))
    assert seen.dtype == torch.uint8
    assert np.abs(seen[0].numpy().astype(int) - RAMP).max() <= 2


def test_jpeg_lossless_which_many_images_come_in() -> None:
    pytest.importorskip("gdcm", reason="needs python-gdcm, of the extra dicom")
    content = lossless(DEEP, 12)
    seen = images.read(compressed(DEEP, content, uid.JPEGLosslessSV1, BitsStored=12))
    np.testing.assert_array_equal(seen[0], read(DEEP, BitsStored=12))
    wrong = {
        "header says 40 x 24.*has 40 x 25": (DEEP[:, :24], content),
        "12 bits and 1 channels": (RAMP.repeat(10, 1)[:, :25].repeat(4, 0)[:40], content),
        "cut off": (DEEP, content[:-200]),
        "no whole header": (DEEP, content.replace(b"\xff\xc4", b"\x3a\xc4")),
    }
    for message, (pixels, picture) in wrong.items():
        with pytest.raises(ValueError, match=message):
            images.read(compressed(pixels, picture, uid.JPEGLosslessSV1))


def test_jpeg_2000() -> None:
    file = io.BytesIO()
    Image.fromarray(RAMP).save(file, "JPEG2000", irreversible=False)
    stream = file.getvalue()[file.getvalue().index(b"\xff\x4f\xff\x51") :]
    seen = images.read(compressed(RAMP, stream, uid.JPEG2000Lossless))
    np.testing.assert_array_equal(seen[0], RAMP)
    with pytest.raises(ValueError, match="header says 10 x 12.*has 12 x 10"):
        images.read(compressed(RAMP.T, stream, uid.JPEG2000Lossless))


# -- what is refused ----------------------------------------------------------------------------------


def frames(data: Dataset) -> None:
    data.NumberOfFrames = 2
    data.PixelData = data.PixelData * 2


def colour(data: Dataset) -> None:
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PlanarConfiguration = 3, "RGB", 0
    data.PixelData = data.PixelData * 3


def no_polarity(data: Dataset) -> None:
    del data.PhotometricInterpretation


def no_pixels(data: Dataset) -> None:
    del data.PixelData


def no_rows(data: Dataset) -> None:
    del data.Rows


def cut(data: Dataset) -> None:
    data.PixelData = data.PixelData[:-20]


def bomb(data: Dataset) -> None:
    data.Rows = data.Columns = 65535


def deep(data: Dataset) -> None:
    data.BitsAllocated = data.BitsStored = 32


def shifted(data: Dataset) -> None:
    data.BitsStored, data.HighBit = 4, 7


def flat(data: Dataset) -> None:
    data.RescaleSlope, data.RescaleIntercept = 0, 5


def samples(data: Dataset) -> None:
    data.SamplesPerPixel = 3


def unknown_syntax(data: Dataset) -> None:
    data.file_meta.TransferSyntaxUID = uid.MPEG2MPML
    data.PixelData = encapsulate([b"1234"])
    data["PixelData"].VR = "OB"


def window_of_nothing(data: Dataset) -> None:
    data.WindowCenter, data.WindowWidth = 100, 0


def window_of_words(data: Dataset) -> None:
    data.WindowCenter, data.WindowWidth, data.VOILUTFunction = 100, 50, "CUBIC"


def short_table(data: Dataset) -> None:
    item = table(np.arange(10), 0, 8)
    item.LUTDescriptor = [4096, 0, 8]
    data.VOILUTSequence = [item]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (frames, "single frame.*NumberOfFrames is 2"),
        (colour, "MONOCHROME1 or MONOCHROME2, got RGB"),
        (no_polarity, "got missing"),
        (no_pixels, "no PixelData"),
        (no_rows, "Rows"),
        (cut, "cannot|bytes|length|pixel data"),
        (bomb, "65535 x 65535 pixels are too large"),
        (deep, "BitsAllocated must be 8 or 16.*32"),
        (shifted, r"HighBit must be BitsStored - 1 = 3, got 7"),
        (flat, "RescaleSlope must not be 0"),
        (samples, "SamplesPerPixel is 3"),
        (unknown_syntax, "MPEG2.*not known"),
        (window_of_nothing, "WindowWidth is too small"),
        (window_of_words, "VOILUTFunction.*not LINEAR"),
        (short_table, "4096 entries.*has 10"),
    ],
)
def test_refused(spoil: Any, message: str, tmp_path: Path) -> None:
    data = dataset(RAMP)
    spoil(data)
    path = tmp_path / "image.dcm"
    path.write_bytes(saved(data).getvalue())
    with pytest.raises(ValueError, match=message) as raised:
        images.read(path)
    assert str(path) in str(raised.value)


def test_an_empty_high_bit_says_nothing() -> None:
    data = dataset(RAMP)
    data.HighBit = None
    assert np.array_equal(images.read(saved(data))[0].numpy(), RAMP)


def test_limits_hold_before_anything_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 59)  # RAMP has 120
    with pytest.raises(ValueError, match="12 x 10 pixels are too large"):
        read(RAMP)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 60)
    read(RAMP)
    large = jpeg(np.zeros((1000, 1000), np.uint8))
    with pytest.raises(ValueError, match="header says 12 x 10 pixels, the compressed image has 1000 x 1000"):
        images.read(compressed(RAMP, large, uid.JPEGBaseline8Bit))
    boxed = io.BytesIO()
    Image.fromarray(np.zeros((1000, 1000), np.uint8)).save(boxed, "JPEG2000", no_jp2=False)
    with pytest.raises(ValueError, match="header says 12 x 10 pixels, the compressed image has 1000 x 1000"):
        images.read(compressed(RAMP, boxed.getvalue(), uid.JPEG2000Lossless))


def test_a_missing_decoder_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    from pydicom.pixels import get_decoder

    decoder = get_decoder(uid.JPEGBaseline8Bit)
    monkeypatch.setattr(decoder, "_available", {})
    with pytest.raises(ImportError, match=r"JPEG Baseline.*thoraxlib\[dicom\]"):
        images.read(compressed(RAMP, jpeg(RAMP), uid.JPEGBaseline8Bit))


def test_a_truncated_jpeg() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    with pytest.raises(ValueError, match="the file"):
        images.read(compressed(noise, jpeg(noise)[:400], uid.JPEGBaseline8Bit))


WHOLE = saved(
    dataset(DEEP, BitsStored=12, WindowCenter=2000, WindowWidth=3000, VOILUTSequence=[table(np.arange(99), 0, 8)])
).getvalue()
JPEG = compressed(RAMP, jpeg(RAMP), uid.JPEGBaseline8Bit).getvalue()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
@pytest.mark.filterwarnings("ignore")
def test_damaged_files_are_read_or_refused_but_nothing_else(data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from([WHOLE, JPEG])))
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content)))]
    for _ in range(data.draw(st.integers(0, 6))):
        if content:
            content[data.draw(st.integers(0, min(len(content), 1200) - 1))] = data.draw(st.integers(0, 255))
    try:
        seen = images.read(io.BytesIO(bytes(content)))
    except (ValueError, ImportError):
        return
    assert seen.ndim == 3
    assert seen.dtype == torch.uint8 or (seen.min() >= 0 and seen.max() <= 1)


@settings(max_examples=60, deadline=None)
@given(content=st.binary(max_size=300))
@example(content=b"")
@pytest.mark.filterwarnings("ignore")
def test_noise_is_refused(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    for start, suffix in (
        (b"", ".dcm"),
        (bytes(128) + b"DICM", ""),
        (b"\x89PNG\r\n\x1a\n", ".png"),
        (b"\xff\xd8\xff", ".jpg"),
        (b"", ""),
    ):
        path = tmp_path_factory.getbasetemp() / f"noise{suffix}"
        path.write_bytes(start + content)
        with pytest.raises(ValueError, match="noise"):
            images.read(path)


# -- windows ------------------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(
    pixels=hnp.arrays(np.uint16, st.tuples(st.integers(1, 8), st.integers(1, 8))),
    how=st.one_of(
        st.sampled_from(["percentiles", "minmax", "bits"]),
        st.tuples(st.floats(-1e5, 1e5), st.floats(1, 1e5)),
    ),
)
def test_every_window_is_monotonic_and_within_0_and_1(pixels: np.ndarray, how: Any) -> None:
    seen = images.read(pixels, window=how)[0].numpy()
    assert seen.min() >= 0
    assert seen.max() <= 1
    order = np.argsort(pixels, axis=None)
    assert (np.diff(seen.ravel()[order]) >= 0).all()
    if how == "percentiles":
        low, high = np.percentile(pixels, (0.5, 99.5))
        expected = np.clip((pixels - low) / max(high - low, 1e-6), 0, 1)
        np.testing.assert_allclose(seen, expected, atol=1e-5)
    np.testing.assert_allclose(read(pixels, window=how), seen, atol=1e-6)


@given(
    x=hnp.arrays(np.float64, 5, elements=st.floats(-1e6, 1e6)),
    centre=st.floats(-1e6, 1e6),
    width=st.floats(1, 1e6),
    function=st.sampled_from(["LINEAR", "LINEAR_EXACT", "SIGMOID"]),
)
def test_window_functions(x: np.ndarray, centre: float, width: float, function: str) -> None:
    seen = images.window(np.sort(x), centre, width, function)
    assert (np.diff(seen) >= 0).all()
    assert seen.min() >= 0
    assert seen.max() <= 1
    if function != "LINEAR":
        assert images.window(np.array([centre]), centre, width, function)[0] == pytest.approx(0.5)


def test_windows_of_png_files(tmp_path: Path) -> None:
    Image.fromarray(DEEP).save(tmp_path / "deep.png")
    Image.fromarray(RAMP).save(tmp_path / "ramp.png")
    wide = read(DEEP, window=(2000.0, 1000.0))
    np.testing.assert_array_equal(images.read(tmp_path / "deep.png", window=(2000.0, 1000.0))[0], wide)
    np.testing.assert_array_equal(images.read(tmp_path / "deep.png", window="percentiles")[0], read(DEEP))
    assert torch.equal(
        images.read(tmp_path / "deep.png", window="bits", bits=12), images.read(tmp_path / "deep.png", bits=12)
    )
    assert torch.equal(images.read(tmp_path / "ramp.png", window="minmax"), images.read(RAMP))  # 8 bits are final
    with pytest.raises(ValueError, match="only DICOM files have windows"):
        images.read(tmp_path / "deep.png", window=0)


# -- the same image as DICOM and as PNG ----------------------------------------------------------------


@pytest.mark.parametrize("polarity", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(
    "tags",
    [{}, {"BitsStored": 12, "WindowCenter": 2000, "WindowWidth": 1500}, {"RescaleSlope": 2, "RescaleIntercept": -7}],
)
def test_a_dicom_and_its_png_export_give_the_same_tensor(tmp_path: Path, polarity: str, tags: dict[str, Any]) -> None:
    preprocess = images.preprocess_for(InputSpec(size=(32, 20)))
    for pixels in (RAMP, DEEP) if not tags else (DEEP,):
        image = images.read(saved(dataset(pixels, polarity, **tags)))
        unit = image if image.is_floating_point() else image / 255
        for dtype, white in ((np.uint16, 65535), (np.uint8, 255)):
            Image.fromarray((unit[0].numpy() * white).round().astype(dtype)).save(tmp_path / "image.png")
            exported, own = preprocess(tmp_path / "image.png"), preprocess(saved(dataset(pixels, polarity, **tags)))
            eight = np.uint8 in (dtype, pixels.dtype)  # then both the pixels and the resize are rounded to 8 bits
            torch.testing.assert_close(exported, own, atol=(1.5 / 255 if eight else 1 / 65535) / 0.224, rtol=0)


def test_open_files_are_sources(tmp_path: Path) -> None:
    Image.fromarray(RAMP).save(tmp_path / "ramp.png")
    with (tmp_path / "ramp.png").open("rb") as file:
        assert torch.equal(images.read(file), images.read(RAMP))
    assert images.preprocess_for(InputSpec())(io.BytesIO((tmp_path / "ramp.png").read_bytes())).shape == (
        1,
        3,
        224,
        224,
    )


# -- geometry -----------------------------------------------------------------------------------------


ORIENTATIONS = ["LF", "RF", "LH", "RH", "FL", "FR", "HL", "HR", "AF", "PF", "AH", "PH"]  # the last four are laterals


@pytest.mark.parametrize("orientation", [*map(tuple, ORIENTATIONS), ("LP", "FA")])
@pytest.mark.parametrize("ratio", [None, (3, 2), (1, 2)])
def test_upright_and_back(orientation: tuple[str, str], ratio: tuple[int, int] | None) -> None:
    tags: dict[str, Any] = {"PatientOrientation": list(orientation)}
    if ratio is not None:
        tags["PixelAspectRatio"] = list(ratio)
    stored = np.zeros((40, 60), np.uint8)
    stored[10:20, 40:46] = 255
    geometry = images.read_geometry(saved(dataset(stored, **tags)))
    assert (geometry.height, geometry.width) == (40, 60)
    assert geometry.orientation == orientation
    box = torch.tensor([[40.0, 10.0, 46.0, 20.0]])
    upright, moved = geometry.upright(images.read(saved(dataset(stored, **tags)))), geometry.to_upright(box)
    x0, y0, x1, y1 = moved.round().int()[0].tolist()
    assert upright[0, y0:y1, x0:x1].float().mean() > 230
    assert upright.float().sum() / 255 == pytest.approx((x1 - x0) * (y1 - y0), rel=0.05)
    torch.testing.assert_close(geometry.to_stored(moved), box)
    # where the directions lead: the box is off the centre of the stored picture, to its right and its top
    across, down = (part[0] for part in orientation)
    right, below = (x0 + x1) / 2 > upright.shape[-1] / 2, (y0 + y1) / 2 > upright.shape[-2] / 2
    if across in "LR":
        assert right == (across == "L")
    if down in "LR":
        assert right == (down == "R")
    if across in "HF":
        assert below == (across == "F")
    if down in "HF":
        assert below == (down == "H")
    assert geometry.is_upright == ("".join(orientation) in {"LF", "AF", "PF", "LPFA"} and ratio is None)


def test_whole_numbers_and_absurd_pixels() -> None:
    geometry = images.Geometry(100, 80, aspect=1.5, orientation=("R", "F"))
    box = torch.tensor([[0, 10, 20, 30]])
    assert geometry.to_upright(box).tolist() == [[60, 15, 80, 45]]
    assert geometry.to_stored(geometry.to_upright(box)).tolist() == box.tolist()
    assert geometry.to_stored(torch.tensor([[60, 15, 80, 45]])).tolist() == box.tolist()
    wide = images.read_geometry(saved(dataset(RAMP, PixelSpacing=[1000, 0.0001])))
    with pytest.raises(ValueError, match="aspect=1e.07: 120000000 x 10 square pixels are too many"):
        wide.upright(images.read(RAMP))


def test_spacing() -> None:
    detector = {"ImagerPixelSpacing": [0.2, 0.1]}
    geometry = images.read_geometry(saved(dataset(RAMP, **detector)))
    assert geometry.spacing == (0.2, 0.1)
    assert geometry.aspect == 2
    assert geometry.upright(torch.zeros(1, 12, 10)).shape == (1, 24, 10)
    patient = images.read_geometry(saved(dataset(RAMP, PixelSpacing=[0.15, 0.15], **detector)))
    assert patient.spacing == (0.15, 0.15)
    assert patient.is_upright
    assert images.read_geometry(saved(dataset(RAMP, PixelAspectRatio=[1, 2]))).aspect == 0.5
    unknown = images.read_geometry(saved(dataset(RAMP, PatientOrientation=["X", "Y"], PixelSpacing=[0, 0])))
    assert unknown.is_upright
    assert unknown.spacing is None
    negative = images.read_geometry(saved(dataset(RAMP, PixelSpacing=[-0.1, 0.1], PixelAspectRatio=[0, 5])))
    assert (negative.spacing, negative.aspect) == (None, 1.0)
    for spacing in (["1e308", "1e-308"], ["1e-300", "1"]):
        with pytest.raises(ValueError, match=r"PixelSpacing makes a pixel more than 10\^9 times"):
            images.read_geometry(saved(dataset(RAMP, PixelSpacing=spacing)))
    with pytest.raises(ValueError, match="PixelSpacing must be a finite number"):
        images.read_geometry(saved(dataset(RAMP, PixelSpacing=["1e999", "1"])))
    with pytest.raises(ValueError, match=r"\(\.\.\., 12, 10\)"):
        unknown.upright(torch.zeros(1, 10, 12))


# -- real samples -------------------------------------------------------------------------------------


def test_the_real_dicoms(real_data: Path) -> None:
    folder = real_data / "samples"
    facts = json.loads((folder / "expected.json").read_text())
    for name, fact in facts.items():
        if not name.endswith(".dcm"):
            continue
        inverted, white = fact["photometric"] == "MONOCHROME1", 2 ** fact["bits_stored"] - 1
        seen = images.read(folder / "dicom" / name, window="bits")
        assert tuple(seen.shape) == (1, fact["rows"], fact["columns"])
        levels = (seen.double() / 255 if seen.dtype == torch.uint8 else seen.double()) * white
        levels = (white - levels if inverted else levels).round()
        assert (levels.min(), levels.max()) == (fact["stored_min"], fact["stored_max"]), name
        assert levels.mean().item() == pytest.approx(fact["stored_mean"], abs=1e-3)
        geometry = images.read_geometry(folder / "dicom" / name)
        assert (geometry.height, geometry.width) == (fact["rows"], fact["columns"])


def test_one_real_image_in_every_encoding(real_data: Path) -> None:
    folder = real_data / "dicom_real"
    facts = json.loads((folder / "expected.json").read_text())
    for name, fact in facts.items():
        seen = images.read(folder / name, window="bits")[0].double().numpy()
        if seen.max() <= 1:
            seen *= 2 ** fact["bits_stored"] - 1
        stored = (2 ** fact["bits_stored"] - 1 - seen if fact["photometric"] == "MONOCHROME1" else seen).round()
        assert hashlib.md5(stored.astype("<u2").tobytes()).hexdigest() == fact["md5_of_pixels"], name


def test_the_real_samples_agree(real_data: Path) -> None:
    folder = real_data / "samples/dicom"
    mono1, mono2, rescaled = (
        (images.read(folder / f"nih_{name}.dcm", window="bits").double() * white).round()
        for name, white in (("mono1_12bit", 4095), ("mono2_12bit_window", 4095), ("mono2_16bit_rescale", 65535))
    )
    assert torch.equal(mono1, mono2)  # stored as 4095 - grey, and shown as grey
    assert torch.equal(mono2, rescaled / 16)
    stretched = [
        images.read(folder / f"nih_{name}.dcm", window="percentiles")
        for name in ("mono1_12bit", "mono2_12bit_window", "mono2_16bit_rescale")
    ]
    for other in stretched[1:]:
        torch.testing.assert_close(stretched[0], other, atol=1e-6, rtol=0)
    png = images.read(real_data / "samples/png/nih_16bit_256.png")
    assert torch.equal((png.double() * 65535).round(), rescaled)


def test_the_real_pngs_and_jpegs(real_data: Path) -> None:
    folder = real_data / "samples"
    facts = json.loads((folder / "expected.json").read_text())
    for path in [*folder.glob("png/*"), *folder.glob("lung_masks/*.png"), *folder.glob("lung_masks/*.jpg")]:
        fact, seen = facts[path.name], images.read(path)
        assert list(seen.shape[1:]) == fact["shape"][:2]
        levels = (seen.double() * (65535 if seen.is_floating_point() else 1)).round()
        if fact["mode"] != "RGBA":  # whose least and greatest are those of four channels
            assert (levels.min(), levels.max()) == (fact["min"], fact["max"])
        assert images.preprocess_for(InputSpec())(path).isfinite().all()
