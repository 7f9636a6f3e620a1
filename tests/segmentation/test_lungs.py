"""The shipped segmenter of the lungs, masks of images of any size, and crops to the lungs."""

from __future__ import annotations

import socket
import warnings
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import thoraxlib
from thoraxlib import datasets, segmentation
from thoraxlib.registry import OptionError
from thoraxlib.segmentation import Segmenter, crop_to_organs, dice_score, find_organs

FOLDER = resources.files("thoraxlib") / "weights" / "shipped" / "lungs-small"


class Bright(Segmenter):
    """Bright pixels are lung; stretched to 64 pixels, or as the spec says."""

    def __init__(self, **spec: Any) -> None:
        super().__init__(("background", "lungs"), 1)
        self.input_spec = self.input_spec.updated({"size": 64, **spec})
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return torch.cat([0.5 - x, x - 0.5], dim=1)


def image_with(box: tuple[int, int, int, int], size: tuple[int, int]) -> Tensor:
    image = torch.zeros(1, *size, dtype=torch.uint8)
    x1, y1, x2, y2 = box
    image[:, y1:y2, x1:x2] = 255
    return image


@pytest.fixture(scope="module")
def shipped() -> Segmenter:
    return segmentation.build("lungs-small").eval()


def test_the_weights_are_small_and_have_a_card() -> None:
    assert sum(len(file.read_bytes()) for file in FOLDER.iterdir()) <= 1_500_000
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    for demanded in ("10.25835/0090041", "2006.11988", "V7 COVID-19 X-ray dataset", "CC BY 4.0", "behind the heart"):
        assert demanded in card


def test_it_finds_the_lungs_of_synthetic_images(shipped: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random weights would reach about 0.4; the synthetic images were not trained on."""
    monkeypatch.setattr(socket, "socket", None)  # offline
    data = datasets.build("synthetic", length=4, size=160)
    lungs = [data.mask_names.index(name) for name in ("right lung", "left lung")]
    for sample in (data[n] for n in range(4)):
        truth = sample["masks"][lungs].amax(dim=0).float()
        (mask,) = find_organs(shipped, [sample["image"]], ["lungs"])
        assert float(dice_score(mask[None].float(), truth[None])) > 0.75


@pytest.mark.parametrize("size", [(33, 50), (128, 128), (300, 90), (1, 1), (7, 400)])
def test_sizes_and_channels(shipped: Segmenter, size: tuple[int, int]) -> None:
    grey = torch.rand(2, 1, *size)
    logits = shipped(grey.expand(-1, 3, -1, -1))
    assert logits.shape == (2, 2, *size)
    assert logits.isfinite().all()
    alone = segmentation.build("lungs-small", in_chans=1).eval()
    torch.testing.assert_close(alone(grey), logits, rtol=1e-3, atol=1e-3)


def test_contrast_and_black_borders_hardly_matter(shipped: Segmenter) -> None:
    image = datasets.build("synthetic", length=1, size=128)[0]["image"].float() / 255
    masks = find_organs(shipped, [image, 0.1 + 0.6 * image], ["lungs"])
    assert float(dice_score(masks[0][None].float(), masks[1][None].float())) > 0.95


@pytest.mark.parametrize("grey", [0.0, 0.5, 1.0])
def test_an_empty_image_has_no_lungs(shipped: Segmenter, grey: float) -> None:
    lungs = datasets.build("synthetic", length=1, size=90)[0]["image"]
    empty, other = find_organs(shipped, [torch.full((1, 90, 90), grey), lungs], ["lungs"])
    assert not empty.any()
    assert other.any()


def test_saved_and_loaded(shipped: Segmenter, tmp_path: Path) -> None:
    x = torch.rand(1, 3, 60, 80)
    thoraxlib.save_pretrained(shipped, tmp_path / "alone")
    assert torch.equal(thoraxlib.load_pretrained(tmp_path / "alone", Segmenter).eval()(x), shipped(x))
    model = thoraxlib.build("segfusion_vangcn", segmenter="lungs-small", input_spec={"size": 64}).eval()
    state = model.segmenter.state_dict()
    assert all(torch.equal(state[key], value) for key, value in shipped.state_dict().items())
    with torch.no_grad():  # weights of its own survive, not those of the package
        next(model.segmenter.parameters()).mul_(1.5)
    thoraxlib.save_pretrained(model, tmp_path / "whole")
    loaded = thoraxlib.load_pretrained(tmp_path / "whole").eval()
    x = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(loaded(x), model(x))


def test_other_classes_need_other_weights() -> None:
    with pytest.raises(ValueError, match="use pretrained=False"):
        segmentation.build("lungs-small", classes=("background", "lungs", "heart"))
    with pytest.raises(ValueError, match="in_chans=2"):
        segmentation.build("lungs-small", in_chans=2)
    with pytest.raises(OptionError, match="did you mean 'pretrained'"):
        segmentation.build("lungs-small", pretraind=True)


@pytest.mark.parametrize("rule", ["stretch", "pad", "pad_end"])
def test_masks_lie_where_the_organs_are(rule: str) -> None:
    """Images of wildly different sizes, in one forward pass."""
    net = Bright(resize=rule).train()
    boxes, sizes = [(20, 40, 60, 90), (300, 100, 900, 160), (1, 5, 9, 60)], [(100, 80), (200, 1000), (64, 11)]
    images = [image_with(box, size) for box, size in zip(boxes, sizes, strict=True)]
    masks = find_organs(net, images, ["lungs"])
    assert net.training
    for mask, image in zip(masks, images, strict=True):
        assert mask.shape == image.shape[1:]
        assert float(dice_score(mask[None].float(), (image > 0).float())) > 0.85


def test_pixels_outside_of_the_input_have_no_organ() -> None:
    image = torch.full((1, 40, 100), 255, dtype=torch.uint8)
    (mask,) = find_organs(Bright(resize="crop"), [image], ["lungs"])
    assert mask[:, 31:69].all()
    assert not mask[:, :29].any()
    assert not mask[:, 71:].any()


@pytest.mark.parametrize(("margin", "expected"), [(0.0, (40, 20, 120, 60)), (0.1, (32, 16, 128, 64))])
def test_a_crop_has_the_image_s_own_pixels(margin: float, expected: tuple[int, int, int, int]) -> None:
    image = image_with((40, 20, 120, 60), (128, 256))
    crop = crop_to_organs(Bright(size=(64, 128)), image, margin=margin)
    assert crop.found
    assert all(abs(a - b) <= 1 for a, b in zip(crop.box, expected, strict=True))
    x1, y1, x2, y2 = crop.box
    assert crop.image.dtype == torch.uint8
    assert torch.equal(crop.image, image[:, y1:y2, x1:x2])


def test_a_crop_ends_at_the_border() -> None:
    image = image_with((0, 0, 120, 128), (128, 256))
    crop = crop_to_organs(Bright(size=(64, 128)), image, margin=5.0)
    assert crop.box == (0, 0, 256, 128)


def test_a_crop_goes_into_a_model() -> None:
    model = thoraxlib.build("chexnet", backbone="resnet10t", labels=["Mass"], input_spec={"size": 64})
    crop = crop_to_organs(Bright(), image_with((40, 20, 120, 60), (128, 256)))
    assert thoraxlib.preprocess_for(model)(crop.image).shape == (1, 3, 64, 64)


def test_no_lungs_no_crop() -> None:
    image = torch.zeros(1, 30, 50)
    with pytest.warns(UserWarning, match="no lungs found: the crop is the whole image"):
        crop = crop_to_organs(Bright(), image)
    assert crop.box == (0, 0, 50, 30)
    assert not crop.found
    assert torch.equal(crop.image, image)


def test_bad_arguments() -> None:
    net, image = Bright(), image_with((40, 20, 120, 60), (128, 256))
    for margin in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="margin="):
            crop_to_organs(net, image, margin=margin)
    with pytest.raises(ValueError, match=r"image must be \(C, H, W\)"):
        crop_to_organs(net, image[0])
    for organs in (["heart"], [], ["background"]):
        with pytest.raises(ValueError, match="organs="):
            find_organs(net, [image], organs)
    assert find_organs(net, [], ["lungs"]) == []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        find_organs(net, [torch.zeros(1, 9, 9)], ["lungs"])
