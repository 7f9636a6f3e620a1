"""Boxes from maps, overlaps, hits: geometry that must hold for any input."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from thoraxlib import cams, localization
from thoraxlib.localization import Boxes, acc_afp, box_iobb, box_iou, pointing_game
from thoraxlib.registry import OptionError


def some_boxes(seed: int, count: int) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=rng) * 50
    return torch.cat([corner, corner + torch.rand(count, 2, generator=rng) * 30], dim=1)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**31), m=st.integers(0, 6), n=st.integers(0, 6))
def test_overlaps(seed: int, m: int, n: int) -> None:
    a, b = some_boxes(seed, m), some_boxes(seed + 1, n)
    iou, iobb = box_iou(a, b), box_iobb(a, b)
    assert iou.shape == iobb.shape == (m, n)
    assert ((iou >= 0) & (iou <= 1 + 1e-6)).all()
    assert ((iobb >= iou - 1e-6) & (iobb <= 1 + 1e-6)).all()
    torch.testing.assert_close(iou, box_iou(b, a).T)
    torch.testing.assert_close(box_iou(a * 3 + 7, b * 3 + 7), iou, rtol=1e-3, atol=1e-4)
    if m:
        torch.testing.assert_close(box_iou(a, a).diagonal(), torch.ones(m))


def test_overlaps_of_empty_boxes() -> None:
    empty = torch.tensor([[5.0, 5.0, 5.0, 5.0]])
    assert box_iou(empty, empty).item() == 0
    assert box_iobb(empty, torch.tensor([[0.0, 0.0, 9.0, 9.0]])).item() == 0
    assert box_iobb(torch.tensor([[2.0, 2.0, 4.0, 4.0]]), torch.tensor([[0.0, 0.0, 9.0, 9.0]])).item() == 1


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), connectivity=st.sampled_from([4, 8]), level=st.sampled_from([20.0, 60.0, 180.0]))
def test_boxes_hold_what_is_above_and_nothing_else(seed: int, connectivity: int, level: float) -> None:
    maps = torch.randn(2, 3, 5, 4, generator=torch.Generator().manual_seed(seed))
    rule = localization.build("threshold", levels=[level], connectivity=connectivity)
    found = rule(maps, (40, 24))
    above = cams.normalize(cams.upsample(maps, (40, 24))) * 255 > level
    inside = torch.zeros_like(above)
    for (x1, y1, x2, y2), n, k in zip(found.xyxy.int().tolist(), found.image, found.label, strict=True):
        inside[n, k, y1:y2, x1:x2] = True
        edges = above[n, k, y1:y2, x1:x2]
        assert edges[0].any()
        assert edges[-1].any()
        assert edges[:, 0].any()
        assert edges[:, -1].any()
    assert (inside | ~above).all()
    assert ((found.score > level / 255) & (found.score <= 1)).all()
    assert (found.image[1:] * 3 + found.label[1:] >= found.image[:-1] * 3 + found.label[:-1]).all()


def test_connectivity_dedupe_area_and_scores() -> None:
    maps = torch.zeros(1, 1, 8, 8)
    maps[0, 0, 1, 1] = maps[0, 0, 2, 2] = 1
    native = {"resolution": "native"}
    assert len(localization.build("threshold", connectivity=8, **native)(maps, 64).xyxy) == 1
    assert len(localization.build("threshold", connectivity=4, **native)(maps, 64).xyxy) == 2
    assert len(localization.build("threshold", dedupe=False, **native)(maps, 64).xyxy) == 2
    assert localization.build("threshold", **native)(maps, 64).xyxy.tolist() == [[8, 8, 24, 24]]
    assert localization.build("threshold", **native)(maps, (64, 32)).xyxy.tolist() == [[4, 8, 12, 24]]
    assert len(localization.build("threshold", min_area=257, **native)(maps, 64).xyxy) == 0
    scored = localization.build("threshold", **native)(maps, 64, scores=torch.tensor([[0.25]]))
    assert scored.score.tolist() == [0.25]


def test_a_constant_map_and_no_map_give_no_box() -> None:
    rule = localization.build("threshold")
    for maps in (torch.full((2, 3, 4, 4), 2.0), torch.zeros(0, 3, 4, 4)):
        found = rule(maps, 32)
        assert found.xyxy.shape == (0, 4)
        assert found.score.shape == found.image.shape == found.label.shape == (0,)


def test_acc_afp_counts_by_image_and_label() -> None:
    box = [0.0, 0.0, 10.0, 10.0]
    truth = Boxes.from_lists([torch.tensor([box, box]), torch.tensor([box])], [torch.tensor([0, 1]), torch.tensor([0])])
    assert truth.image.tolist() == [0, 0, 1]
    detected = Boxes(torch.tensor([box, box, box]), torch.tensor([0, 1, 1]), torch.tensor([0, 1, 2]), torch.ones(3))
    accuracy, false = acc_afp(detected, truth, 3, threshold=0.5, criterion="iou")
    assert accuracy[:2].tolist() == [0.5, 0.0]
    assert accuracy[2].isnan()
    assert false.tolist() == pytest.approx([0, 1 / 3, 1 / 3])
    assert acc_afp(detected, truth, 3, threshold=0.5, denominator=2)[1].tolist() == [0, 0.5, 0.5]
    assert acc_afp(detected, truth, 3, threshold=1.0)[0][0] == 0  # strictly above
    with pytest.raises(ValueError, match="criterion='giou'.*'iou', 'iobb'"):
        acc_afp(detected, truth, 3, threshold=0.5, criterion="giou")


def test_pointing_game() -> None:
    maps = torch.zeros(2, 2, 4, 4)
    maps[0, 0, 1, 2] = maps[0, 1, 3, 3] = maps[1, 0, 0, 0] = 1
    boxes = [torch.tensor([[40.0, 20.0, 60.0, 40.0], [0.0, 0.0, 9.0, 9.0], [0.0, 0.0, 9.0, 9.0]]), torch.zeros(0, 4)]
    labels = [torch.tensor([0, 0, 1]), torch.zeros(0).long()]
    hits, trials = pointing_game(maps, boxes, labels, (80, 80))  # peaks at (50, 30) and (70, 70)
    assert trials.tolist() == [1, 1]
    assert hits.tolist() == [1, 0]
    hits, _ = pointing_game(maps, boxes, labels, (80, 80), tolerance=62)
    assert hits.tolist() == [1, 1]
    assert pointing_game(maps, boxes, labels, (80, 40))[0].tolist() == [0, 0]


def test_lists_that_do_not_match() -> None:
    with pytest.raises(ValueError, match="do not match"):
        Boxes.from_lists([torch.zeros(2, 4)], [torch.zeros(1)])
    assert Boxes.from_lists([], []).xyxy.shape == (0, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"levels": []}, "levels"),
        ({"levels": [300]}, "300"),
        ({"connectivity": 6}, "4 and 8"),
        ({"resolution": "x"}, "native"),
    ],
)
def test_errors(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        localization.build("threshold", **options)
    with pytest.raises(OptionError, match="'levels'"):
        localization.build("threshold", level=[3])
    with pytest.raises(ValueError, match=r"\(N, K, h, w\)"):
        localization.build("threshold")(torch.zeros(3, 3), 8)
