"""Whole models against the original authors' outputs, row by row of manifest.json."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from formulas import assert_matches, image, load_record, state_dict

import thoraxlib

ROWS = json.loads((Path(__file__).parent / "manifest.json").read_text(encoding="utf-8"))
CASES = [
    pytest.param(row, outputs, gain, id=f"{Path(row['record']).stem}-{outputs}")
    for row in ROWS
    for outputs, gain in (("outputs", 1.0), ("outputs_gain2", 2.0))
]


@cache
def _results(record_name: str, build: str, layout: str, gain: float) -> dict[str, Any]:
    record = load_record(record_name)
    name, options = json.loads(build)
    model = thoraxlib.build(name, **options).eval()
    thoraxlib.load_checkpoint(model, state_dict(record, gain), layout=layout)
    with torch.inference_mode():
        everything = model.forward_all(image(*record["input"]["args"]))
        maps = model.logit_maps(everything.features)
    return {
        **everything._asdict(),
        "probabilities": everything.logits.sigmoid(),
        "logit_maps": maps,
        "cam": maps - model.head.fc.bias[:, None, None],
    }


@pytest.mark.parametrize(("row", "outputs", "gain"), CASES)
def test_outputs_match_the_record(row: dict[str, Any], outputs: str, gain: float) -> None:
    record = load_record(row["record"])
    results = _results(row["record"], json.dumps(row["build"]), row["layout"], gain)
    assert row["outputs"]
    for recorded, ours in row["outputs"].items():
        assert_matches(results[ours], record[outputs][recorded])
    assert_matches(results["cam"], record[outputs]["cam_raw"])


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["record"])
def test_the_layout_is_recognised_by_its_keys(row: dict[str, Any]) -> None:
    name, options = row["build"]
    model = thoraxlib.build(name, **options)
    assert thoraxlib.load_checkpoint(model, state_dict(load_record(row["record"]))) == row["layout"]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["record"])
def test_parameter_count(row: dict[str, Any]) -> None:
    name, options = row["build"]
    model = thoraxlib.build(name, **options)
    assert sum(p.numel() for p in model.parameters()) == load_record(row["record"])["parameters"]


def test_unified_dcnn_at_another_size() -> None:
    record = load_record("unified_dcnn_resnet50.json")
    model = thoraxlib.build("unified_dcnn", preset="seed").eval()
    thoraxlib.load_checkpoint(model, state_dict(record, 2.0))
    expected = record["outputs_gain2_250"]
    with torch.inference_mode():
        result = model.forward_all(image(*expected["input"]["args"]))
    assert_matches(result.features, expected["layer4"])
    assert_matches(result.logits, expected["logits"])


@pytest.mark.parametrize(("outputs", "gain"), [("outputs", 1.0), ("outputs_gain2", 2.0)])
def test_ten_crops(outputs: str, gain: float) -> None:
    from thoraxlib.models.tta import TenCrop

    record = load_record("chexnet_arnoweng.json")
    model = thoraxlib.build("chexnet", preset="arnoweng").eval()
    thoraxlib.load_checkpoint(model, state_dict(record, gain))
    extra = record["extra_inputs"]["tencrop"]
    x = image(*extra["args"])
    with torch.inference_mode():
        mean = TenCrop(model, size=extra["crop"], chunk=7).predict_proba(x)
    assert_matches(mean, record[outputs]["tencrop.mean_probabilities"])
