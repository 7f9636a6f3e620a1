"""Masks of the lungs in original images, heat inside them, and crops around them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import thoraxlib
from thoraxlib import segmentation
from thoraxlib.explanation import explain
from thoraxlib.segmentation import LungMasks, Segmenter, crop_to_lungs, share_inside

SMALL = {"backbone": "test_resnet", "labels": ["Mass", "Edema"], "input_spec": {"size": 160}}


class Bright(Segmenter):
    """Pixels above 0.5 are lung; those above 0.9 are something else."""

    def __init__(
        self, classes: tuple[str, ...] = ("background", "left lung", "other"), resize: str = "stretch"
    ) -> None:
        super().__init__(classes, 1)
        self.input_spec = self.input_spec.updated({"size": 64, "resize": resize})

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([torch.full_like(x, 0.5), x, 10 * (x - 0.85)], dim=1)


def image(height: int, width: int, box: tuple[int, int, int, int], value: int = 180) -> Tensor:
    """A black image with a bright rectangle, whose corner is brighter still."""
    pixels = torch.zeros(1, height, width, dtype=torch.uint8)
    x1, y1, x2, y2 = box
    pixels[:, y1:y2, x1:x2] = value
    return pixels


@pytest.mark.parametrize("resize", ["stretch", "pad"])
def test_masks_have_the_size_of_the_images(resize: str) -> None:
    images = [image(128, 256, (64, 32, 128, 96)), image(96, 64, (16, 24, 48, 72)), image(64, 64, (0, 0, 64, 32), 255)]
    masks = LungMasks(Bright(resize=resize))(images)
    for mask, picture in zip(masks[:2], images, strict=False):
        assert mask.dtype == torch.bool
        true = picture[0] > 0
        assert (mask & true).sum() / (mask | true).sum() > 0.85
    assert not masks[2].any()  # another class


def test_share_inside() -> None:
    mask = torch.zeros(4, 4, dtype=torch.bool)
    mask[:2] = True
    assert share_inside(torch.ones(4, 4), mask) is None  # a constant is no heat
    heat = torch.zeros(4, 4)
    heat[0, 0], heat[3, 3] = 3, 1
    assert share_inside(heat, mask) == pytest.approx(0.75)
    assert share_inside(heat + 5, mask) == pytest.approx(0.75)  # nor is its floor
    assert share_inside(heat - 2, mask) == pytest.approx(1.0)  # evidence against the label does not count
    heat[3, 3] = torch.nan
    assert share_inside(heat, mask) == pytest.approx(1.0)
    assert share_inside(heat, torch.zeros_like(mask)) is None
    assert share_inside(torch.full((4, 4), torch.nan), mask) is None


def test_crops() -> None:
    images = [image(100, 200, (50, 20, 150, 80)), image(100, 100, (0, 0, 100, 50), 0)]
    with pytest.warns(UserWarning, match=r"no lungs found in 1 of 2 images, positions \[1\]"):
        (crop, box), (whole, all_of_it) = crop_to_lungs(images, Bright(), margin=0.1)
    assert torch.tensor(box).sub(torch.tensor([40, 10, 160, 90])).abs().max() <= 4
    assert torch.equal(crop, images[0][..., box[1] : box[3], box[0] : box[2]])
    assert all_of_it == (0, 0, 100, 100)
    assert whole.shape == (1, 100, 100)
    ((_, box),) = crop_to_lungs([image(64, 64, (0, 0, 64, 64))], Bright(), margin=1)
    assert box == (0, 0, 64, 64)
    with pytest.raises(ValueError, match="margin=-1: 0 or more"):
        crop_to_lungs(images, Bright(), margin=-1)


def test_segmenters_without_lungs() -> None:
    with pytest.raises(ValueError, match=r"none of its classes is a lung: \('background', 'heart', 'other'\)"):
        LungMasks(Bright(("background", "heart", "other")))
    with pytest.raises(TypeError, match="segmenter must be a name, a mapping with 'name', or a Segmenter, got Linear"):
        LungMasks(torch.nn.Linear(1, 1))  # type: ignore[arg-type]


def test_explanations_with_lungs(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = thoraxlib.build("chexnet", **SMALL).eval()
    images = [image(80, 60, (10, 20, 40, 60)), image(40, 40, (0, 0, 40, 40), 0)]
    with pytest.warns(UserWarning, match="image-0002 has no lungs that the segmenter finds"):
        found = explain(model, images, threshold=0, method="eigencam", segmenter=Bright())
    first, second = found
    assert first.lungs is not None
    assert first.lungs.shape == (80, 60)
    for finding in first.findings:
        assert finding.in_lungs == share_inside(finding.map, first.lungs)
    assert any(finding.in_lungs is not None for finding in first.findings)
    assert all(finding.in_lungs is None for finding in second.findings)
    assert "of the heat in the lungs" in str(first)
    content = first.to_json()
    assert content["lungs_share_of_image"] == pytest.approx(float(first.lungs.float().mean()))
    assert [finding["in_lungs"] for finding in content["findings"]] == [f.in_lungs for f in first.findings]
    plain = explain(model, images[0], threshold=0, method="eigencam")[0]
    assert "in_lungs" not in str(plain.to_json())
    assert first.panel().tobytes() != plain.panel().tobytes()
    assert [f.probability for f in plain.findings] == [f.probability for f in first.findings]
    first.save(tmp_path)


def test_a_name_is_a_segmenter() -> None:
    options = {"name": "unet", "width": 4, "depth": 2, "in_chans": 1, "classes": ["background", "lungs"]}
    assert LungMasks(options)([image(40, 50, (0, 0, 20, 20))])[0].shape == (40, 50)
    assert isinstance(segmentation.build("unet", width=4), Segmenter)
