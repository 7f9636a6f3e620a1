"""From a feature map to a crop: what must hold for any input, against one image at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

import thoraxlib
from thoraxlib import localization
from thoraxlib.localization import crops
from thoraxlib.localization.crops import Crop, components, crop_and_resize, largest_component, paste, resample
from thoraxlib.localization.crops.base import STATISTICS, heat
from thoraxlib.localization.maps import otsu
from thoraxlib.registry import OptionError, UnknownNameError
from thoraxlib.reproduce import ien001
from thoraxlib.reproduce.fixed_point import upsample_uint8
from thoraxlib.reproduce.ien001 import tile_crop

NAMES = ("fixed", "ien001", "ien001_clean", "otsu", "percentile")
WAYS = (components._by_runs, components._by_labels)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def boxes_in(n: int, h: int, w: int, seed: int = 0) -> Tensor:
    """Boxes (N, 4) of any size, the whole image and a single pixel among them."""
    rng = np.random.default_rng(seed)
    x, y = (np.sort(rng.integers(0, length, (n, 2)), axis=1) for length in (w, h))
    boxes = np.stack([x[:, 0], y[:, 0], x[:, 1] + 1, y[:, 1] + 1], axis=1)
    boxes[:1], boxes[1:2] = (0, 0, w, h), (w - 1, 0, w, 1)
    return torch.from_numpy(boxes)


# -- components ------------------------------------------------------------------------------------------------------


def one_by_one(mask: Tensor, connectivity: int) -> list[tuple[bool, list[int], np.ndarray]]:
    """Largest components by SciPy, mask by mask."""
    expected = []
    for plane in mask.numpy():
        labels, _ = ndimage.label(plane, ndimage.generate_binary_structure(2, 2 if connectivity == 8 else 1))
        counts = np.bincount(labels.ravel())[1:]
        if not len(counts):
            expected.append((False, [0, 0, plane.shape[1], plane.shape[0]], plane))
            continue
        pixels = labels == counts.argmax() + 1  # the first of equal ones
        y, x = np.nonzero(pixels)
        expected.append((True, [x.min(), y.min(), x.max() + 1, y.max() + 1], pixels))
    return expected


@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    shape=st.tuples(st.integers(0, 4), st.integers(1, 12), st.integers(1, 12)),
    share=st.floats(0, 1),
    connectivity=st.sampled_from([4, 8]),
)
def test_largest_component_is_scipys(
    way: Callable[..., tuple[Tensor, Tensor, Tensor]],
    seed: int,
    shape: tuple[int, int, int],
    share: float,
    connectivity: int,
) -> None:
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < share
    found = components.Component(*way(mask, connectivity))
    expected = one_by_one(mask, connectivity)
    assert found.valid.tolist() == [valid for valid, _, _ in expected]
    assert found.box.tolist() == [box for _, box, _ in expected]
    for ours, (_, _, pixels) in zip(found.mask, expected, strict=True):
        np.testing.assert_array_equal(ours.numpy(), pixels)


def spiral(side: int) -> Tensor:
    """One line of a pixel's width, from a corner to the middle."""
    mask = torch.zeros(side, side, dtype=torch.bool)
    at, step, length = torch.tensor([0, 0]), torch.tensor([0, 1]), side - 1
    mask[0, 0] = True
    for turn in range(side):
        for _ in range(length):
            at = at + step
            mask[at[0], at[1]] = True
        step = torch.stack([step[1], -step[0]])
        length -= 2 if turn >= 2 and turn % 2 == 0 else 0
    return mask


@pytest.mark.parametrize("connectivity", [4, 8])
def test_long_ways_round(connectivity: int) -> None:
    mask = torch.stack([spiral(63), spiral(63).flip(0), spiral(63).T, spiral(63).rot90(2)])
    assert 1000 < mask[0].sum() < 0.6 * 63**2
    for way in WAYS:
        found = components.Component(*way(mask, connectivity))
        for ours, (_, box, pixels), its in zip(found.mask, one_by_one(mask, connectivity), found.box, strict=True):
            assert its.tolist() == box
            np.testing.assert_array_equal(ours.numpy(), pixels)
    labels = components.label_components(mask, connectivity)
    first = [int(plane.flatten().nonzero()[0]) for plane in mask]
    assert [sorted(set(plane.flatten().tolist())) for plane in labels] == [[at, 63 * 63] for at in first]


def test_labels_come_a_long_way_in_few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds, around = [], components._smallest_around
    monkeypatch.setattr(components, "_smallest_around", lambda *args: rounds.append(1) or around(*args))
    components.label_components(spiral(127)[None], 4)
    assert len(rounds) <= 12  # of a line of 8000 pixels


def test_other_devices_take_the_other_way(monkeypatch: pytest.MonkeyPatch) -> None:
    images, features = random(3, 3, 32, 32), random(3, 5, 4, 4, seed=1)
    before = [crops.build(name)(images, features) for name in NAMES]
    assert largest_component(before[0].mask).box.tolist() == before[0].box.tolist()
    monkeypatch.setattr(components, "_by_runs", components._by_labels)
    for name, expected in zip(NAMES, before, strict=True):
        for ours, theirs in zip(crops.build(name)(images, features), expected, strict=True):
            assert torch.equal(ours, theirs)


# -- resampling ------------------------------------------------------------------------------------------------------


def cut_one_by_one(images: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    parts = [
        F.interpolate(image[None, :, y1:y2, x1:x2], size, mode="bilinear")
        for image, (x1, y1, x2, y2) in zip(images, boxes.tolist(), strict=True)
    ]
    return torch.cat(parts)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    frame=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
)
def test_crops_are_what_cutting_and_interpolating_gives(
    seed: int, frame: tuple[int, int], size: tuple[int, int]
) -> None:
    images, boxes = random(4, 2, *frame, seed=seed % 1000), boxes_in(4, *frame, seed)
    expected = cut_one_by_one(images.double(), boxes, size)
    torch.testing.assert_close(crop_and_resize(images.double(), boxes, size), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(crop_and_resize(images, boxes, size), expected.float(), rtol=0, atol=2e-6)


def test_a_crop_of_the_whole_image_is_the_image() -> None:
    images = random(2, 3, 24, 30)
    whole = torch.tensor([[0, 0, 30, 24]]).expand(2, -1)
    assert torch.equal(crop_and_resize(images, whole, (24, 30)), images)


def test_gradients_are_those_of_one_image_at_a_time() -> None:
    boxes, weight = boxes_in(4, 14, 11, seed=3), random(4, 2, 9, 8, seed=4).double()
    grads = []
    for cut in (crop_and_resize, cut_one_by_one):
        images = random(4, 2, 14, 11).double().requires_grad_()
        (cut(images, boxes, (9, 8)) * weight).sum().backward()
        grads.append(images.grad)
    torch.testing.assert_close(*grads)
    images = random(2, 1, 5, 4).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: crop_and_resize(x, boxes_in(2, 5, 4), (3, 6)), images)


def test_one_by_one_is_what_the_whole_is(monkeypatch: pytest.MonkeyPatch) -> None:
    images, boxes = random(7, 3, 20, 24), boxes_in(7, 20, 24)
    boxes[1:2] = torch.tensor([3, 4, 9, 11])  # two pixels at least, for the tile
    boxes[2:, 2:] = boxes[2:, :2] + 2
    for cut in (crop_and_resize, tile_crop):
        together = cut(images, boxes, (20, 20))
        with monkeypatch.context() as patch:
            for module in (resample, ien001):
                patch.setattr(module, "at_once", lambda images: True)
            assert torch.equal(cut(images, boxes, (20, 20)), together)
            patch.setattr(resample, "_bagged", resample._gathered)  # as on other devices
            torch.testing.assert_close(cut(images, boxes, (20, 20)), together)


def test_half_precision_and_autocast() -> None:
    images, boxes = random(3, 3, 20, 20), boxes_in(3, 20, 20)
    expected = crop_and_resize(images, boxes, (20, 20))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(crop_and_resize(images, boxes, (20, 20)), expected)
    half = crop_and_resize(images.bfloat16(), boxes, (20, 20))
    assert half.dtype == torch.bfloat16
    assert torch.equal(half, crop_and_resize(images.bfloat16().float(), boxes, (20, 20)).bfloat16())


def test_what_is_pasted_lies_where_it_was_seen() -> None:
    y, x = torch.meshgrid(torch.arange(40.0), torch.arange(60.0), indexing="ij")
    images = torch.stack([y, x])[None].repeat(3, 1, 1, 1)
    boxes = torch.tensor([[10, 4, 33, 40], [0, 0, 60, 40], [57, 1, 59, 2]])
    crops = crop_and_resize(images, boxes, (230, 360))
    full = paste(crops, boxes.float(), (40, 60))
    for image, back, (x1, y1, x2, y2) in zip(images, full, boxes.tolist(), strict=True):
        inside = torch.zeros(40, 60, dtype=torch.bool)
        inside[y1:y2, x1:x2] = True
        assert (back[:, inside] - image[:, inside]).abs().max() < 0.05
        assert not back[:, ~inside].any()
    assert paste(crops.half(), boxes, (40, 60)).dtype == torch.half


# -- heat and its picture --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("statistic", ["max_abs", "l1", "l2", "sum"])
@pytest.mark.parametrize("rule", ["fixed", "otsu", "percentile", "ien001"])
def test_a_map_of_one_channel_is_heat_with_its_sign(rule: str, statistic: str) -> None:
    """Its highest values are cut out, however far its lowest are from zero."""
    features = torch.full((2, 1, 8, 8), -20.0)
    features[:, :, 1:3, 1:3] = -50.0
    features[0, :, 4:6, 5:8] = 3.0
    features[1, :, 4:6, 5:8] = -0.01
    made = crops.build(rule, statistic=statistic, **({"percentile": 90.0} if rule == "percentile" else {}))
    found = made(torch.rand(2, 3, 8, 8), features)
    assert found.valid.all()
    if rule in ("fixed", "percentile"):  # Otsu's level may part the lowest from the rest
        assert found.box[0].tolist() == [5, 4, 8, 6]
    assert torch.equal(found.heat, heat(features - features.amin(), statistic))
    both = torch.cat([features, torch.zeros_like(features)], dim=1)
    assert torch.equal(
        heat(both, "max_abs"), heat(features.abs(), "max_abs")
    )  # of several channels as the paper has it


def test_statistics() -> None:
    f = random(3, 6, 4, 5)
    absolute = f.abs()
    expected = {
        "max_abs": absolute.amax(1),
        "l1": absolute.mean(1),
        "l2": f.square().sum(1).sqrt() / 6,
        "sum": f.sum(1),
    }
    assert set(expected) == set(STATISTICS)
    for name, raw in expected.items():
        low, high = raw.amin((1, 2), keepdim=True), raw.amax((1, 2), keepdim=True)
        torch.testing.assert_close(heat(f, name), (raw - low) / (high - low))
        torch.testing.assert_close(heat(7 * f, name), heat(f, name))
    torch.testing.assert_close(heat(f, lambda x: x[:, 0]), heat(f[:, :1], "sum"))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_heat_of_what_is_not_finite_is_nothing(bad: float) -> None:
    f = random(2, 3, 4, 4)
    f[1, 1, 2, 3] = bad
    for name in STATISTICS:
        assert heat(f, name)[0].amax() == 1
        assert not heat(f, name)[1].any()


def opencv(levels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The rule for one map and pixel by pixel, in Python's whole numbers."""
    h, w = levels.shape
    out = np.zeros(size, np.int64)

    def taps(place: int, length: int, number: int) -> tuple[int, float]:
        p = np.float32((place + 0.5) * length / number - 0.5)
        return int(np.floor(p)), float(p - np.floor(p))

    for i in range(size[0]):
        row, part = taps(i, h, size[0])
        rows = [min(max(r, 0), h - 1) for r in (row, row + 1)]
        near, far = round(2048 * (1 - part)), round(2048 * part)
        for j in range(size[1]):
            column, share = taps(j, w, size[1])
            if column < 0 or column >= w - 1:
                column, share = min(max(column, 0), w - 1), 0.0
            a, b, right = round(2048 * (1 - share)), round(2048 * share), min(column + 1, w - 1)
            above, below = (int(levels[r, column]) * a + int(levels[r, right]) * b for r in rows)
            out[i, j] = (((near * (above >> 4)) >> 16) + ((far * (below >> 4)) >> 16) + 2) >> 2
    return out


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    shape=st.tuples(st.integers(1, 8), st.integers(1, 8)),
    size=st.tuples(st.integers(1, 33), st.integers(1, 33)),
)
def test_fixed_point(seed: int, shape: tuple[int, int], size: tuple[int, int]) -> None:
    levels = torch.randint(0, 256, (2, *shape), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    found = upsample_uint8(levels, size)
    assert ((found >= 0) & (found <= 255)).all()
    for ours, its in zip(found, levels, strict=True):
        np.testing.assert_array_equal(ours.numpy(), opencv(its.numpy(), size))
    assert torch.equal(upsample_uint8(levels, shape), levels.int())


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), top=st.integers(0, 255), count=st.integers(1, 80))
def test_otsu_is_the_first_best_level(seed: int, top: int, count: int) -> None:
    levels = torch.randint(0, top + 1, (3, count), generator=torch.Generator().manual_seed(seed))
    levels[2] = 255 - levels[1]
    for row, found in zip(levels.tolist(), otsu(levels).tolist(), strict=True):
        best, level = (0, 1), 0
        for t in range(256):  # fractions of whole numbers: exact
            low = [v for v in row if v <= t]
            weight = len(low) * (len(row) - len(low))
            score = (sum(low) * len(row) - sum(row) * len(low)) ** 2
            if weight and score * best[1] > best[0] * weight:
                best, level = (score, weight), t
        assert found == level


# -- rules -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_rule_step_by_step(name: str) -> None:
    images, features = random(5, 3, 48, 64), random(5, 7, 6, 8, seed=1).relu()
    rule = crops.build(name, size=(40, 30))
    found = rule(images, features)
    assert found.valid.all()
    assert found.crop.shape == (5, 3, 40, 30)
    assert torch.equal(found.heat, heat(features, rule.statistic))
    assert torch.equal(found.mask, rule.mask(rule.levels(found.heat, (48, 64))))
    for n, (valid, box, pixels) in enumerate(one_by_one(found.mask, 8)):
        assert valid
        assert found.box[n].tolist() == box
        assert found.yxyx[n].tolist() == [box[1], box[0], box[3] - 1, box[2] - 1]
        np.testing.assert_array_equal(found.component[n].numpy(), pixels)
    if name != "ien001":
        expected = cut_one_by_one(images.double(), found.box, (40, 30)).float()
        torch.testing.assert_close(found.crop, expected, rtol=0, atol=3e-5)
        assert torch.equal(found.window, found.box.float())


@pytest.mark.parametrize("tau", [0.1, 0.6, 0.7, 0.95])
def test_fixed(tau: float) -> None:
    features = random(4, 9, 7, 7)
    found = crops.build("fixed", tau=tau)(random(4, 1, 56, 56), features)
    raw = features.abs().amax(1, keepdim=True)
    stretched = (raw - raw.amin((2, 3), keepdim=True)) / (
        raw.amax((2, 3), keepdim=True) - raw.amin((2, 3), keepdim=True)
    )
    large = F.interpolate(stretched.double(), (56, 56), mode="bilinear")[:, 0]
    clear = (large - tau).abs() > 1e-6
    assert clear.float().mean() > 0.99
    assert torch.equal(found.mask[clear], (large > tau)[clear])
    # in 8 bits: above the floor of the level, as whole numbers
    found = crops.build("ien001_clean", tau=tau, statistic="max_abs")(random(4, 1, 56, 56), features)
    levels = upsample_uint8((255 * heat(features)).to(torch.uint8), (56, 56))
    assert torch.equal(found.mask, levels > int(255 * tau))


def test_percentile_and_otsu() -> None:
    images, features = random(3, 1, 64, 64), random(3, 4, 8, 8)
    for percentile in (5, 50, 99):
        found = crops.build("percentile", percentile=percentile)(images, features)
        share = found.mask.float().mean(dim=(1, 2))
        torch.testing.assert_close(share, torch.full((3,), 1 - percentile / 100), rtol=0, atol=1e-3)
    # the same pixels as the box rule's of the same heat, and as NumPy's
    levels = crops.build("percentile").levels(heat(features), (64, 64))
    (as_boxes,) = localization.build("percentile", percentile=99).masks(levels)
    assert torch.equal(found.mask, as_boxes)
    for mask, values in zip(found.mask.numpy(), levels.numpy(), strict=True):
        np.testing.assert_array_equal(mask, values > np.percentile(values.astype(np.float64), 99))
    levels = crops.build("otsu").levels(heat(features), (64, 64)).long()
    expected = levels > otsu(levels.flatten(1))[:, None, None]
    assert torch.equal(crops.build("otsu")(images, features).mask, expected)


def test_connectivity() -> None:
    features = torch.zeros(1, 1, 8, 8)
    features[0, 0, 2, 2] = features[0, 0, 3, 3] = 1
    images = torch.zeros(1, 1, 8, 8)
    assert crops.build("fixed", connectivity=8)(images, features).box.tolist() == [[2, 2, 4, 4]]
    assert crops.build("fixed", connectivity=4)(images, features).box.tolist() == [[2, 2, 3, 3]]


@pytest.mark.parametrize("name", NAMES)
def test_nothing_to_find_gives_the_whole_image(name: str) -> None:
    images = random(6, 3, 32, 40)
    features = random(6, 4, 4, 5, seed=2)
    features[1], features[2], features[3, 0, 0, 0], features[4, 1, 2, 2] = 0, 3.5, float("nan"), float("inf")
    rule = crops.build(name)
    found = rule(images, features)
    assert found.valid.tolist() == [True, False, False, False, False, True]
    assert found.box[1:5].tolist() == [[0, 0, 40, 32]] * 4
    assert not found.component[1:5].any()
    assert found.crop.isfinite().all()
    if name != "ien001":
        torch.testing.assert_close(found.crop[1:5], images[1:5], rtol=0, atol=0)
    good = rule(images[[0, 5]], features[[0, 5]])
    assert torch.equal(good.box, found.box[[0, 5]])
    assert torch.equal(good.crop, found.crop[[0, 5]])
    single = rule(images, random(6, 4, 1, 1))  # a map of one place is constant
    assert not single.valid.any()
    empty = rule(images[:0], features[:0])
    assert [len(part) for part in empty] == [0] * 7
    assert empty.crop.shape == (0, 3, 32, 40)


def test_gradients_go_to_the_image_and_not_to_the_features() -> None:
    images, features = random(2, 3, 24, 24).requires_grad_(), random(2, 4, 6, 6, seed=1).requires_grad_()
    found = crops.build("fixed")(images, features)
    assert not found.heat.requires_grad
    found.crop.sum().backward()
    assert features.grad is None
    for grad, (x1, y1, x2, y2) in zip(images.grad, found.box.tolist(), strict=True):
        outside = torch.ones(24, 24, dtype=torch.bool)
        outside[y1:y2, x1:x2] = False
        assert outside.any()
        assert not grad[:, outside].any()
        torch.testing.assert_close(grad.sum(), torch.tensor(3.0 * 24 * 24))  # weights of a place add up to 1
    assert not crops.build("ien001")(images, features).crop.requires_grad


@pytest.mark.parametrize("name", NAMES)
def test_boxes_do_not_depend_on_autocast_or_on_the_grad_mode(name: str) -> None:
    images, features = random(4, 3, 56, 56), random(4, 64, 7, 7, seed=1).relu()
    rule = crops.build(name)
    expected = rule(images, features)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for ours, theirs in zip(rule(images, features), expected, strict=True):
            assert torch.equal(ours, theirs)
    with torch.inference_mode():
        for ours, theirs in zip(rule(images, features), expected, strict=True):
            assert torch.equal(ours, theirs)
    half, wide = rule(images, features.bfloat16()), rule(images, features.bfloat16().float())
    assert torch.equal(half.box, wide.box)
    assert half.heat.dtype == torch.float32
    assert rule(images.bfloat16(), features).crop.dtype == torch.bfloat16
    strange = rule(images.to(memory_format=torch.channels_last), features.to(memory_format=torch.channels_last))
    for ours, theirs in zip(strange, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("name", NAMES)
def test_a_rule_can_be_compiled_and_exported(name: str) -> None:
    rule = crops.build(name)
    in_whole_numbers = crops.build("ien001_clean").levels  # rounding would move a pixel now and then
    rule.levels = in_whole_numbers  # type: ignore[method-assign]

    class Model(torch.nn.Module):
        def forward(self, images: Tensor, features: Tensor) -> Crop:
            return rule(images, features)

    images, features = random(4, 3, 48, 40), random(4, 8, 6, 5, seed=1)
    expected = rule(images, features)
    compiled = torch.compile(Model(), backend="aot_eager", fullgraph=True)
    exported = torch.export.export(Model(), (images, features)).module()
    for way in (compiled, exported):
        for ours, theirs in zip(way(images, features), expected, strict=True):
            torch.testing.assert_close(ours, theirs)


# -- the code's own crop ---------------------------------------------------------------------------------------------


def tile_one_by_one(image: Tensor, box: list[int]) -> Tensor:
    """Ien001/AG-CNN's crop of one image of 224 x 224 pixels, by its description, with Pillow for the last step."""
    mosaic = np.ascontiguousarray(image.numpy()).reshape(224, 224, 3)
    tile = torch.from_numpy(mosaic[74:149, 74:149].copy()).permute(2, 0, 1)[None]
    large = F.interpolate(tile, (224, 224), mode="bilinear")[0].permute(1, 2, 0).numpy()
    x1, y1, x2, y2 = box
    grey = (np.trunc(large[y1 : y2 - 1, x1 : x2 - 1] * 256).astype(np.int64) % 256).astype(np.uint8)
    enlarged = Image.fromarray(grey).resize((256, 256), Image.Resampling.BILINEAR).crop((16, 16, 240, 240))
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return ((torch.from_numpy(np.array(enlarged)).float() / 255 - mean) / std).permute(2, 0, 1)


def test_tile_is_what_pillow_gives() -> None:
    boxes = boxes_in(40, 224, 224, seed=7)
    boxes = boxes[(boxes[:, 2:] - boxes[:, :2] > 1).all(dim=1)]
    y, x = torch.meshgrid(torch.arange(224.0), torch.arange(224.0), indexing="ij")
    smooth = torch.stack([torch.sin(y / 40 + k) + torch.cos(x / 30 - k) for k in range(3)])
    images = (smooth + 0.2 * random(len(boxes), 3, 224, 224)).clamp(-2.1, 2.6)
    found = tile_crop(images, boxes, (224, 224))
    expected = torch.stack([tile_one_by_one(image, box) for image, box in zip(images, boxes.tolist(), strict=True)])
    std = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    levels = ((found - expected) * std * 255).round().abs()
    # where a wrap is met from the other side, 0 stands for 255; elsewhere a level at most
    assert (levels > 0).float().mean() < 1e-3
    assert (levels > 1).float().mean() < 1e-4


def test_tile_does_not_touch_its_input_and_sees_the_whole_field() -> None:
    images = random(2, 3, 224, 224)
    before = images.clone()
    boxes = torch.tensor([[0, 0, 224, 224], [20, 30, 100, 90]])
    tiles = tile_crop(images, boxes, (224, 224))
    assert torch.equal(images, before)
    assert tiles.shape == images.shape
    changed = images.clone()
    changed[:, 0, :200] += 1  # of red only the last rows are seen
    assert torch.equal(tile_crop(changed, boxes, (224, 224)), tiles)
    with pytest.raises(ValueError, match=r"\(N, 3, H, W\) of 2 x 2 pixels at least, got \(2, 1, 224, 224\)"):
        crops.build("ien001")(images[:, :1], random(2, 4, 7, 7))


def test_tile_of_another_size() -> None:
    images, boxes = random(3, 3, 96, 80), torch.tensor([[0, 0, 80, 96], [10, 20, 12, 22], [5, 5, 70, 60]])
    tiles = tile_crop(images, boxes, (28, 42))
    assert tiles.shape == (3, 3, 28, 42)
    assert tiles.isfinite().all()
    assert (tiles[1] - tiles[1, :, :1, :1]).abs().max() == 0  # a box of one pixel, by their count


def test_a_box_that_their_slice_leaves_nothing_of_is_not_valid() -> None:
    features = torch.zeros(2, 1, 8, 8)
    features[0, 0, 2, 2:5] = 1
    features[1, 0, 2:4, 2:5] = 1
    found = crops.build("ien001", tau=0.7)(random(2, 3, 8, 8), features)
    assert found.valid.tolist() == [False, True]
    assert found.box.tolist() == [[0, 0, 8, 8], [2, 2, 5, 4]]


def test_window_of_the_tile() -> None:
    """An edge of the image is where the pasted crop says that it is, but for the tile's coarseness."""
    images = torch.zeros(1, 3, 224, 224)
    images[:, :, 100:, :] = 0.4
    rule = crops.build("ien001")
    box = torch.tensor([[30, 40, 191, 201]])
    window = rule.window(box, (224, 224))
    torch.testing.assert_close(window, torch.tensor([[40.0, 50.0, 180.0, 190.0]]))
    full = paste(rule.cut(images, box, (224, 224)), window, (224, 224))[0, 0]
    inside = full[50:190, 120]
    edge = 50 + int((inside - inside[-1]).abs().lt(0.2).nonzero()[0])
    assert abs(edge - 100) <= 4
    assert not full[:49].any()
    assert not full[:, 181:].any()


# -- the room --------------------------------------------------------------------------------------------------------


def test_the_room() -> None:
    assert thoraxlib.localization.crops is crops
    assert set(NAMES) <= set(crops.names())
    card = crops.describe("fixed")
    assert card.options["tau"] == 0.7
    assert card.options["statistic"] == "max_abs"
    assert crops.describe("ien001").options["statistic"] == "sum"
    assert crops.build("fixed", size=7).__dict__["registry_spec"] == {"name": "fixed", "size": 7}
    with pytest.raises(UnknownNameError, match="did you mean 'otsu'"):
        crops.build("otzu")
    with pytest.raises(OptionError, match="no option 'taw'.*did you mean 'tau'"):
        crops.build("fixed", taw=0.5)


def test_a_rule_of_ones_own() -> None:
    @crops.register("above_mean_of_test")
    @dataclass(kw_only=True, eq=False)
    class AboveMean(crops.CropRule):
        """What is hotter than the mean."""

        factor: float = 1.0

        def mask(self, levels: Tensor) -> Tensor:
            return levels > self.factor * levels.mean(dim=(1, 2), keepdim=True)

    images, features = random(2, 3, 32, 32), random(2, 4, 4, 4)
    found = crops.build("above_mean_of_test", factor=1.5, statistic="l2")(images, features)
    assert found.valid.all()
    assert found.crop.shape == images.shape
    everything = crops.registry.resolve({"name": "above_mean_of_test", "factor": -1.0})
    assert everything(images, torch.ones(2, 4, 4, 4)).valid.tolist() == [False, False]  # constant, whatever it picks


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("fixed", {"tau": 1.0}, "tau=1.0: above 0 and below 1"),
        ("fixed", {"tau": float("nan")}, "tau=nan"),
        ("ien001", {"tau": 0}, "tau=0: above 0 and below 1, or None"),
        ("percentile", {"percentile": 100}, "percentile=100: above 0 and below 100"),
        ("otsu", {"statistic": "mean"}, "statistic='mean': allowed are 'max_abs', 'l1', 'l2', 'sum', or a function"),
        ("otsu", {"connectivity": 6}, "connectivity=6: allowed are 4, 8"),
        ("otsu", {"size": (0, 3)}, r"size=\(0, 3\): one side or \(H, W\), in whole pixels, at least 1"),
        ("otsu", {"size": "224"}, "size='224': one side"),
    ],
)
def test_options_out_of_range(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        crops.build(name, **options)


def test_input_of_the_wrong_kind() -> None:
    rule = crops.build("fixed")
    images, features = random(2, 3, 16, 16), random(2, 4, 4, 4)
    with pytest.raises(TypeError, match=r"images must be a floating-point tensor \(N, C, H, W\), got torch.uint8"):
        rule(images.to(torch.uint8), features)
    with pytest.raises(TypeError, match="features must be a floating-point tensor .*, got list"):
        rule(images, [features])
    with pytest.raises(ValueError, match=r"features must be \(N, K, h, w\).*got \(2, 4, 4\)"):
        rule(images, features[..., 0])
    with pytest.raises(ValueError, match=r"at least one channel and pixel, got \(2, 0, 4, 4\)"):
        rule(images, features[:, :0])
    with pytest.raises(ValueError, match="features are of 1 images, but there are 2"):
        rule(images, features[:1])
    with pytest.raises(ValueError, match="features are on meta, images on cpu"):
        rule(images, features.to("meta"))
    with pytest.raises(ValueError, match=r"statistic must give \(2, 4, 4\), it gave \(2, 2, 4\)"):
        crops.build("fixed", statistic=lambda f: f.sum(dim=(1, 3)))(images, features)
    with pytest.raises(TypeError, match=r"mask must be bool \(N, H, W\), got torch.float32"):
        largest_component(images[:, 0])
    with pytest.raises(ValueError, match=r"mask must be \(N, H, W\).*got \(16, 16\)"):
        largest_component(images[0, 0] > 0)
    with pytest.raises(ValueError, match="connectivity=6: allowed are 4, 8"):
        largest_component(images[:, 0] > 0, 6)
