"""Boxes from maps, overlaps, hits: geometry that must hold for any input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torch import Tensor

from thoraxlib import cams, explanation, localization
from thoraxlib.localization import (
    Boxes,
    acc_afp,
    base,
    box_iobb,
    box_iogt,
    box_iou,
    localization_table,
    pointing_game,
)
from thoraxlib.localization.boxes import area
from thoraxlib.localization.components import find_components
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


@pytest.mark.parametrize(
    "kind", [torch.float16, torch.bfloat16, torch.float64, torch.int16, torch.int32, torch.int64], ids=str
)
def test_overlaps_of_large_boxes_in_every_precision(kind: torch.dtype) -> None:
    """Areas are beyond 65504, float16's largest, and beyond what bfloat16 or 16 bits can count."""
    a = torch.tensor([[0, 0, 1024, 1024], [512, 0, 1536, 2048], [0, 0, 0, 0], [0, 0, 4096, 32_000]])
    b = torch.tensor([[512, 512, 1536, 1536], [0, 0, 1024, 1024]])
    for overlap in (box_iou, box_iobb, box_iogt):
        expected = overlap(a.double(), b.double())
        found = overlap(a.to(kind), b.to(kind))
        assert found.isfinite().all()
        torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(box_iou(a.to(kind), b.to(kind))[0].double(), torch.tensor([1 / 7, 1]).double())
    tiny = torch.tensor([[0, 0, 2**-13, 2**-13]], dtype=torch.float16)  # whose area float16 rounds to 0
    assert box_iou(tiny, tiny).item() == 1


def test_bytes_turned_inside_out_have_no_area() -> None:
    assert area(torch.tensor([[200, 10, 100, 20], [10, 10, 250, 250]], dtype=torch.uint8)).tolist() == [0, 57600]


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
    found = find_components(masks, values, connectivity)
    assert list(zip(found.plane, *found.xyxy.T, found.area, found.total, strict=True)) == expected


def test_many_maps_are_what_each_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    maps, rule = torch.randn(3, 4, 5, 6), localization.build("threshold")
    together = rule(maps, (40, 48))
    monkeypatch.setattr(base, "_PIXELS", 40 * 48 * 5)
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
    assert len(localization.build("threshold", min_area=0.0626, **native)(maps, 64).xyxy) == 0
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
    assert acc_afp(detected, truth, 3, threshold=1.0)[0][0] == 0  # strictly above
    assert acc_afp(detected, truth, 3, threshold=0.5, denominator=2)[1].tolist() == [0, 0.5, 0.5]
    with pytest.raises(ValueError, match="denominator=0"):
        acc_afp(detected, truth, 3, threshold=0.5, denominator=0)
    with pytest.raises(ValueError, match="criterion='giou'.*'iou', 'iobb'"):
        acc_afp(detected, truth, 3, threshold=0.5, criterion="giou")
    with pytest.raises(ValueError, match="labels of the detected boxes have indices from 0 to 2, but there are 2"):
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


def test_localization_table() -> None:
    box = [0.0, 0.0, 10.0, 10.0]
    truth = Boxes.from_lists([torch.tensor([box]), torch.tensor([box])], [torch.tensor([0]), torch.tensor([1])])
    # label 0: in image 0 the left 4/10 of the truth, in image 1 and (without any truth) image 2 the whole of it
    detected = Boxes(
        torch.tensor([[0.0, 0.0, 4.0, 10.0], box, box]), torch.tensor([0, 1, 2]), torch.tensor([0, 0, 0]), torch.ones(3)
    )
    table = localization_table(detected, truth, ["Mass", "Nodule", "Hernia"])
    assert [row for row in table.rows if row[0] == "iobb"] == [("iobb", t) for t in (0.1, 0.25, 0.5, 0.75, 0.9)]
    assert [row for row in table.rows if row[0] == "iou"] == [("iou", t / 10) for t in range(1, 8)]
    by_row = dict(zip(table.rows, table.accuracy[:, 0].tolist(), strict=True))
    assert by_row[("iobb", 0.9)] == by_row[("iou", 0.3)] == 1
    assert by_row[("iou", 0.5)] == 0
    assert table.afp[0].tolist() == [0.5, 0, 0]
    assert table.boxes.tolist() == [1, 1, 0]
    only = localization_table(detected, truth, ["Mass", "Nodule", "Hernia"], images="with_label", denominator=4)
    assert only.afp[0].tolist() == [0, 0, 0]
    assert only.afp[-1].tolist() == [0.25, 0, 0]
    text = str(table).splitlines()
    assert text[0].split() == ["Mass", "Nodule"]
    assert text[3].split() == ["IoBB", ">", "0.1", "Acc", "1.0000", "0.0000"]
    assert text[4].split() == ["AFP", "0.5000", "0.0000"]
    assert len(text) == 3 + 2 * 12
    with pytest.raises(ValueError, match="images='all'.*'with_label'"):
        localization_table(detected, truth, ["Mass"], images="all")


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
    assert pointing_game(maps, boxes, labels, (80, 60))[0].tolist() == [0, 0]  # the first peak is at (37.5, 30)
    flat = pointing_game(
        torch.ones(2, 2, 4, 4), [torch.tensor([[0.0, 0.0, 80.0, 80.0]])] * 2, [torch.tensor([0])] * 2, (80, 80)
    )
    assert [each.tolist() for each in flat] == [[0, 0], [2, 0]]  # nothing is highest


def test_bad_maps_and_truth_of_the_pointing_game() -> None:
    maps, boxes, labels = torch.rand(1, 2, 4, 4), [torch.tensor([[0.0, 0.0, 90.0, 90.0]])], [torch.tensor([0])]
    spoilt = maps.clone()
    spoilt[0, 1, 2, 2] = torch.nan
    for bad in (spoilt, maps[..., :0], maps[0]):
        with pytest.raises(ValueError, match=r"maps (must be \(N, K, h, w\), with at least one pixel|hold NaN)"):
            pointing_game(bad, boxes, labels, (90, 90))
    with pytest.raises(ValueError, match="leaves the image of 40 x 90 pixels: images and true boxes"):
        pointing_game(maps, boxes, labels, (90, 40))
    with pytest.raises(ValueError, match="1 images have maps, 2 have boxes"):
        pointing_game(maps, boxes * 2, labels * 2, (90, 90))
    with pytest.raises(ValueError, match="box_labels have indices from 2 to 2, but there are 2"):
        pointing_game(maps, boxes, [torch.tensor([2])], (90, 90))


def test_bad_boxes_thresholds_and_sizes() -> None:
    good = Boxes.from_lists([torch.tensor([[0.0, 0.0, 10.0, 10.0]])], [torch.tensor([0])])
    for wrong in ([5.0, 5.0, 1.0, 9.0], [0.0, 0.0, float("nan"), 9.0], [0.0, 0.0, float("inf"), 9.0]):
        bad = good._replace(xyxy=torch.tensor([wrong]))
        for name, detected, truth in (("detected", bad, good), ("truth", good, bad)):
            with pytest.raises(ValueError, match=f"{name} boxes hold .*finite x1 <= x2"):
                acc_afp(detected, truth, 1, threshold=0.5)
    for threshold in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=f"threshold={threshold}: an overlap from 0 to 1"):
            acc_afp(good, good, 1, threshold=threshold)
    with pytest.raises(ValueError, match="rows is empty"):
        localization_table(good, good, ["Mass"], rows=[])
    for size in (0, (8, -1), (8,), 1.5):
        with pytest.raises(ValueError, match="size=.*in whole pixels"):
            localization.build("otsu")(torch.rand(1, 1, 4, 4), size)
    with pytest.raises(ValueError, match="leaves the image of 5 x 5"):
        explanation.tune("otsu", {}, torch.rand(1, 1, 4, 4), (5, 5), good)
    assert len(localization.build("otsu")(torch.rand(1, 1, 4, 4), (np.int64(8), np.int64(6))).xyxy)


def test_lists_that_do_not_match() -> None:
    with pytest.raises(ValueError, match="do not match"):
        Boxes.from_lists([torch.zeros(2, 4)], [torch.zeros(1)])
    assert Boxes.from_lists([], []).xyxy.shape == (0, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"levels": []}, "levels"),
        ({"levels": [300]}, "300"),
        ({"connectivity": 6}, "4, 8"),
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


RULES = localization.names()


@pytest.mark.parametrize("name", RULES)
class TestEveryRule:
    def test_a_blob_is_boxed(self, name: str) -> None:
        y, x = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
        blob = torch.exp(-((y - 4) ** 2 + (x - 11) ** 2) / 6)
        found = localization.build(name)(blob.expand(2, 3, 16, 16), (64, 128))
        assert set(zip(found.image.tolist(), found.label.tolist(), strict=True)) == {
            (n, k) for n in range(2) for k in range(3)
        }
        x1, y1, x2, y2 = found.xyxy.unbind(dim=1)
        assert ((x1 < 92) & (x2 > 92) & (y1 < 18) & (y2 > 18)).all()
        assert (box_iou(found.xyxy, torch.tensor([[72.0, 8.0, 112.0, 28.0]])) > 0.2).all()

    def test_a_constant_map_has_no_box(self, name: str) -> None:
        assert len(localization.build(name)(torch.full((1, 2, 5, 5), 0.3), 40).image) == 0

    def test_maps_in_a_batch_do_not_see_each_other(self, name: str) -> None:
        maps, rule = torch.rand(3, 2, 6, 6), localization.build(name)
        together = rule(maps, 48)
        for n in range(3):
            torch.testing.assert_close(rule(maps[n : n + 1], 48).xyxy, together.where(together.image == n).xyxy)

    def test_filters(self, name: str) -> None:
        maps, size = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(3)), (80, 40)
        everything = localization.build(name)(maps, size)
        width, height = (everything.xyxy[:, 2:] - everything.xyxy[:, :2]).div(torch.tensor([40.0, 80.0])).unbind(1)
        share = width * height
        for options, kept in (
            ({"min_area": 0.02}, share >= 0.02),
            ({"max_area": 0.05}, share <= 0.05),
            ({"max_side": 0.3}, torch.maximum(width, height) <= 0.3),
        ):
            assert 0 < int(kept.sum()) < len(kept)
            torch.testing.assert_close(localization.build(name, **options)(maps, size).xyxy, everything.xyxy[kept])
        best = localization.build(name, keep=2)(maps, size)
        for n in range(2):
            for k in range(3):
                scores = everything.score[(everything.image == n) & (everything.label == k)].sort(descending=True)[0]
                kept_scores = best.score[(best.image == n) & (best.label == k)].sort(descending=True)[0]
                torch.testing.assert_close(kept_scores, scores[:2])

    def test_bad_options_and_maps(self, name: str) -> None:
        for options, message in (
            ({"connectivity": 6}, "connectivity=6: allowed are 4, 8"),
            ({"min_area": 2.0}, "min_area=2.0, max_area=1.0: shares"),
            ({"max_side": 0}, "max_side=0: a share"),
            ({"keep": 0}, "keep=0: a number of boxes"),
        ):
            with pytest.raises(ValueError, match=message):
                localization.build(name, **options)
        with pytest.raises(OptionError, match="no option 'min_aera'.*did you mean 'min_area'"):
            localization.build(name, min_aera=0.1)
        with pytest.raises(ValueError, match=r"at least one pixel, got \(1, 1, 0, 4\)"):
            localization.build(name)(torch.zeros(1, 1, 0, 4), 8)
        bad = torch.zeros(2, 2, 4, 4)
        bad[1, 0, 2, 2] = float("nan")
        with pytest.raises(ValueError, match=r"NaN or infinite values, or .* \(image, label\) \(1, 0\)"):
            localization.build(name)(bad, 8)


def test_percentile_otsu_and_level_are_what_numpy_gives() -> None:
    maps = torch.rand(2, 2, 9, 9, generator=torch.Generator().manual_seed(0))
    heat = cams.normalize(cams.upsample(maps, 36)).flatten(0, 1)
    (mask,) = localization.build("percentile", percentile=80).masks(heat)
    for h, m in zip(heat.numpy(), mask.numpy(), strict=True):
        np.testing.assert_array_equal(m, h > np.percentile(h, 80).astype(np.float32))
    (mask,) = localization.build("otsu").masks(heat)
    for h, m in zip(heat, mask, strict=True):
        bins = (h * 256).long().clamp(max=255).flatten()
        best, level = -1.0, 0
        for t in range(255):  # by the definition, level by level
            low, high = bins[bins <= t].double(), bins[bins > t].double()
            if len(low) and len(high):
                between = len(low) * len(high) * (low.mean() - high.mean()) ** 2
                if between > best * (1 + 1e-12):
                    best, level = float(between), t
        assert torch.equal(m, (h * 256).long().clamp(max=255) > level)
    found = localization.build("level", level=0.5)(maps, 36)
    assert len(found.image)
    assert len(localization.build("level", level=1.1)(maps, 36).image) == 0


@settings(max_examples=60, deadline=None)
@given(
    resize=st.sampled_from(["stretch", "crop", "pad"]),
    height=st.integers(40, 300),
    width=st.integers(40, 300),
    seed=st.integers(0, 1000),
)
def test_boxes_go_back_to_the_image(resize: str, height: int, width: int, seed: int) -> None:
    """There by the transform that the model's input is made with, and back."""
    from torchvision import tv_tensors

    from thoraxlib import InputSpec
    from thoraxlib.images import transform_for

    spec = InputSpec(size=(64, 48), resize=resize, crop_ratio=0.9 if resize == "crop" else 1.0)
    rng = torch.Generator().manual_seed(seed)
    corner = torch.rand(3, 2, generator=rng) * torch.tensor([width * 0.6, height * 0.6])
    xyxy = torch.cat([corner, corner + 8 + torch.rand(3, 2, generator=rng) * 20], dim=1)
    xyxy = torch.minimum(xyxy, torch.tensor([width, height, width, height]).float())
    boxes = tv_tensors.BoundingBoxes(xyxy, format="XYXY", canvas_size=(height, width))
    image = tv_tensors.Image(torch.zeros(1, height, width, dtype=torch.uint8))
    sample = transform_for(spec)({"image": image, "boxes": boxes, "box_labels": torch.arange(3)})
    there = Boxes.from_lists([sample["boxes"]], [sample["box_labels"]])
    back = localization.to_original(there, spec, [(height, width)])
    for box, k in zip(back.xyxy, back.label.tolist(), strict=True):
        if resize != "crop":
            torch.testing.assert_close(box, xyxy[k], atol=0.01, rtol=1e-4)
        else:  # what the crop left of it
            assert (box >= torch.cat([xyxy[k, :2], xyxy[k, :2]]) - 0.01).all()
            assert (box <= torch.cat([xyxy[k, 2:], xyxy[k, 2:]]) + 0.01).all()
    assert (back.xyxy >= 0).all()
    assert (back.xyxy <= torch.tensor([width, height, width, height])).all()


def test_boxes_in_the_padding_are_dropped() -> None:
    from thoraxlib import InputSpec

    spec = InputSpec(size=100, resize="pad")  # 200 x 100 pixels: 25 columns of padding on either side
    boxes = Boxes.from_lists([torch.tensor([[0.0, 0.0, 20.0, 50.0], [10.0, 0.0, 50.0, 50.0]])], [torch.tensor([0, 1])])
    back = localization.to_original(boxes, spec, [(200, 100)])
    assert back.xyxy.tolist() == [[0.0, 0.0, 50.0, 100.0]]
    assert back.label.tolist() == [1]
    with pytest.raises(ValueError, match="images of the boxes have indices from 0 to 0, but there are 0"):
        localization.to_original(boxes, spec, [])


def test_coco_round_trip(tmp_path: Path) -> None:
    truth = Boxes.from_lists(
        [torch.tensor([[1.0, 2.0, 30.5, 40.0]]), torch.zeros(0, 4), torch.tensor([[0.0, 0.0, 64.0, 48.0]])],
        [torch.tensor([1]), torch.zeros(0), torch.tensor([0])],
    )
    truth = truth._replace(score=torch.tensor([0.5, 1.0]))
    where = (["Mass", "Nodule"], ["a.png", "b.png", "c.png"], [(100, 50), (10, 10), (48, 64)])
    localization.save_coco(tmp_path / "deep" / "boxes.json", truth, *where)
    back = localization.read_coco(tmp_path / "deep" / "boxes.json")
    assert [list(column) for column in back[1:]] == [list(column) for column in where]
    for ours, theirs in zip(back.boxes, truth, strict=True):
        torch.testing.assert_close(ours, theirs)
    content = localization.to_coco(truth, *where)
    assert content["annotations"][0]["bbox"] == [1.0, 2.0, 29.5, 38.0]
    assert content["annotations"][0]["category_id"] == 2
    torchvision_style = pytest.importorskip("torchvision.ops").box_convert(
        torch.tensor([each["bbox"] for each in content["annotations"]]), "xywh", "xyxy"
    )
    torch.testing.assert_close(torchvision_style, truth.xyxy)


def test_coco_errors(tmp_path: Path) -> None:
    boxes = Boxes.from_lists([torch.tensor([[0.0, 0.0, 20.0, 50.0]])], [torch.tensor([0])])
    with pytest.raises(ValueError, match=r"1 boxes leave their image.*in a.png, 40 x 30 pixels"):
        localization.save_coco(tmp_path / "x.json", boxes, ["Mass"], ["a.png"], [(40, 30)])
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="labels of the boxes have indices from 0 to 0, but there are 0"):
        localization.to_coco(boxes, [], ["a.png"], [(100, 100)])
    with pytest.raises(ValueError, match="1 ids, but 2 sizes"):
        localization.to_coco(boxes, ["Mass"], ["a.png"], [(100, 100)] * 2)
    (tmp_path / "bad.json").write_text('{"images": [], "categories": []}')
    with pytest.raises(ValueError, match="no COCO file of boxes"):
        localization.read_coco(tmp_path / "bad.json")


def test_bootstrap_intervals() -> None:
    """Of a label that half of many images hit, the interval is that of a share; of one image, a point."""
    n = 400
    truth = Boxes.from_lists([torch.tensor([[0.0, 0.0, 10.0, 10.0]])] * n, [torch.tensor([0])] * n)
    detected = truth.where(torch.arange(n) % 2 == 0)
    table = localization_table(detected, truth, ["Mass", "Hernia"], rows=[("iou", 0.5)], n_bootstrap=500)
    assert table.accuracy[0, 0] == 0.5
    assert 0.44 < float(table.low[0, 0]) < 0.5 < float(table.high[0, 0]) < 0.56
    spread = float(table.high[0, 0] - table.low[0, 0])
    assert spread == pytest.approx(2 * 1.96 * (0.25 / n) ** 0.5, rel=0.2)
    assert table.low[0, 1].isnan()
    again = localization_table(detected, truth, ["Mass", "Hernia"], rows=[("iou", 0.5)], n_bootstrap=500)
    assert torch.equal(again.low[0, :1], table.low[0, :1])
    assert "0." in str(table).splitlines()[4]
    assert table.mean_accuracy("iou", 0.5) == 0.5
    with pytest.raises(ValueError, match="no row"):
        table.mean_accuracy("iobb", 0.5)
    with pytest.raises(ValueError, match="n_bootstrap=-1"):
        localization_table(detected, truth, ["Mass", "Hernia"], n_bootstrap=-1)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_iogt_is_iobb_the_other_way_round(seed: int) -> None:
    a, b = some_boxes(seed, 4), some_boxes(seed + 1, 3)
    torch.testing.assert_close(localization.box_iogt(a, b), box_iobb(b, a).T)
    whole = torch.tensor([[-1.0, -1.0, 200.0, 200.0]])
    torch.testing.assert_close(localization.box_iogt(whole, b)[0], torch.ones(3))


def test_localize_and_tune() -> None:
    import thoraxlib
    from thoraxlib import datasets

    torch.manual_seed(0)
    labels = ["Mass", "Effusion", "Edema"]
    model = thoraxlib.build("chexnet", backbone="resnet10t", labels=labels, input_spec={"size": [64, 64]})
    images = datasets.build("synthetic", size=96, length=24, labels=labels, balance=1.0, masks=False)
    found = explanation.localize(model, images, method={"name": "gradcam", "relu": False}, rule="otsu", batch_size=7)
    assert len(found.ids) == int(images.boxed.sum())
    assert set(found.sizes) == {(96, 96)}
    expected = Boxes.from_lists(*zip(*[(s["boxes"], s["box_labels"]) for s in images if len(s["boxes"])], strict=True))
    torch.testing.assert_close(found.truth.xyxy, expected.xyxy)
    assert torch.equal(found.truth.image, expected.image)
    # one image by hand
    n = 3
    sample = images[images.ids.index(found.ids[n])]
    x = thoraxlib.preprocess_for(model)(sample["image"])
    maps = cams.build("gradcam", model, relu=False)(x)
    boxes = localization.build("otsu")(maps, 64, model.eval().predict_proba(x))
    torch.testing.assert_close(found.detected.where(found.detected.image == n).xyxy, boxes.xyxy * 1.5)
    # another batch size, other rounding: a place at the threshold may fall on its other side
    torch.testing.assert_close(found.detected.where(found.detected.image == n).score, boxes.score, rtol=1e-2, atol=1e-3)
    table = localization_table(found.detected, found.truth, labels, n_bootstrap=50)
    assert str(table)

    truth = Boxes.from_lists([torch.tensor([[16.0, 16.0, 32.0, 32.0]])], [torch.tensor([0])])
    peak = torch.zeros(1, 1, 8, 8)
    peak[..., 2:4, 2:4] = 1
    best = explanation.tune(
        "threshold", {"levels": [(5,), (100,), (250,)], "connectivity": [8]}, peak, (64, 64), truth, threshold=0.7
    )
    assert best == {"levels": (100,), "connectivity": 8}
    with pytest.raises(ValueError, match="0 true boxes"):
        explanation.tune("otsu", {}, peak, (64, 64), truth.where(truth.label == 1))

    class Shrunk(datasets.Subset):
        def __getitem__(self, index: int) -> dict:
            sample = super().__getitem__(index)
            return {**sample, "image": sample["image"][..., ::2, ::2]}

    with pytest.raises(ValueError, match="has 48 x 48 pixels, its boxes are of 96 x 96: images and true"):
        explanation.localize(model, Shrunk(images, range(len(images))))
    with pytest.raises(ValueError, match="no boxes"):
        explanation.localize(model, datasets.Subset(images, (~images.boxed).nonzero().flatten().tolist()))
    with pytest.raises(ValueError, match="are not the model's"):
        explanation.localize(model, datasets.build("synthetic", size=64, length=2))
