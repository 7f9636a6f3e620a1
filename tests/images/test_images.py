"""Reading, preprocessing and ten crops."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from formulas import image as formula_image
from formulas import load_record
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2

from thoraxlib import datasets, images
from thoraxlib.images import preprocess_for, transform_for
from thoraxlib.input_spec import InputSpec
from thoraxlib.registry import UnknownNameError

PLAIN = {"mean": (0.0,), "std": (1.0,)}
RAMP = np.arange(12 * 10, dtype=np.uint8).reshape(12, 10) * 2


# -- reading ------------------------------------------------------------------------------------------


def test_every_8_bit_source_gives_the_same_pixels(tmp_path: Path) -> None:
    picture = Image.fromarray(RAMP)
    rgb = np.stack([RAMP] * 3, axis=-1)
    files = {"L": picture, "RGB": picture.convert("RGB"), "RGBA": picture.convert("RGBA"), "P": picture.convert("P")}
    sources: list[Any] = [picture, RAMP, RAMP[..., None], rgb, torch.from_numpy(RAMP), torch.from_numpy(RAMP)[None]]
    for mode, variant in files.items():
        assert variant.mode == mode
        variant.save(tmp_path / f"{mode}.png")
        sources += [tmp_path / f"{mode}.png", str(tmp_path / f"{mode}.png"), variant]
    for source in sources:
        image = images.read(source)
        assert isinstance(image, tv_tensors.Image)
        assert image.dtype == torch.uint8
        assert torch.equal(image[0], torch.from_numpy(RAMP))


def test_jpeg(tmp_path: Path) -> None:
    Image.fromarray(RAMP).save(tmp_path / "x.jpg", quality=100)
    difference = images.read(tmp_path / "x.jpg")[0].int() - torch.from_numpy(RAMP).int()
    assert difference.abs().max() <= 2


def test_colour_becomes_grey_as_in_pillow() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    expected = torch.from_numpy(np.array(Image.fromarray(rgb).convert("L")))
    assert torch.equal(images.read(rgb)[0], expected)
    assert torch.equal(images.read(torch.from_numpy(rgb).permute(2, 0, 1))[0], expected)
    as_float = images.read(rgb.astype(np.float64) / 255)[0]
    assert (as_float * 255 - expected).abs().max() < 0.51


def test_one_bit_images_use_the_whole_range() -> None:
    image = images.read(Image.fromarray(np.eye(4, dtype=bool)))
    assert torch.equal(image[0], torch.eye(4, dtype=torch.uint8) * 255)


def test_16_bit_sources_are_scaled_by_the_whole_range_or_by_bits(tmp_path: Path) -> None:
    values = np.array([[0, 1000, 4095]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    wide = Image.fromarray(values.astype(np.int32))
    assert wide.mode == "I"
    for source in (tmp_path / "deep.png", values, values.astype(">u2"), torch.from_numpy(values), wide):
        image = images.read(source)
        assert image.dtype == torch.float32
        torch.testing.assert_close(image[0].as_subclass(torch.Tensor), torch.tensor([[0, 1000, 4095]]) / 65535)
        assert images.read(source, bits=12).max() == 1
    with pytest.raises(ValueError, match=r"bits=10 allows pixels up to 1023, the largest is 4095"):
        images.read(values, bits=10)
    with pytest.raises(ValueError, match="bits must be between 1 and 16"):
        images.read(values, bits=17)


def test_float_sources_keep_their_values_and_their_memory() -> None:
    x = torch.rand(1, 5, 4, dtype=torch.float64)
    torch.testing.assert_close(images.read(x).as_subclass(torch.Tensor), x.float())
    array = np.zeros((4, 4), np.uint8)
    images.read(array)[:] = 9
    assert array.max() == 0


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (np.full((4, 4), np.nan), ValueError, "finite"),
        (np.full((4, 4), np.inf), ValueError, "finite"),
        (np.full((4, 4), 255.0), ValueError, r"in \[0, 1\], got 255 \.\.\. 255"),
        (np.full((4, 4), -0.1), ValueError, r"in \[0, 1\]"),
        (np.zeros((4, 4), np.int64), TypeError, "uint8, uint16 or floating point.*int64"),
        (torch.zeros(4, 4, dtype=torch.int32), TypeError, "int32"),
        (torch.zeros(4, 4, dtype=torch.bool), TypeError, "bool"),
        (np.zeros((3, 4, 4), np.uint8)[None], ValueError, "must be"),
        (np.zeros((3, 4, 7), np.uint8), ValueError, "channels last"),
        (torch.zeros(5, 4, 3), ValueError, "channels first"),
        (np.zeros(4, np.uint8), ValueError, "must be"),
        (np.zeros((0, 4), np.uint8), ValueError, "empty"),
        (object(), TypeError, "source must be a path"),
        (Image.fromarray(np.full((2, 2), -1, np.int32)), ValueError, "65535"),
    ],
)
def test_refused_pixels(source: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        images.read(source)


def test_refused_files_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    whole = tmp_path / "whole.png"
    Image.fromarray(noise).save(whole)
    content = whole.read_bytes()
    damaged = {
        "cut.png": content[: len(content) // 2],
        "empty.png": b"",
        "text.png": b"not an image",
        "flipped.png": content[:60] + bytes(b ^ 0xFF for b in content[60:200]) + content[200:],
    }
    jpeg = io.BytesIO()
    Image.fromarray(noise).save(jpeg, "JPEG")
    damaged["cut.jpg"] = jpeg.getvalue()[: len(jpeg.getvalue()) // 2]
    for name, data in damaged.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match=name):
            images.read(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.png"):
        images.read(tmp_path / "nowhere.png")
    with pytest.raises(ValueError, match="is a folder"):
        images.read(tmp_path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError, match=r"whole\.png is too large"):
        images.read(whole)


# -- DICOM --------------------------------------------------------------------------------------------


def write_dicom(path: Path, pixels: np.ndarray, polarity: str = "MONOCHROME2", **tags: Any) -> Path:
    pydicom = pytest.importorskip("pydicom", reason="needs the extra dicom")
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    meta.MediaStorageSOPInstanceUID = generate_uid()
    data = pydicom.dataset.Dataset()
    data.file_meta = meta
    data.Rows, data.Columns = pixels.shape
    data.SamplesPerPixel, data.PixelRepresentation = 1, 0
    data.PhotometricInterpretation = polarity
    data.BitsAllocated = pixels.dtype.itemsize * 8
    data.BitsStored = tags.pop("BitsStored", data.BitsAllocated)
    data.HighBit = data.BitsStored - 1
    data.PixelData = pixels.tobytes()
    for name, value in tags.items():
        setattr(data, name, value)
    data.save_as(path, enforce_file_format=True)
    return path


def test_dicom_of_8_bits_and_its_inverse(tmp_path: Path) -> None:
    plain = images.read(write_dicom(tmp_path / "a.dcm", RAMP))
    assert plain.dtype == torch.uint8
    assert torch.equal(plain[0], torch.from_numpy(RAMP))
    inverse = images.read(write_dicom(tmp_path / "b.dcm", 255 - RAMP, "MONOCHROME1"))
    assert torch.equal(plain, inverse)
    identity = write_dicom(tmp_path / "d.dcm", RAMP, RescaleSlope=1, RescaleIntercept=0)
    assert torch.equal(images.read(identity), plain)
    without_suffix = write_dicom(tmp_path / "c", RAMP)
    assert torch.equal(images.read(without_suffix), plain)


def test_dicom_window_and_rescale(tmp_path: Path) -> None:
    pixels = np.array([[0, 1000, 1500, 2000, 4095]], dtype=np.uint16)
    tags = {"BitsStored": 12, "WindowCenter": [1500.5, 100], "WindowWidth": [1001, 10]}
    shown = images.read(write_dicom(tmp_path / "a.dcm", pixels, **tags))
    torch.testing.assert_close(shown[0, 0].as_subclass(torch.Tensor), torch.tensor([0, 0, 0.5, 1, 1]))
    # the same picture, stored as offset values with a rescale, and inverted
    stored = ((4095 - pixels.astype(np.int32)) * 2).astype(np.uint16)
    tags |= {"BitsStored": 16, "RescaleSlope": 0.5, "RescaleIntercept": 0, "WindowCenter": 2595.5, "WindowWidth": 1001}
    inverse = images.read(write_dicom(tmp_path / "b.dcm", stored, "MONOCHROME1", **tags))
    torch.testing.assert_close(inverse.as_subclass(torch.Tensor), shown.as_subclass(torch.Tensor), atol=2e-3, rtol=0)


def test_dicom_window_functions() -> None:
    from thoraxlib.images import window

    x = np.array([-10.0, 0.0, 10.0])
    np.testing.assert_allclose(window(x, 0, 20, "LINEAR_EXACT"), [0, 0.5, 1])
    np.testing.assert_allclose(window(x, 0, 20, "SIGMOID"), 1 / (1 + np.exp([2, 0, -2])))
    for width, function in ((0, "LINEAR"), (0, "SIGMOID"), (10, "CUBIC")):
        with pytest.raises(ValueError, match="VOILUTFunction"):
            window(x, 0, width, function)


def test_dicom_without_window_is_stretched(tmp_path: Path) -> None:
    pixels = np.linspace(500, 2500, 1000).astype(np.uint16).reshape(20, 50)
    shown = images.read(write_dicom(tmp_path / "a.dcm", pixels, BitsStored=12))
    assert shown.min() == 0
    assert shown.max() == 1
    assert abs(shown.mean().item() - 0.5) < 0.01


def test_refused_dicom(tmp_path: Path) -> None:
    broken = write_dicom(tmp_path / "cut.dcm", RAMP)
    broken.write_bytes(broken.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"cut\.dcm"):
        images.read(broken)
    (tmp_path / "text.dcm").write_text("not DICOM")
    with pytest.raises(ValueError, match=r"text\.dcm"):
        images.read(tmp_path / "text.dcm")
    with pytest.raises(ValueError, match="PhotometricInterpretation.*PALETTE"):
        images.read(write_dicom(tmp_path / "palette.dcm", RAMP, "PALETTE COLOR"))


def test_dicom_without_pydicom_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_dicom(tmp_path / "a.dcm", RAMP)
    monkeypatch.setitem(__import__("sys").modules, "pydicom", None)
    with pytest.raises(ImportError, match=r"thoraxlib\[dicom\]"):
        images.read(path)


def test_real_samples(real_data: Path) -> None:
    folder = real_data / "samples"
    pytest.importorskip("pydicom", reason="needs the extra dicom")
    mono2, mono1 = (images.read(folder / f"dicom/rsna_mono{n}_8bit_jpeg{e}.dcm") for n, e in ((2, ""), (1, "_fake")))
    assert torch.equal(mono1, 255 - mono2)
    inverted = images.read(folder / "dicom/nih_mono1_12bit.dcm")
    rescaled = images.read(folder / "dicom/nih_mono2_16bit_rescale.dcm")
    assert np.corrcoef(inverted.flatten(), rescaled.flatten())[0, 1] > 0.99
    assert images.read(folder / "png/nih_16bit_256.png").max().item() == pytest.approx(63360 / 65535)
    assert images.read(folder / "png/00000773_001_rgba_256.png").shape == (1, 256, 256)


# -- parity with the original preprocessing -----------------------------------------------------------


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    return load_record("chexnet_preprocess.json")["outputs"]


@pytest.fixture(scope="module")
def made_up() -> np.ndarray:
    """The record's input, in [0, 1) before it is quantised."""
    return (formula_image(1, 1, 300, 240, 0.6)[0, 0].double().numpy() + 2) / 4


def assert_within(actual: Any, expected: dict[str, Any], level: float) -> None:
    values = np.asarray(actual, dtype=np.float64)
    first = np.asarray(expected["first"])
    assert list(values.shape) == expected["shape"]
    assert np.abs(values.reshape(-1)[: len(first)] - first).max() <= level
    assert abs(values.mean() - expected["mean"]) <= 0.1 * level
    assert abs(values.std() - expected["std"]) <= 0.1 * level
    assert abs(np.abs(values).max() - expected["abs_max"]) <= level


ONE_LEVEL = 1.01 / 255
ONE_LEVEL_NORMALISED = ONE_LEVEL / 0.224  # the smallest ImageNet deviation


def test_original_resize_and_ten_crops(record: dict[str, Any], made_up: np.ndarray) -> None:
    source = np.floor(made_up * 255).astype(np.uint8)
    assert_within(source, record["u8"], 0)
    spec = InputSpec(size=256, resize="crop")
    place = images.placement(spec, 300, 240)
    assert [place.width, place.height] == record["resize256.size_wh"]
    resized = images.transform_for(InputSpec(size=(place.height, place.width), **PLAIN))(images.read(source))
    assert_within((resized * 255).permute(1, 2, 0), record["resize256.u8"], 1.01)

    x = images.preprocess_for(InputSpec(size=(place.height, place.width)))(source)
    crops = torch.cat(v2.functional.ten_crop(x, [224, 224]))
    assert_within(crops, record["tencrop"], ONE_LEVEL_NORMALISED)
    assert_within(crops.mean((1, 2, 3)), record["tencrop.means"], 0.1 * ONE_LEVEL)
    assert_within(crops[:, 0, 0, :4], record["tencrop.first4_of_each_row0"], ONE_LEVEL_NORMALISED)
    assert_within(crops[:, 0, 0, -4:], record["tencrop.last4_of_each_row0"], ONE_LEVEL_NORMALISED)


def test_original_inputs_of_the_other_codes(record: dict[str, Any], made_up: np.ndarray) -> None:
    source = np.floor(made_up * 255).astype(np.uint8)
    zoogzog = images.preprocess_for(InputSpec(size=(280, 224)))(source)[0]
    assert_within(zoogzog, record["zoogzog_heatmap.input"], ONE_LEVEL_NORMALISED)
    jrzech = images.preprocess_for(InputSpec(size=224, resize="crop"))(source)[0]
    assert_within(jrzech, record["resize224_centercrop224"], ONE_LEVEL_NORMALISED)
    seed = images.preprocess_for(InputSpec(size=250, **PLAIN))(source)[0]
    assert_within(seed, record["seed.tensor"], ONE_LEVEL)
    assert_within(seed[0] * 255, record["seed.resize250.u8"], 1.01)


def test_16_bit_is_not_clipped_as_the_seed_does(record: dict[str, Any], made_up: np.ndarray) -> None:
    image = images.read(np.floor(made_up * 4095).astype(np.uint16), bits=12)
    seed = images.preprocess_for(InputSpec(size=250, **PLAIN))(image)[0, 0]
    assert_within(seed, record["seed16.corrected_0_1"], ONE_LEVEL)


@pytest.mark.parametrize("shape", [(300, 240), (100, 260), (224, 224), (1024, 1024), (33, 47)])
@pytest.mark.parametrize("size", [(224, 224), (96, 160)])
def test_resize_equals_pillow_within_a_grey_level(shape: tuple[int, int], size: tuple[int, int]) -> None:
    noise = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    expected = np.array(Image.fromarray(noise).resize(size[::-1], Image.Resampling.BILINEAR))
    ours = images.preprocess_for(InputSpec(size=size, channels=1, **PLAIN))(noise)[0, 0] * 255
    assert np.abs(ours.numpy() - expected).max() <= 1.01


@pytest.mark.parametrize("shape", [(300, 240), (301, 243), (1, 2), (33, 47), (24, 61)])
@pytest.mark.parametrize("size", [(96, 160), (97, 30), (24, 61), (3, 5)])
def test_grey_bytes_are_resized_as_torchvision_does(shape: tuple[int, int], size: tuple[int, int]) -> None:
    noise = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (2, 1, *shape), dtype=np.uint8))
    expected = v2.functional.resize(noise, list(size), antialias=True)
    # elsewhere torchvision goes through floats, and torch 2.6 has other rounding for one channel than for four
    exact = torch.backends.cpu.get_cpu_capability().startswith("AVX") and not torch.__version__.startswith("2.6.")
    for pixels in (noise, noise.mT.contiguous().mT, tv_tensors.Image(noise)):
        ours = images.Resize(InputSpec(size=size))(pixels)
        assert type(ours) is type(pixels)
        difference = (ours.as_subclass(torch.Tensor).int() - expected.int()).abs()
        assert difference.max() <= (0 if exact else 1)


# -- the transform ------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_box_stays_on_its_square(data: st.DataObject) -> None:
    height, width = data.draw(st.integers(40, 200)), data.draw(st.integers(40, 200))
    x0, y0 = data.draw(st.integers(0, width - 20)), data.draw(st.integers(0, height - 20))
    x1, y1 = data.draw(st.integers(x0 + 16, width)), data.draw(st.integers(y0 + 16, height))
    spec = InputSpec(
        size=(data.draw(st.integers(32, 160)), data.draw(st.integers(32, 160))),
        resize=data.draw(st.sampled_from(["stretch", "crop", "pad"])),
        crop_ratio=data.draw(st.floats(0.5, 1)),
        channels=1,
        **PLAIN,
    )
    train = data.draw(st.sampled_from([None, "none", "chexnet", "zoogzog"]))
    image = np.zeros((height, width), np.uint8)
    image[y0:y1, x0:x1] = 255
    corners = torch.tensor([[x0, y0, x1, y1]], dtype=torch.float32)
    sample = {
        "image": images.read(image),
        "boxes": tv_tensors.BoundingBoxes(corners, format="XYXY", canvas_size=(height, width)),
        "box_labels": torch.tensor([3]),
        "masks": tv_tensors.Mask(torch.from_numpy(image)[None]),
        "labels": torch.tensor([1.0, float("nan")]),
        "id": "x",
    }
    result = images.transform_for(spec, train=train)(sample)
    assert result["image"].shape == (1, *spec.size)
    assert result["masks"].shape == (1, *spec.size)
    assert result["boxes"].canvas_size == spec.size
    assert result["labels"][0] == 1
    assert result["labels"][1].isnan()
    bright = (result["image"][0] > 0.5).nonzero()
    assert len(result["boxes"]) == len(result["box_labels"])
    if not len(result["boxes"]):
        assert not len(bright) or (bright.amax(0) - bright.amin(0)).min() <= 1
        return
    found = torch.tensor([bright[:, 1].min(), bright[:, 0].min(), bright[:, 1].max() + 1, bright[:, 0].max() + 1])
    assert (result["boxes"][0] - found).abs().max() <= 1.01
    masked = (result["masks"][0] > 0).nonzero()
    extent = torch.stack([masked.amin(0), masked.amax(0) + 1]).flip(1).flatten()
    assert (extent - found).abs().max() <= 2


def test_a_box_outside_the_crop_goes_with_its_label_and_a_region_stays_empty() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [140, 40, 160, 60]])
    sample = {
        "image": tv_tensors.Image(torch.zeros(1, 100, 300, dtype=torch.uint8)),
        "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(100, 300)),
        "regions": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(100, 300)),
        "box_labels": torch.tensor([5, 7]),
    }
    result = images.transform_for(InputSpec(size=50, resize="crop"))(sample)
    assert result["boxes"].tolist() == [[20, 20, 30, 30]]
    assert result["box_labels"].tolist() == [7]
    assert result["regions"].tolist() == [[0, 0, 0, 0], [20, 20, 30, 30]]
    assert sample["box_labels"].tolist() == [5, 7]


def test_an_image_without_boxes() -> None:
    empty = tv_tensors.BoundingBoxes(torch.zeros(0, 4), format="XYXY", canvas_size=(60, 80))
    sample = {"image": tv_tensors.Image(torch.zeros(1, 60, 80)), "boxes": empty, "box_labels": torch.zeros(0).long()}
    result = images.transform_for(InputSpec(size=32, resize="pad"), train="light")(sample)
    assert result["boxes"].shape == (0, 4)
    assert result["boxes"].canvas_size == (32, 32)


def test_pad_centres_on_black() -> None:
    white = np.full((100, 50), 255, np.uint8)
    x = images.preprocess_for(InputSpec(size=64, channels=1, resize="pad", **PLAIN))(white)[0, 0]
    assert x[:, :16].max() == 0
    assert x[:, 48:].max() == 0
    assert x[:, 16:48].min() == 1


@pytest.mark.parametrize("name", images.augmentations.names())
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_augmentations(name: str, dtype: torch.dtype) -> None:
    assert images.augmentations.describe(name).summary
    spec = InputSpec(size=(48, 40))
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 60, 80), dtype=np.uint8))
    image = image if dtype == torch.uint8 else image / 255
    transform = images.transform_for(spec, train=name)
    outputs = [transform(tv_tensors.Image(image)) for _ in range(4)]
    for x in outputs:
        assert x.shape == (3, 48, 40)
        assert x.dtype == torch.float32
        assert x.isfinite().all()
    changes = any(not torch.equal(outputs[0], x) for x in outputs[1:])
    assert changes == (name != "none")


def test_flips_mirror_and_the_default_does_not() -> None:
    half = torch.zeros(1, 64, 64)
    half[..., :20] = 1  # bright on the left
    spec = InputSpec(size=64, channels=1, **PLAIN)
    mirrored = images.transform_for(spec, train={"name": "chexnet", "p": 1.0})(half)
    assert torch.equal(mirrored, half.flip(-1))
    for _ in range(20):
        x = images.transform_for(spec, train="light")(half)
        assert x[..., :32].mean() > x[..., 32:].mean()


ORIGINAL_ORDER = {"name": "jfhealthcare", "degrees": 10, "fill": 0}


@pytest.mark.parametrize("name", ["cxr_lka", ORIGINAL_ORDER])
def test_cxr_lka_is_an_affine_change_and_a_resize(name: Any) -> None:
    image = tv_tensors.Image(torch.randint(1, 256, (1, 60, 80), dtype=torch.uint8))
    spec = InputSpec(size=(48, 40))
    ours = images.augmentations.registry.resolve(name, input_spec=spec)
    affine = v2.RandomAffine(10, (0.05, 0.05), (0.95, 1.05), interpolation=v2.InterpolationMode.NEAREST, fill=0)
    resize = v2.Resize((48, 40), antialias=True)
    theirs = v2.Compose([resize, affine] if name == "cxr_lka" else [affine, resize])
    for seed in range(5):
        changed = []
        for transform in (ours, theirs):
            torch.manual_seed(seed)
            changed.append(transform(image))
        assert (changed[0].int() - changed[1].int()).abs().max() <= 1  # torchvision's rounding differs by version
        assert changed[0].min() == 0  # black comes in from outside
    still = {"degrees": 0.0, "translate": 0.0, "scale": (1.0, 1.0)}
    unmoved = images.augmentations.build("cxr_lka", input_spec=spec, **still)(image)
    assert (unmoved.int() - resize(image).int()).abs().max() <= 1


@pytest.mark.parametrize("name", ["cxr_lka", ORIGINAL_ORDER])
def test_cxr_lka_moves_masks_with_the_image(name: Any) -> None:
    organ = torch.zeros(1, 64, 64, dtype=torch.uint8)
    organ[:, 20:44, 12:30] = 1
    transform = images.augmentations.registry.resolve(name, input_spec=InputSpec(size=64))
    for _ in range(10):
        sample = transform({"image": tv_tensors.Image(organ * 255), "masks": tv_tensors.Mask(organ)})
        assert sample["masks"].unique().tolist() == [0, 1]
        assert torch.equal(sample["image"], sample["masks"] * 255)
        assert not torch.equal(sample["masks"], organ)


def test_a_ready_augmentation_and_unknown_names() -> None:
    spec = InputSpec(size=16)
    assert images.transform_for(spec, train=v2.CenterCrop(16))(torch.zeros(1, 32, 32)).shape == (3, 16, 16)
    with pytest.raises(UnknownNameError, match="'light'"):
        images.transform_for(spec, train="ligth")


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (torch.zeros(1, 8, 8, dtype=torch.int64), TypeError, "int64"),
        (torch.full((1, 8, 8), float("nan")), ValueError, "finite"),
        (torch.full((1, 8, 8), 200.0), ValueError, r"\[0, 1\]"),
        (torch.zeros(2, 8, 8), ValueError, "C = 1 or 3"),
        (torch.zeros(1, 0, 8), ValueError, "no empty side"),
        (torch.zeros(8, 8), ValueError, "C = 1 or 3"),
        (Image.new("L", (8, 8)), TypeError, "images.read"),
    ],
)
def test_the_transform_refuses(image: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        images.transform_for(InputSpec(size=8))(image)


def test_the_transform_takes_batches_and_colour() -> None:
    transform = images.transform_for(InputSpec(size=8))
    assert transform(torch.rand(5, 3, 16, 16)).shape == (5, 3, 8, 8)
    assert transform(torch.zeros(5, 1, 16, 16, dtype=torch.uint8)).shape == (5, 3, 8, 8)
    deep = torch.from_numpy(np.full((1, 16, 16), 65535, np.uint16))
    torch.testing.assert_close(transform(deep), transform(torch.ones(1, 16, 16)))


@pytest.mark.parametrize("train", [None, *images.augmentations.names()])
def test_the_transform_can_be_sent_to_workers(train: str | None) -> None:
    transform = images.transform_for(InputSpec(size=16), train=train)
    assert pickle.loads(pickle.dumps(transform))(torch.zeros(1, 20, 20)).shape == (3, 16, 16)


def test_preprocess_for(tmp_path: Path) -> None:
    Image.fromarray(RAMP).save(tmp_path / "x.png")
    spec = InputSpec(size=(24, 16), channels=2, mean=(0.5, 0.25), std=(0.5, 1))
    model = torch.nn.Identity()
    model.input_spec = spec  # type: ignore[assignment]
    preprocess = images.preprocess_for(model)  # type: ignore[arg-type]
    one = preprocess(tmp_path / "x.png")
    assert type(one) is torch.Tensor
    assert one.shape == (1, 2, 24, 16)
    torch.testing.assert_close(one[:, 0] * 0.5 + 0.5, one[:, 1] + 0.25)
    many = preprocess([tmp_path / "x.png", RAMP, Image.fromarray(RAMP), torch.from_numpy(RAMP)])
    assert torch.equal(many, one.expand(4, -1, -1, -1))
    assert torch.equal(preprocess(np.stack([RAMP, RAMP])[..., None]), many[:2])
    assert torch.equal(preprocess(torch.from_numpy(RAMP).expand(2, 1, -1, -1)), many[:2])
    with pytest.raises(ValueError, match="no image"):
        preprocess([])
    with pytest.raises(TypeError, match="input_spec"):
        images.preprocess_for(torch.nn.Identity())  # type: ignore[arg-type]


def test_a_batch_is_normalised_as_each_image_is() -> None:
    transform = images.transform_for(InputSpec(size=(24, 16)))
    pictures = [images.read(RAMP), images.read(RAMP.astype(np.uint16) * 200), images.read(RAMP[::-1] / 255)]
    samples = [{"image": image, "id": str(number)} for number, image in enumerate(pictures)]
    placed = [transform.place(sample) for sample in samples]
    assert [sample["image"].dtype for sample in placed] == [torch.uint8, torch.float32, torch.float32]
    batch = datasets.collate(placed, images=transform.normalize.batch)
    expected = datasets.collate([transform(sample) for sample in samples])
    assert torch.equal(batch["image"], expected["image"])
    assert batch["id"] == expected["id"]
    assert torch.equal(images.preprocess_for(InputSpec(size=(24, 16)))(pictures), expected["image"])
    mean, std = (torch.tensor(values)[:, None, None] for values in (InputSpec().mean, InputSpec().std))
    levels = placed[0]["image"].as_subclass(torch.Tensor)
    torch.testing.assert_close(batch["image"][0], (levels / 255 - mean) / std)
    colour = torch.rand(2, 3, 24, 16)
    torch.testing.assert_close(transform(colour), (colour - mean) / std)


@pytest.mark.parametrize("size", [(40, 60), (61, 40), (30, 30), (1, 50)])
def test_pad_end_keeps_the_image_at_the_top_left(size: tuple[int, int]) -> None:
    from thoraxlib.images import placement

    spec = InputSpec(size=64, channels=1, mean=0.0, std=1.0, resize="pad_end", fill=0.5)
    image = torch.full((1, *size), 255, dtype=torch.uint8)
    out = preprocess_for(spec)(image)[0, 0]
    place = placement(spec, *size)
    assert (place.top, place.left) == (0, 0)
    assert max(place.height, place.width) == 64
    assert (out[: place.height, : place.width] == 1).all()
    rest = torch.ones(64, 64, dtype=torch.bool)
    rest[: place.height, : place.width] = False
    assert (out[rest] == torch.tensor(128.0) / 255).all()
    box = tv_tensors.BoundingBoxes([[0.0, 0.0, *size[::-1]]], format="XYXY", canvas_size=size)
    sample = transform_for(spec)({"image": tv_tensors.Image(image), "boxes": box})
    np.testing.assert_allclose(sample["boxes"], [[0, 0, place.width, place.height]], rtol=1e-6)


def test_equalize_and_blur() -> None:
    from thoraxlib.images.resize import blur3, equalize

    image = torch.tensor([[10, 10, 20], [30, 30, 30]], dtype=torch.uint8)
    assert equalize(image).tolist() == [[0, 0, 64], [255, 255, 255]]
    flat = torch.full((2, 5, 4), 7, dtype=torch.uint8)
    assert torch.equal(equalize(flat), flat)
    assert torch.equal(blur3(flat), flat)
    both = torch.stack([image, image.flip(0)])
    assert torch.equal(equalize(both), torch.stack([equalize(image), equalize(image.flip(0))]))
    dot = torch.zeros(5, 5, dtype=torch.uint8)
    dot[2, 2] = 16
    assert blur3(dot)[1:4, 1:4].tolist() == [[1, 2, 1], [2, 4, 2], [1, 2, 1]]
    deep = preprocess_for(InputSpec.imagenet(1, size=8, equalize=True, blur=3))(torch.rand(1, 8, 8))
    assert deep.isfinite().all()
    for bad in ({"fill": 2.0}, {"blur": 5}):
        with pytest.raises(ValueError, match=f"{next(iter(bad))}( must be|=5: allowed are)"):
            InputSpec(**bad)  # type: ignore[arg-type]


def test_training_as_jfhealthcare() -> None:
    from thoraxlib.models.pcam import JF_INPUT

    spec = InputSpec().updated(JF_INPUT).updated({"size": 64})
    image = torch.randint(0, 255, (1, 90, 70), dtype=torch.uint8)
    torch.manual_seed(0)
    transform = transform_for(spec, train="jfhealthcare")
    a, b = transform(tv_tensors.Image(image)), transform(tv_tensors.Image(image))
    assert a.shape == (3, 64, 64)
    assert not torch.equal(a, b)
    still = transform_for(spec, train={"name": "jfhealthcare", "degrees": 0, "translate": 0, "scale": (1, 1)})
    torch.testing.assert_close(still(tv_tensors.Image(image)), transform_for(spec)(tv_tensors.Image(image)))
