"""The shipped weights for view, rotation, inversion and sex, and the parts of the script that trains them."""

from __future__ import annotations

import csv
import importlib.util
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

import thoraxlib
from thoraxlib.images import read

SHIPPED = Path(thoraxlib.__file__).parent / "weights" / "shipped" / "view-small"
SCRIPT = Path(__file__).parents[2] / "examples" / "weights" / "view.py"
DATA = Path(os.environ.get("THORAXLIB_DATA", "missing"), "nih_mini")
LABELS = ("AP", "Female", "Inverted", "Upright", "Turned 90", "Turned 180", "Turned 270")


@pytest.fixture(scope="module")
def model() -> Any:
    return thoraxlib.load_pretrained(SHIPPED)


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("train_view", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_folder_is_small_and_whole(model: Any) -> None:
    assert {path.name for path in SHIPPED.iterdir()} == {"README.md", "config.json", "model.safetensors"}
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) < 1.5e6
    assert model.labels == LABELS
    assert not model.training
    assert {p.dtype for p in model.state_dict().values() if p.is_floating_point()} == {torch.float32}


def test_the_card_has_the_attribution_that_nih_asks_for() -> None:
    card = " ".join((SHIPPED / "README.md").read_text(encoding="utf-8").split())
    assert "https://nihcc.app.box.com/v/ChestXray-NIHCC" in card
    assert "ChestX-ray8: Hospital-scale Chest X-ray Database and Benchmarks" in card
    assert "never seen a lateral" in card


def test_any_grey_image_gets_one_answer_a_label(model: Any) -> None:
    x = thoraxlib.preprocess_for(model)([torch.rand(1, 90, 70), torch.zeros(1, 20, 30, dtype=torch.uint8)])
    p = model.predict_proba(x)
    assert p.shape == (2, 7)
    assert p.isfinite().all()


def test_training_turns_and_inverts_as_its_targets_say(script: ModuleType) -> None:
    """A white square at the upper left, larger than every shift: it shows turn and inversion."""
    pixels = torch.zeros(64, 1, script.CACHED, script.CACHED, dtype=torch.uint8)
    pixels[:, :, :50] = 255  # the upper part is bright, also when mirrored
    x, targets = script.augmented(pixels, torch.Generator().manual_seed(0))
    assert x.shape == (64, 1, script.SIDE, script.SIDE)
    assert (x >= 0).all()
    assert (x <= 1).all()
    assert (targets[:, 1:].sum(1) == 1).all()
    assert set(targets.sum(0).gt(0).tolist()) == {True}  # every kind occurs
    half = script.SIDE // 2
    edges = [
        x[..., :half, :],
        x[..., :, half:],
        x[..., half:, :],
        x[..., :, :half],
    ]  # where the top is, turned clockwise
    bright = torch.stack([edge.mean((1, 2, 3)) for edge in edges], 1)
    found = torch.where(targets[:, 0] == 1, bright.argmin(1), bright.argmax(1))
    assert (found == targets[:, 1:].argmax(1)).float().mean() > 0.95  # a grey rectangle may hide it


def test_duplicates_leave_the_training_list(script: ModuleType) -> None:
    part = script.Part([Path("a"), Path("b"), Path("c")], ["1", "2", "3"], torch.zeros(3, 2))
    pixels = torch.tensor([[1, 2], [3, 4], [1, 2]], dtype=torch.uint8)
    kept, kept_pixels = script.without_duplicates(part, pixels)
    assert kept.patients == ["1", "2"]
    assert kept_pixels.tolist() == [[1, 2], [3, 4]]
    joined = script.joined([part, part])
    assert [file.name for file in joined.files] == ["a", "b", "c"]


@pytest.mark.skipif(not DATA.is_dir(), reason="THORAXLIB_DATA names no folder with nih_mini")
def test_radiographs_of_val(model: Any) -> None:
    """Images that training did not see: every sixth in all four turns, as it is and inverted."""
    with (DATA / "labels.csv").open(newline="") as table:
        rows = {row["Image Index"]: row for row in csv.DictReader(table)}
    names = (DATA / "splits" / "val.txt").read_text().split()[::6]
    images = [read(DATA / "images" / name).as_subclass(Tensor) for name in names]
    preprocess, right = thoraxlib.preprocess_for(model), []
    for inverted in (False, True):
        for turn in range(4):
            given = [torch.rot90(255 - image if inverted else image, -turn, (1, 2)) for image in images]  # clockwise
            p = model.predict_proba(preprocess(given))
            right.append((p[:, 3:].argmax(1) == turn) & ((p[:, 2] >= 0.5) == inverted))
    assert torch.cat(right).float().mean() >= 0.95
    upright = model.predict_proba(preprocess(images))[:, 0] >= 0.5
    truth = torch.tensor([rows[name]["View Position"] == "AP" for name in names])
    assert (upright == truth).float().mean() >= 0.75
