"""Boxes and overlaps as alinstein/X_RAY computes them, against what it computed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from formulas import assert_matches, image, load_record
from test_cam_variants import CASES, maps
from torch import Tensor

from thoraxlib import cams, localization
from thoraxlib.localization import box_iogt, box_iou

RECORD = load_record("x_ray_boxes.json")["outputs"]
KEYS = ("max_iou", "cum_iou", "cum_iobb", "max_iobb")


def heat_map(kind: str, args: list[float]) -> Tensor:
    if kind == "image":
        height, width, phase = args
        return image(1, 1, int(height), int(width), phase)[0, 0]
    n = int(args[0])
    y, x = np.mgrid[:n, :n].astype(np.float64)
    if kind == "ring":
        r = np.hypot(y - (n - 1) / 2, x - (n - 1) / 2)
        return torch.from_numpy(np.exp(-(((r - args[1]) / args[2]) ** 2)).astype(np.float32))
    blobs = ((0.25, 0.3, 0.08, 1.0), (0.7, 0.75, 0.12, 0.8), (0.9, 0.05, 0.05, 0.6))
    total = sum(a * np.exp(-((y - cy * n) ** 2 + (x - cx * n) ** 2) / (2 * (s * n) ** 2)) for cy, cx, s, a in blobs)
    return torch.from_numpy(np.asarray(total, dtype=np.float32))


def xywh(boxes: Tensor) -> list[list[int]]:
    return sorted([int(x1), int(y1), int(x2 - x1), int(y2 - y1)] for x1, y1, x2, y2 in boxes.tolist())


def assert_overlaps(boxes: Tensor, truth: list[float], expected: dict[str, Any]) -> None:
    """Its "IoBB" divides by the true box: iogt."""
    x, y, w, h = truth
    true = torch.tensor([[x, y, x + w, y + h]]).float()
    iou, iogt = box_iou(boxes, true)[:, 0], box_iogt(boxes, true)[:, 0]
    numbers = (iou.max(), iou.sum(), iogt.sum().clamp(max=1), iogt.max()) if len(boxes) else (0.0,) * 4
    np.testing.assert_allclose([float(v) for v in numbers], [expected[key] for key in KEYS], atol=1e-5)


@pytest.mark.parametrize("case", RECORD)
def test_boxes(case: str) -> None:
    expected = RECORD[case]
    heat = heat_map(**expected["heatmap"])[None, None]
    options = {"factor": expected["factor"], "ceiling": expected["threshold_high"]}
    size = expected["img_size"]
    rule = localization.build("x_ray_mean_factor", dedupe=False, **options)
    if "resized" in expected:
        assert_matches(rule.prepare(heat, (size, size))[0, 0], expected["resized"], 1e-5)
    found = rule(heat, size)
    assert xywh(found.xyxy) == sorted(expected["boxes_xywh"])
    rule.regions = type(rule).__mro__[1].regions.__get__(rule)  # without the holes
    assert xywh(rule(heat, size).xyxy) == sorted(expected["component_boxes_xywh"])
    assert_overlaps(found.xyxy, expected["gt_box_scaled"], expected)


@pytest.mark.parametrize(("record", "finding"), CASES)
@pytest.mark.parametrize(("name", "theirs"), [("cam", "CAM"), ("gradcam", "GradCAM"), ("gradcam++", "GradCAMpp")])
def test_boxes_of_heat_maps(record: str, finding: str, name: str, theirs: str) -> None:
    content = load_record(record)
    config, out = content["config"], content["outputs"]
    if f"{theirs}.{finding}.boxes_xywh" not in out:
        pytest.skip("not recorded")
    ours = maps(record, name)[:, [config["classes"][finding]]]
    if name != "cam":  # its gradient maps are enlarged and stretched already
        ours = cams.normalize(cams.upsample(ours, 224))
    rule = localization.build(
        "x_ray_mean_factor", factor=config["factor"], ceiling=config["threshold_high"], dedupe=False
    )
    found = rule(ours, 224)
    assert xywh(found.xyxy) == sorted(out[f"{theirs}.{finding}.boxes_xywh"])
