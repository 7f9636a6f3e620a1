"""The command that scores archives."""

from __future__ import annotations

import csv
import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import thoraxlib

EXAMPLES = Path(__file__).parents[2] / "examples"
OPTIONS = ["--option", "backbone=resnet10t", 'labels=["Mass", "Edema"]', 'input_spec={"size": 32}']
QUICK = ["--format", "csv", "--part-size", "3", "--batch-size", "2", "--device", "cpu", "--no-progress"]


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[list[str]], int]]:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    sys.modules.pop("score_archive", None)
    return importlib.import_module("score_archive").main


@pytest.fixture
def images(tmp_path: Path) -> str:
    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(0)
    for number in range(8):
        Image.fromarray(rng.integers(0, 255, (40, 30), np.uint8)).save(tmp_path / "images" / f"{number}.png")
    (tmp_path / "images" / "broken.png").write_bytes(b"nothing")
    return str(tmp_path / "images")


def rows(folder: Path) -> list[dict[str, str]]:
    found = []
    for path in sorted((folder / "scores").iterdir()):
        with path.open(newline="") as file:
            found += list(csv.DictReader(file))
    return found


def test_by_name_with_a_checkpoint_or_saved(
    main: Callable[[list[str]], int], images: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(7)
    model = thoraxlib.build("chexnet", backbone="resnet10t", labels=["Mass", "Edema"], input_spec={"size": 32})
    thoraxlib.save_pretrained(model, tmp_path / "model")
    torch.save(model.state_dict(), tmp_path / "model.pt")
    saved = [images, "--model", str(tmp_path / "model"), "--output", str(tmp_path / "saved"), *QUICK]
    assert main([*saved, "--boxes", "--threshold", "0.3", "--shard", "1/2"]) == 0
    assert capsys.readouterr().out == ""
    assert main([*saved, "--boxes", "--threshold", "0.3"]) == 0
    assert "(9 images, of which 1 could not be read)" in capsys.readouterr().out
    assert (tmp_path / "saved" / "boxes.json").exists()
    named = [images, "--model", "chexnet", *OPTIONS, "--output", str(tmp_path / "named"), *QUICK]
    assert main([*named, "--checkpoint", str(tmp_path / "model.pt"), "--labels", "Mass", "Edema"]) == 0
    assert rows(tmp_path / "saved") == rows(tmp_path / "named")
    assert main(named) == 2
    assert "holds scores with other settings (" in capsys.readouterr().err
    assert main([*named, "--overwrite"]) == 0
    assert rows(tmp_path / "saved") != rows(tmp_path / "named")
    assert main([*saved, *OPTIONS]) == 2
    assert main([images, "--model", str(tmp_path / "none"), "--output", str(tmp_path / "x")]) == 2
    assert main([str(tmp_path / "none"), *named[1:]]) == 2


@pytest.mark.slow
def test_several_processes(main: Callable[[list[str]], int], images: str, tmp_path: Path) -> None:
    flags = [images, "--model", "chexnet", *OPTIONS, *QUICK]
    assert main([*flags, "--output", str(tmp_path / "one")]) == 0
    assert main([*flags, "--output", str(tmp_path / "two"), "--processes", "2"]) == 0
    assert len(rows(tmp_path / "one")) == 9
    for one, other in zip(rows(tmp_path / "one"), rows(tmp_path / "two"), strict=True):
        assert one["id"] == other["id"]
        assert one["error"] == other["error"]
        assert one["error"] or float(one["Mass"]) == pytest.approx(float(other["Mass"]), abs=1e-6)
    assert main([*flags, "--output", str(tmp_path / "two"), "--processes", "2", "--overwrite"]) == 2
    with pytest.raises(SystemExit):
        main([*flags, "--output", str(tmp_path / "two"), "--processes", "2", "--shard", "0/2"])
