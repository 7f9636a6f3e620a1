"""Run examples/medmnist.py on small files."""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, roc_auc_score

import thoraxlib

pytest.importorskip("lightning")
EXAMPLES = Path(__file__).parents[2] / "examples"
FLAGS = ["--no-progress", "--device", "cpu", "--epochs", "1", "--batch-size", "8", "--size", "32"]


@pytest.fixture
def medmnist(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ModuleType]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    for name in ("medmnist", "recipe"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield importlib.import_module("medmnist")
    torch.set_flush_denormal(False)  # the examples set it for the whole process


def write(path: Path, labels: int) -> Path:
    """Write a file of MedMNIST's format whose images with the first label are brighter: 16, 8 and 12 images."""
    rng = np.random.default_rng(0)
    content: dict[str, Any] = {}
    for split, count in (("train", 16), ("val", 8), ("test", 12)):
        truth = np.add.outer(np.arange(count), np.arange(labels)) % 3 == 0
        images = rng.integers(0, 128, (count, 28, 28)) + 100 * truth[:, :1, None]
        content |= {f"{split}_images": images.astype(np.uint8), f"{split}_labels": truth.astype(np.uint8)}
    np.savez(path, **content)
    return path


@pytest.mark.filterwarnings("ignore:.*MD5:UserWarning")
@pytest.mark.parametrize(
    ("data", "labels", "more"),
    [("pneumoniamnist", 1, []), ("chestmnist", 14, ["--model", "pcam"])],
)
def test_scores_are_those_of_medmnist(
    data: str, labels: int, more: list[str], medmnist: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "small.npz", labels)
    flags = [*FLAGS, "--data", data, "--root", str(path), "--backbone", "resnet10t", *more]
    area = medmnist.main(flags)
    folder, printed = tmp_path / "outputs" / "medmnist", capsys.readouterr().out
    assert re.search(r"^AUC [\d.]+ \([\d.]+ to [\d.]+\)\naccuracy [\d.]+ \([\d.]+ to [\d.]+\)$", printed, re.MULTILINE)
    scores = json.loads((folder / "scores.json").read_text())["scores"]
    assert scores["AUC"][0] == area
    for value, low, high in scores.values():
        assert 0 <= low <= value <= high <= 1

    # the same numbers by scikit-learn, from the saved model
    model = thoraxlib.load_pretrained(folder / "model")
    assert len(model.labels) == labels
    images = thoraxlib.datasets.build(data, root=path, split="test")
    transform = thoraxlib.images.transform_for(model.input_spec)
    batch = torch.stack([transform(images[index])["image"] for index in range(len(images))])
    with torch.no_grad():
        p, truth = model(batch).sigmoid().numpy(), images.targets.numpy()
    each = range(labels)
    assert area == pytest.approx(np.mean([roc_auc_score(truth[:, k], p[:, k]) for k in each]))
    accuracy = np.mean([accuracy_score(truth[:, k], p[:, k] > 0.5) for k in each])
    assert scores["accuracy"][0] == pytest.approx(accuracy)


def test_wrong_flags(medmnist: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for model in ("segfusion_vangcn", "anaxnet", "nothing"):  # without masks, regions; unknown
        with pytest.raises(SystemExit):
            medmnist.main([*FLAGS, "--model", model])
        assert f"invalid choice: '{model}'" in capsys.readouterr().err
    with pytest.raises(FileNotFoundError, match="nowhere"):
        medmnist.main([*FLAGS, "--root", str(tmp_path / "nowhere.npz")])
