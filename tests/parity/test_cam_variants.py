"""CAM, Grad-CAM and Grad-CAM++ as alinstein/X_RAY computes them, against what it computed."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from formulas import assert_matches, image, load_record, state_dict
from torch import Tensor, nn

import thoraxlib
from thoraxlib import cams

RECORDS = {
    "x_ray_resnet18_heatmaps.json": {"preset": "resnet18", "pool": {"name": "lse", "r": 10.0}},
    "x_ray_densenet121_heatmaps.json": {"preset": "densenet121", "pool": "max"},
}
CASES = [(record, finding) for record in RECORDS for finding in load_record(record)["config"]["classes"]]


@cache
def model_and_input(record: str) -> tuple[nn.Module, Tensor]:
    content = load_record(record)
    model = thoraxlib.build("x_ray", **RECORDS[record]).eval()
    thoraxlib.load_checkpoint(model, state_dict(content))
    return model, image(*content["input"]["args"])


@cache
def maps(record: str, name: str) -> Tensor:
    model, x = model_and_input(record)
    return cams.build(f"x_ray_{name}", model)(x)


def close(actual: Tensor, expected: dict[str, Any]) -> None:
    """The spec's tolerance for maps that a narrow range is stretched to [0, 1]."""
    assert_matches(actual, expected, 1e-3)


@pytest.mark.parametrize(("record", "finding"), CASES)
@pytest.mark.parametrize(("name", "theirs"), [("gradcam", "GradCAM"), ("gradcam++", "GradCAMpp")])
def test_gradient_maps(record: str, finding: str, name: str, theirs: str) -> None:
    content = load_record(record)
    k, out = content["config"]["classes"][finding], content["outputs"]
    ours = cams.normalize(cams.upsample(maps(record, name), 224))[0, k]
    close(ours, out[f"{theirs}.{finding}.heatmap"])
    row = out[f"{theirs}.{finding}.heatmap_row112"]
    np.testing.assert_allclose(ours[112, : len(row["first"])], row["first"], rtol=0, atol=1e-3)
    if (raw := f"{theirs.lower()}_raw_7x7.class{k}") in out:
        native = maps(record, name)[0, k]
        expected = out[raw]
        # Grad-CAM++'s factor exp(p), which the library leaves out
        factor = float(model_and_input(record)[0].predict_proba(model_and_input(record)[1])[0, k].exp())
        assert_matches(native[None] * (factor if theirs == "GradCAMpp" else 1), expected, 1e-4)


@pytest.mark.parametrize(("record", "finding"), CASES)
def test_cam(record: str, finding: str) -> None:
    content = load_record(record)
    k = content["config"]["classes"][finding]
    assert_matches(maps(record, "cam")[0, k], content["outputs"][f"CAM.{finding}.heatmap"], 1e-4)


@pytest.mark.parametrize("record", RECORDS)
@torch.inference_mode()
def test_network(record: str) -> None:
    model, x = model_and_input(record)
    out = load_record(record)["outputs"]
    assert_matches(model.predict_proba(x), out["probabilities"])
    assert_matches(model.forward_features(x), out["hooked_activations"])
