"""Heat maps, boxes and hits of the Unified DCNN against the recorded ones."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from formulas import assert_matches, image, load_record, state_dict, weight
from torch import Tensor, nn

import thoraxlib
from thoraxlib import cams, heads, localization
from thoraxlib.localization import Boxes
from thoraxlib.reproduce.jaydurant import to_uint8

RECORD = load_record("unified_dcnn_cam.json")
OUT = RECORD["outputs"]
LEVELS = tuple(RECORD["config"]["thresholds"])
TRUTH = torch.tensor([RECORD["config"]["gt_box_xyxy_on_64"]], dtype=torch.float32)
BOXED = [(n, k) for n in range(2) for k in range(3)]


class Head(nn.Module):
    """Features in, features out: the record begins behind the transition layer."""

    def __init__(self, pool: Any = "avg") -> None:
        super().__init__()
        self.head = heads.build("linear", in_channels=6, num_labels=3, pool=pool)
        with torch.no_grad():
            self.head.fc.weight.copy_(torch.from_numpy(weight("classifier.weight", (3, 6), 0)))
            self.head.fc.bias.copy_(torch.from_numpy(weight("classifier.bias", (3,), 1)))

    def forward_features(self, x: Tensor) -> Tensor:
        return x

    def forward_head(self, features: Tensor) -> Tensor:
        return self.head(features)

    def logit_maps(self, features: Tensor, *, bias: bool = True) -> Tensor:
        return self.head.logit_maps(features, bias=bias)


@pytest.fixture
def features() -> Tensor:
    x = image(*RECORD["input"]["args"]).clamp(min=0)
    assert_matches(x, OUT["features"])
    return x


@pytest.mark.parametrize(
    ("pool", "output"),
    [("avg", "logits_avg"), ("max", "logits_max"), ({"name": "lse", "r": 10}, "logits_lse_r10")],
)
def test_logits(features: Tensor, pool: Any, output: str) -> None:
    assert_matches(Head(pool).forward_head(features), OUT[output])


def test_heat_maps(features: Tensor) -> None:
    maps = cams.build("cam", Head())(features)
    assert_matches(maps, OUT["cam"])
    assert_matches(255 * cams.normalize(maps), OUT["cam_0_255"])
    assert_matches(255 * cams.normalize(cams.upsample(maps, 64)), OUT["cam_up64_0_255"])


@pytest.mark.parametrize(("n", "k"), BOXED)
def test_boxes(features: Tensor, n: int, k: int) -> None:
    maps = cams.build("cam", Head())(features)
    expected = RECORD["boxes"][f"image{n}.class{k}"]
    for (resolution, name), connectivity, level in product([("native", "native8"), ("image", "up64")], (4, 8), LEVELS):
        rule = localization.build("threshold", levels=[level], connectivity=connectivity, resolution=resolution)
        found = rule(maps, 64)
        ours = found.xyxy[(found.image == n) & (found.label == k)].int().tolist()
        assert ours == expected[f"{name}_t{level}_c{connectivity}"]


@pytest.mark.parametrize(("n", "k"), BOXED)
def test_overlaps_and_hits(features: Tensor, n: int, k: int) -> None:
    maps = cams.build("cam", Head())(features)
    found = localization.build("threshold", levels=LEVELS, dedupe=False)(maps, 64)
    mine = (found.image == n) & (found.label == k)
    detected = Boxes(*(part[mine] for part in found))
    expected = RECORD["boxes"][f"image{n}.class{k}"]
    overlaps = [localization.box_iou(detected.xyxy, TRUTH), localization.box_iobb(detected.xyxy, TRUTH)]
    assert torch.cat(overlaps, dim=1).numpy() == pytest.approx(np.array(expected["iou_iobb_vs_gt_up64_c8"]), abs=1e-6)
    truth = Boxes(TRUTH, torch.tensor([n]), torch.tensor([k]), torch.ones(1))
    for threshold in (0.1, 0.25, 0.5, 0.75, 0.9):
        accuracy, false = localization.acc_afp(detected, truth, 3, threshold=threshold, criterion="iobb")
        row = expected[f"T{threshold}"]
        assert bool(accuracy[k] == 1) == row["hit"]
        assert int(false[k]) == row["false_positives"]


def within_one_level(actual: Tensor, expected: dict[str, Any]) -> None:
    values = actual.double().numpy()
    assert list(values.shape) == expected["shape"]
    first = np.array(expected["first"])
    assert np.abs(values.ravel()[: len(first)] - first).max() <= 1
    assert values.mean() == pytest.approx(expected["mean"], abs=0.5)
    assert values.std() == pytest.approx(expected["std"], abs=0.5)


def test_8_bit_maps_of_the_seed_repository(features: Tensor) -> None:
    maps = to_uint8(cams.build("cam", Head())(features), 250)
    for k in range(3):
        within_one_level(maps[1, k], OUT[f"return_CAM.image1.class{k}.250x250"])


@pytest.mark.parametrize(("outputs", "gain"), [("outputs", 1.0), ("outputs_gain2", 2.0)])
def test_8_bit_maps_of_the_seed_models(outputs: str, gain: float) -> None:
    record = load_record("unified_dcnn_resnet50.json")
    model = thoraxlib.build("unified_dcnn", preset="jaydurant").eval()
    thoraxlib.load_checkpoint(model, state_dict(record, gain))
    maps = cams.build("cam", model)(image(*record["input"]["args"]))
    names = [name for name in record[outputs] if name.startswith("return_CAM.small")]
    assert names
    for name in names:
        k = int(name.rpartition("class")[2])
        within_one_level(to_uint8(maps)[0, k], record[outputs][name])
        within_one_level(to_uint8(maps, 250)[0, k], record[outputs][name.replace("small", "250x250")])
