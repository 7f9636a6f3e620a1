"""Folders of scores whose files are damaged: the next call writes them as they were, or names the file."""

from __future__ import annotations

import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))

from damage import FEW, damaged, refused

from thoraxlib.archives import score_archive
from thoraxlib.input_spec import InputSpec

OPTIONS: dict[str, Any] = {"format": "csv", "part_size": 2, "device": "cpu", "progress": False, "boxes": True}
NAMES = ("scores/000000.csv", "scores/000001.csv", "boxes/000001.json", "boxes.json", "listing.jsonl", "manifest.json")


class Mean(nn.Module):
    """Says how bright an image is."""

    labels = ("Mass", "Edema")
    input_spec = InputSpec(size=16, channels=1, mean=(0.0,), std=(1.0,))

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, stride=4)
        nn.init.constant_(self.conv.weight, 0.3)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        maps: Tensor = self.conv(x)
        return maps

    def forward_head(self, features: Tensor) -> Tensor:
        return features.mean(dim=(2, 3))


@cache
def mean() -> Mean:
    torch.manual_seed(0)
    return Mean().eval()


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """Images, and the files of a run."""
    folder = tmp_path_factory.mktemp("scored")
    rng = np.random.default_rng(0)
    (folder / "images").mkdir()
    for number in range(3):
        Image.fromarray(rng.integers(60 * number, 256, (20, 24), np.uint8)).save(folder / "images" / f"{number}.png")
    score_archive(mean(), folder / "images", folder / "out", **OPTIONS)
    return folder / "images", {name: (folder / "out" / name).read_bytes() for name in NAMES}


@FEW
@given(st.data(), st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True))
def test_a_damaged_folder_of_scores(scored: tuple[Path, dict[str, bytes]], data: st.DataObject, hit: list[str]) -> None:
    images, files = scored
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            path = Path(folder, name)
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data.draw(damaged(content)) if name in hit else content)
        result = refused(lambda: score_archive(mean(), images, folder, **OPTIONS), folder)
        if result is None:
            assert "manifest.json" in hit  # which says who wrote the others
        else:
            assert result.complete
            assert {name: Path(folder, name).read_bytes() for name in NAMES[:5]} == {
                name: files[name] for name in NAMES[:5]
            }
