"""Boxes from maps, overlaps, hits: geometry that must hold for any input."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torch import Tensor

from thoraxlib import cams, localization
from thoraxlib.localization import Boxes, acc_afp, box_iobb, box_iou, pointing_game, threshold, wang_table
from thoraxlib.localization.regions import find_regions
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


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    shape=st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9)),
    share=st.floats(0, 1),
    connectivity=st.sampled_from([4, 8]),
)
def test_regions_are_scipys(seed: int, shape: tuple[int, int, int], share: float, connectivity: int) -> None:
    values = np.random.default_rng(seed).random(shape)
    masks = values < share
    expected = []
    for plane, mask in enumerate(masks):
        structure = ndimage.generate_binary_structure(2, 2 if connectivity == 8 else 1)
        regions, _ = ndimage.label(mask, structure)
        for index, (rows, columns) in enumerate(ndimage.find_objects(regions)):
            pixels = regions == index + 1
            box = (columns.start, rows.start, columns.stop, rows.stop)
            expected.append((plane, *box, pixels.sum(), pytest.approx(values[plane][pixels].sum())))
    found = find_regions(masks, values, connectivity)
    assert list(zip(found.plane, *found.xyxy.T, found.area, found.total, strict=True)) == expected


def test_many_maps_are_what_each_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    maps, rule = torch.randn(3, 4, 5, 6), localization.build("threshold")
    together = rule(maps, (40, 48))
    monkeypatch.setattr(threshold, "_PIXELS", 40 * 48 * 5)
    assert all(torch.equal(a, b) for a, b in zip(together, rule(maps, (40, 48)), strict=True))
    alone = [rule(maps[n : n + 1, k : k + 1], (40, 48)).xyxy for n in range(3) for k in range(4)]
    assert torch.equal(together.xyxy, torch.cat(alone))


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
    with pytest.raises(ValueError, match="detected has labels from 0 to 2: allowed are 0 to 1"):
        acc_afp(detected, truth, 2, threshold=0.5)


def several(seed: int, count: int) -> Boxes:
    """Boxes of 3 images and 2 labels, in no order."""
    rng = torch.Generator().manual_seed(seed)
    image, label = (torch.randint(0, top, (count,), generator=rng) for top in (3, 2))
    return Boxes(some_boxes(seed, count), image, label, torch.ones(count))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31), m=st.integers(0, 12), n=st.integers(0, 12), criterion=st.sampled_from(["iou", "iobb"])
)
def test_acc_afp_is_what_counting_one_by_one_gives(seed: int, m: int, n: int, criterion: str) -> None:
    detected, truth = several(seed, m), several(seed + 1, n)
    overlap = {"iou": box_iou, "iobb": box_iobb}[criterion](detected.xyxy, truth.xyxy)
    hit, false, total = [0, 0], [0, 0], [0, 0]
    for t in range(n):
        total[truth.label[t]] += 1
        hit[truth.label[t]] += any(matches(detected, d, truth, t) and overlap[d, t] > 0.2 for d in range(m))
    for d in range(m):
        false[detected.label[d]] += not any(matches(detected, d, truth, t) and overlap[d, t] > 0.2 for t in range(n))
    accuracy, afp = acc_afp(detected, truth, 2, threshold=0.2, criterion=criterion)
    expected = [h / t if t else float("nan") for h, t in zip(hit, total, strict=True)]
    assert accuracy.tolist() == pytest.approx(expected, nan_ok=True)
    assert afp.tolist() == pytest.approx([f / max(n, 1) for f in false])


def matches(detected: Boxes, d: int, truth: Boxes, t: int) -> bool:
    return bool(detected.image[d] == truth.image[t] and detected.label[d] == truth.label[t])


def test_wang_table() -> None:
    box = [0.0, 0.0, 10.0, 10.0]
    truth = Boxes.from_lists([torch.tensor([box]), torch.tensor([box])], [torch.tensor([0]), torch.tensor([1])])
    # label 0: in image 0 the left 4/10 of the truth, in image 1 and (without any truth) image 2 the whole of it
    detected = Boxes(
        torch.tensor([[0.0, 0.0, 4.0, 10.0], box, box]), torch.tensor([0, 1, 2]), torch.tensor([0, 0, 0]), torch.ones(3)
    )
    table = wang_table(detected, truth, ["Mass", "Nodule", "Hernia"])
    assert [row for row in table.rows if row[0] == "iobb"] == [("iobb", t) for t in (0.1, 0.25, 0.5, 0.75, 0.9)]
    assert [row for row in table.rows if row[0] == "iou"] == [("iou", t / 10) for t in range(1, 8)]
    by_row = dict(zip(table.rows, table.accuracy[:, 0].tolist(), strict=True))
    assert by_row[("iobb", 0.9)] == by_row[("iou", 0.3)] == 1
    assert by_row[("iou", 0.5)] == 0
    assert table.afp[0].tolist() == [0.5, 0, 0]
    assert table.boxes.tolist() == [1, 1, 0]
    only = wang_table(detected, truth, ["Mass", "Nodule", "Hernia"], images="with_label", denominator=4)
    assert only.afp[0].tolist() == [0, 0, 0]
    assert only.afp[-1].tolist() == [0.25, 0, 0]
    text = str(table).splitlines()
    assert text[0].split() == ["Mass", "Nodule"]
    assert text[2].split() == ["IoBB", ">", "0.1", "Acc", "1.0000", "0.0000"]
    assert text[3].split() == ["AFP", "0.5000", "0.0000"]
    assert len(text) == 2 + 2 * 12
    with pytest.raises(ValueError, match="images='all'.*'with_label'"):
        wang_table(detected, truth, ["Mass"], images="all")


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
    flat = pointing_game(
        torch.ones(2, 2, 4, 4), [torch.tensor([[0.0, 0.0, 80.0, 80.0]])] * 2, [torch.tensor([0])] * 2, (80, 80)
    )
    assert [each.tolist() for each in flat] == [[0, 0], [2, 0]]  # nothing is highest


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
    with pytest.raises(ValueError, match=r"scores must be \(2, 3\).*\(3, 2\)"):
        localization.build("threshold")(torch.zeros(2, 3, 4, 4), 8, scores=torch.zeros(3, 2))
