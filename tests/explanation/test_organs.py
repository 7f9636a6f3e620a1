"""Share of a finding's heat inside the lungs."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import thoraxlib
from thoraxlib import plotting, segmentation
from thoraxlib.explanation.organs import share_inside
from thoraxlib.segmentation import Segmenter


class LeftHalf(Segmenter):
    """The left half of an image that is not black is lung."""

    def __init__(self) -> None:
        super().__init__(("background", "lungs"), 3)
        self.input_spec = self.input_spec.updated({"size": 32})

    def forward(self, x: Tensor) -> Tensor:
        lung = torch.where(x[:, :1].amax(dim=(2, 3), keepdim=True) > 0, 1.0, -1.0).repeat(1, 1, *x.shape[2:])
        lung[..., x.shape[3] // 2 :] = -1
        return torch.cat([-lung, lung], dim=1)


def model() -> nn.Module:
    torch.manual_seed(0)
    return thoraxlib.build("chexnet", backbone="resnet10t", labels=["Mass", "Edema"], input_spec={"size": 64})


def test_the_share_by_hand() -> None:
    heat = torch.tensor([[5.0, 6.0, 8.0], [5.0, 5.0, torch.nan]])
    mask = torch.tensor([[True, True, False], [True, False, True]])
    assert share_inside(heat, mask) == pytest.approx(1 / 4)
    assert share_inside(heat, ~mask) == pytest.approx(3 / 4)
    assert share_inside(heat, torch.zeros_like(mask)) is None
    assert share_inside(torch.full((2, 3), 7.0), mask) is None
    assert share_inside(torch.full((2, 3), torch.nan), mask) is None


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 1000), st.floats(-10, 10), st.floats(0.1, 10))
def test_the_share_does_not_depend_on_the_map_s_scale(seed: int, offset: float, scale: float) -> None:
    random = torch.Generator().manual_seed(seed)
    heat, mask = torch.rand(6, 7, generator=random), torch.rand(6, 7, generator=random) > 0.5
    share = share_inside(heat, mask)
    assert share is not None
    assert 0 <= share <= 1
    assert share_inside(offset + scale * heat, mask) == pytest.approx(share, abs=1e-3)


def test_explanations_have_the_share_and_the_outline(tmp_path: Path) -> None:
    net, segmenter = model(), LeftHalf().train()
    sizes = [(50, 40), (300, 20), (64, 64)]
    images = [torch.randint(1, 255, (1, *size), dtype=torch.uint8) for size in sizes]
    found = thoraxlib.explain(net, images, threshold=0, segmenter=segmenter, batch_size=2)
    assert segmenter.training
    plain = thoraxlib.explain(net, images, threshold=0, batch_size=2)
    for image, other, (height, width) in zip(found, plain, sizes, strict=True):
        assert image.lungs is not None
        assert image.lungs.shape == (height, width)
        assert image.lungs[:, : width // 2 - 2].all()
        assert not image.lungs[:, width // 2 + 2 :].any()
        for finding in image.findings:
            heat = finding.map - finding.map.min()
            assert finding.in_lungs == pytest.approx(float(heat[image.lungs].sum() / heat.sum()), rel=1e-4)
            assert f"{finding.in_lungs:.0%} in lungs" in str(finding)
        written = image.to_json()["findings"]
        assert [each["in_lungs"] for each in written] == [finding.in_lungs for finding in image.findings]
        assert image.panel(side=100).size != other.panel(side=100).size
        assert other.lungs is None
        assert all(finding.in_lungs is None for finding in other.findings)
        assert "in_lungs" not in other.to_json()["findings"][0]
        assert "in lungs" not in str(other)
    found[0].save(tmp_path)
    assert "in_lungs" in json.loads((tmp_path / f"{found[0].name}.json").read_text())["findings"][0]


def test_one_forward_pass_for_a_batch() -> None:
    class Counting(LeftHalf):
        seen: list[int] = []  # noqa: RUF012

        def forward(self, x: Tensor) -> Tensor:
            self.seen.append(len(x))
            return super().forward(x)

    images = [torch.full((1, 20 + n, 30), 9, dtype=torch.uint8) for n in range(5)]
    thoraxlib.explain(model(), images, segmenter=Counting(), batch_size=4)
    assert Counting.seen == [4, 1]


def test_no_lungs_are_said() -> None:
    images = [torch.zeros(1, 20, 30, dtype=torch.uint8), torch.full((1, 20, 30), 9, dtype=torch.uint8)]
    with pytest.warns(UserWarning, match="no lungs found in image-0001: in_lungs is None"):
        black, grey = thoraxlib.explain(model(), images, threshold=0, segmenter=LeftHalf())
    assert black.lungs is not None
    assert not black.lungs.any()
    assert all(finding.in_lungs is None for finding in black.findings)
    assert black.to_json()["findings"][0]["in_lungs"] is None
    assert any(finding.in_lungs is not None for finding in grey.findings)
    black.panel(side=64)


def test_pixels_that_the_model_has_not_seen_do_not_count() -> None:
    net = thoraxlib.build(
        "chexnet", backbone="resnet10t", labels=["Mass"], input_spec={"size": 64, "resize": "crop", "crop_ratio": 1.0}
    )
    image = torch.randint(1, 255, (1, 40, 100), dtype=torch.uint8)
    (result,) = thoraxlib.explain(net, image, threshold=0, segmenter=LeftHalf())
    (finding,) = result.findings
    assert finding.map.isnan().any()
    assert finding.in_lungs is not None
    assert 0 <= finding.in_lungs <= 1


def test_by_name() -> None:
    image = torch.randint(1, 255, (1, 90, 70), dtype=torch.uint8)
    for spec in ("lungs-small", {"name": "lungs-small", "in_chans": 1}, segmentation.build("lungs-small")):
        with warnings.catch_warnings(record=True):  # noise may have no lungs
            (result,) = thoraxlib.explain(model(), image, threshold=0, segmenter=spec)
        assert result.lungs is not None
        assert result.lungs.shape == (90, 70)


@pytest.mark.parametrize(
    ("segmenter", "error", "message"),
    [
        ("lungs-smal", KeyError, "did you mean 'lungs-small'"),
        (nn.Identity(), TypeError, "segmenter must be a name, a mapping with 'name', or a Segmenter, got Identity"),
        ({"name": "unet", "width": 4, "classes": ("background", "heart")}, ValueError, "must have the class 'lungs'"),
    ],
)
def test_bad_segmenters(segmenter: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        thoraxlib.explanation.explain_each(model(), torch.zeros(1, 9, 9), segmenter=segmenter)


def test_the_outline_lies_inside_the_mask() -> None:
    mask = torch.zeros(100, 80)
    mask[20:60, 10:50] = 1
    drawn = torch.from_numpy(np.array(plotting.outline(torch.zeros(100, 80), mask))).amax(dim=2) > 0
    assert drawn[20, 10:50].all()
    assert drawn[20:60, 49].all()
    assert not drawn[22:58, 12:48].any()
    assert not (drawn & (mask == 0)).any()
    with pytest.raises(ValueError, match=r"mask must be \(h, w\)"):
        plotting.outline(torch.zeros(4, 4), torch.zeros(1, 4, 4))
