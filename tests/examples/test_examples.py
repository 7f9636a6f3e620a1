"""The examples in a tiny setting: they run, and write what they say."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("lightning")
EXAMPLES = Path(__file__).parents[2] / "examples"
TINY = ["--no-progress", "--device", "cpu", "--films", "48", "--epochs", "1", "--batch-size", "8", "--weights", "none"]


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    for name in ("recipe", "quickstart", "chexnet", "unified_dcnn"):
        sys.modules.pop(name, None)
    yield
    torch.set_flush_denormal(False)  # the examples set it for their process


def check_output(folder: Path) -> None:
    written = {path.name for path in folder.iterdir()}
    assert {"metrics.csv", "metrics.md", "metrics.txt", "panel.png", "model", "checkpoints", "logs"} <= written
    assert {"config.json", "model.safetensors"} <= {path.name for path in (folder / "model").iterdir()}
    assert np.asarray(Image.open(folder / "panel.png")).std() > 10


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("quickstart", ["--size", "48"]),
        ("chexnet", ["--size", "48", "--backbone", "resnet10t"]),
        (
            "chexnet",
            ["--size", "48", "--backbone", "resnet10t", "--labels", "Effusion", "Mass", "--loss", "weighted_bce"],
        ),
        ("unified_dcnn", ["--size", "64", "--backbone", "resnet10t", "--labels", "nih8"]),
    ],
)
def test_on_the_phantom(
    name: str, flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    macro = importlib.import_module(name).main([*TINY, *flags])
    assert 0 <= macro <= 1
    folder = tmp_path / "outputs" / name
    check_output(folder)
    peaks = json.loads((folder / "peaks.json").read_text())
    assert all(hits <= films for counts in peaks.values() for hits, films in counts.values())
    printed = capsys.readouterr().out
    assert "AUROC" in printed
    assert "published" in printed
    assert (folder / "boxes.txt").exists() == (name == "unified_dcnn")


def nih_folder(root: Path) -> Path:
    """The layout of the release, with two films for each of 24 patients."""
    (root / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    lines = ["Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Sex,View Position"]
    for k in range(48):
        finding = ("Effusion", "No Finding", "Mass|Effusion", "Mass")[k % 4]
        lines.append(f"{k:08d}_000.png,{finding},0,{k // 2},50,M,PA")
        Image.fromarray(rng.integers(0, 255, (40, 40), dtype=np.uint8)).save(root / "images" / f"{k:08d}_000.png")
    (root / "Data_Entry_2017.csv").write_text("\n".join(lines) + "\n")
    boxes = ["Image Index,Finding Label,Bbox [x,y,w,h],,,"]
    boxes += [f"{k:08d}_000.png,Effusion,100,200,300,400" for k in range(0, 48, 4)]
    (root / "BBox_List_2017.csv").write_text("\n".join(boxes) + "\n")
    return root


def test_on_a_folder_laid_out_as_nih(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    root = nih_folder(tmp_path / "nih")
    flags = [
        "--data",
        "nih14",
        "--root",
        str(root),
        "--size",
        "48",
        "--backbone",
        "resnet10t",
        "--labels",
        "Effusion",
        "Mass",
    ]
    importlib.import_module("chexnet").main([*TINY, *flags, "--output", "here"])
    check_output(tmp_path / "here")
    # again, from the weights that are there: nothing is left to train
    importlib.import_module("chexnet").main([*TINY, *flags, "--output", "here"])


def test_flags(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        importlib.import_module("chexnet").main(["--data", "nih14"])
    assert "--root" in capsys.readouterr().err
    with pytest.raises(FileNotFoundError, match="nowhere"):
        importlib.import_module("chexnet").main([*TINY, "--data", "nih14", "--root", str(tmp_path / "nowhere")])


def test_without_imagenet_weights_it_says_so_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import thoraxlib

    monkeypatch.chdir(tmp_path)
    real = thoraxlib.build

    def offline(name: str, *, pretrained: bool = False, **options: object) -> object:
        if pretrained:
            raise RuntimeError("no weights here")
        return real(name, **options)

    monkeypatch.setattr(thoraxlib, "build", offline)
    flags = [*TINY[:-1], "imagenet", "--size", "48", "--backbone", "resnet10t"]
    importlib.import_module("chexnet").main(flags)
    assert "Going on from scratch" in capsys.readouterr().err
