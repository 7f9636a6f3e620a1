"""Boxes and crops as Ien001/AG-CNN computes them, against what it computed."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
import torch
from formulas import image, load_record
from torch import Tensor

from thoraxlib.localization import crops
from thoraxlib.localization.components import find_components
from thoraxlib.localization.crops.base import heat
from thoraxlib.localization.maps import otsu
from thoraxlib.reproduce.fixed_point import upsample_uint8

CASES = {case["name"]: case for case in load_record("ag_cnn_crop.json")["outputs"]["cases"]}
GREY = 1 / 255 / 0.224  # a grey level of the channel with the smallest deviation
THRESHOLDS = ("otsu", "0.5", "0.6", "0.7", "0.8")
VALID = [name for name, case in CASES.items() if "masks" in case]


def features(kind: str, **options: Any) -> Tensor:
    """A map (1, K, 7, 7) by the record's formulas, in steps of 1/64, so that sums over channels are exact."""
    k, y, x = np.mgrid[: options.get("K", 16), :7, :7].astype(np.float64)
    if kind in ("wave", "wave_signed"):
        phase = options["phase"]
        value = np.sin(0.9 * x + 0.35 * k + phase) + np.cos(0.7 * y - 0.2 * k + 0.5 * phase)
        value = np.maximum(value, 0) if kind == "wave" else value
    elif kind == "blobs":
        value = (1 + 0.1 * k) * sum(
            a * np.exp(-((y - y0) ** 2 + (x - x0) ** 2) / (2 * s * s)) for y0, x0, a, s in options["blobs"]
        )
    elif kind == "cells":
        value = np.zeros_like(k)
        for row, column, level in options["cells"]:
            value[0, int(row), int(column)] = level
    else:
        value = np.full_like(k, options["value"])
    return torch.from_numpy((np.floor(64 * value + 0.5) / 64).astype(np.float32))[None]


def sha(array: Tensor) -> str:
    return hashlib.sha256(array.to(torch.uint8).contiguous().numpy().tobytes()).hexdigest()


def picture(case: dict[str, Any]) -> Tensor:
    return image(1, 3, 224, 224, case["image_phase"])


def rules(threshold: str) -> dict[str, crops.CropRule]:
    """The code's own rule, and the same box with a clean crop."""
    if threshold == "otsu":
        return {
            "patch": crops.build("ien001"),
            "derived_clean_patch": crops.build("ien001_clean"),
        }
    tau = float(threshold)
    return {
        "patch": crops.build("ien001", tau=tau),
        "derived_clean_patch": crops.build("ien001_clean", tau=tau),
    }


@pytest.mark.parametrize("name", CASES)
def test_heat_and_its_picture(name: str) -> None:
    case = CASES[name]
    f = features(**case["features"])
    assert float(f.double().sum()) == case["features_sum"]
    assert f.sum(dim=1)[0].tolist() == case["heat_sum"]
    if name not in VALID:
        assert not heat(f, "sum").any()
        return
    levels = (255 * heat(f, "sum")).to(torch.uint8)
    assert levels[0].tolist() == case["heat_u8"]
    large = upsample_uint8(levels, (224, 224))
    assert int(large.sum()) == case["heat_224"]["sum"]
    assert large[0, 112, :16].tolist() == case["heat_224"]["row112_first16"]
    assert sha(large) == case["heat_224"]["sha256"]
    assert otsu(large.flatten(1).long()).item() == case["masks"]["otsu"]["threshold"]


@pytest.mark.parametrize("threshold", THRESHOLDS)
@pytest.mark.parametrize("name", VALID)
def test_boxes_and_crops(name: str, threshold: str) -> None:
    case = CASES[name]
    expected = case["masks"][threshold]
    for key, rule in rules(threshold).items():
        found = rule(picture(case), features(**case["features"]))
        assert found.valid.tolist() == [True]
        assert found.yxyx.tolist() == [expected["box"]]
        assert int(found.mask.sum()) == expected["foreground"]
        assert sha(found.mask)[:16] == expected["mask_sha256"]
        assert int(found.component.sum()) == expected["largest"]
        assert sha(found.component)[:16] == expected["largest_sha256"]
        regions, sizes = find_components(found.mask.numpy(), found.mask.numpy()), expected["sizes_raster_order"]
        assert len(regions.area) == expected["components"]
        assert regions.area[: len(sizes)].tolist() == sizes  # the record has a dozen at most
        if key in expected:
            assert_patch(found.crop[0], expected[key], 1e-5 if key == "derived_clean_patch" else GREY * 1.001)


def assert_patch(patch: Tensor, expected: dict[str, Any], step: float) -> None:
    """One value in a thousand may differ by `step`, the others by rounding only."""
    assert list(patch.shape) == expected["shape"]
    difference = (patch.flatten()[: len(expected["first"])] - torch.tensor(expected["first"])).abs()
    assert difference.max() <= step
    assert (difference > 1e-5).sum() <= 1
    assert abs(float(patch.double().mean()) - expected["mean"]) <= step / 1000 + 1e-6
    assert abs(float(patch.double().std(correction=0)) - expected["std"]) <= step / 1000 + 1e-6
    assert abs(float(patch.abs().max()) - expected["abs_max"]) <= step


@pytest.mark.parametrize("name", [name for name in CASES if name not in VALID])
def test_where_the_code_fails_the_whole_image_is_taken(name: str) -> None:
    case = CASES[name]
    assert "ValueError" in case["original_raises"]
    for threshold in THRESHOLDS:
        for rule in rules(threshold).values():
            found = rule(picture(case), features(**case["features"]))
            assert found.valid.tolist() == [False]
            assert found.yxyx.tolist() == [case["expected_fallback_box"]]


def test_a_batch_is_what_each_is_alone() -> None:
    maps = [features(**case["features"]) for case in CASES.values() if case["features"].get("K", 16) == 16]
    images = torch.cat([picture(case) for case in CASES.values() if case["features"].get("K", 16) == 16])
    for rule in (*rules("otsu").values(), *rules("0.7").values()):
        together = rule(images, torch.cat(maps))
        for index, one in enumerate(maps):
            alone = rule(images[index : index + 1], one)
            for whole, part in zip(together, alone, strict=True):
                torch.testing.assert_close(whole[index : index + 1], part, rtol=0, atol=1e-6)
