"""Feature files of AnaXNet's extractor, as it writes them: labels by score, features by region."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from thoraxlib import datasets, labels

REGIONS = labels.build("regions18")


def content() -> dict[str, Any]:
    """Trachea first, then the left lung twice, then the right one; region r's feature is r + 1, its label r mod 9."""
    order = [17, 7, 7, 0]
    features = torch.zeros(18, 6)
    features[order] = torch.tensor(order).float()[:, None] + 1
    return {
        "image_id": "x",
        "objects": [REGIONS[row] for row in order],
        "bbox": [[k, k, k + 10 + row, k + 9] for k, row in enumerate(order)],
        "target": [[float(k == row % 9) for k in range(9)] for row in order],
        "features": features.tolist(),
    }


def test_rows_are_those_of_their_regions(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(json.dumps(content()))
    sample = datasets.read_anaxnet_features(tmp_path / "x.json")
    rows = [0, 7, 17]
    assert sample["present"].nonzero().flatten().tolist() == rows
    assert sample["features"][:, 0].nonzero().flatten().tolist() == rows
    assert sample["regions"][rows].tolist() == [[3, 3, 13, 12], [1, 1, 18, 10], [0, 0, 27, 9]]
    assert not sample["regions"][~sample["present"]].any()
    for row in rows:
        assert sample["region_labels"][row].nonzero().flatten().tolist() == [row % 9]
    assert sample["region_labels"][~sample["present"]].isnan().all()
    assert sample["labels"].nonzero().flatten().tolist() == [0, 7, 8]
    assert sample["scores"].isnan().all()
    assert datasets.collate([sample, sample])["features"].shape == (2, 18, 6)


def test_an_image_without_detections(tmp_path: Path) -> None:
    empty = {**content(), "objects": [], "bbox": [], "target": []}
    (tmp_path / "x.json").write_text(json.dumps(empty))
    sample = datasets.read_anaxnet_features(tmp_path / "x.json")
    assert not sample["present"].any()
    assert sample["labels"].isnan().all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"objects": ["trachea", "left lunge", "left lung", "right lung"]}, "'left lunge' not known to .*x.json"),
        ({"target": [[0] * 9] * 18}, r"x.json is no feature file .*target: 4 rows are wanted, got 18"),
        ({"features": [[0.0]] * 17}, "features: 18 rows are wanted, got 17"),
        ({"bbox": None}, "x.json is no feature file"),
    ],
)
def test_other_files_are_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    (tmp_path / "x.json").write_text(json.dumps({**content(), **change}))
    with pytest.raises(ValueError, match=message):
        datasets.read_anaxnet_features(tmp_path / "x.json")
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(ValueError, match="x.json is no feature file"):
        datasets.read_anaxnet_features(tmp_path / "x.json")
