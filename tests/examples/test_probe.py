"""examples/probe.py on a few synthetic images."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
import torch

import thoraxlib


def test_probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("lightning")
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "examples"))
    for name in ("probe", "recipe"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    small = ["--weights", "none", "--backbone", "test_resnet", "--num-images", "60", "--size", "64", "--no-progress"]
    found = importlib.import_module("probe").main([*small, "--labels", "Effusion", "Mass", "--output", str(tmp_path)])
    torch.set_flush_denormal(False)  # the examples set it for the whole process
    assert found.model.labels == ("Effusion", "Mass")
    assert found.test is not None
    assert "strengths: Effusion " in capsys.readouterr().out
    assert thoraxlib.load_pretrained(tmp_path / "model").labels == found.model.labels
    assert (tmp_path / "sheet.png").exists()
