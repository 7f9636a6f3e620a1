"""The shipped weights ``pneumonia-children-small``, and the script that makes such weights."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

import thoraxlib
from thoraxlib import metrics
from thoraxlib.checkpoints.saving import CONFIG, WEIGHTS

STORED = 0.9653  # AUROC of every tenth image of the test, with the shipped weights
FOLDER = Path(thoraxlib.__file__).parent / "weights" / "shipped" / "pneumonia-children-small"
SCRIPTS = Path(__file__).parents[2] / "examples" / "weights"


def test_it_is_small_and_gives_probabilities() -> None:
    assert (FOLDER / WEIGHTS).stat().st_size <= 1_500_000
    model = thoraxlib.load_pretrained(FOLDER)
    assert model.labels == ("Pneumonia",)
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32, torch.int64}
    x = thoraxlib.preprocess_for(model)(np.random.default_rng(0).integers(0, 256, (300, 400), dtype=np.uint8))
    p = model.predict_proba(x)
    assert p.dtype == torch.float32
    assert p.shape == (1, 1)
    assert 0 <= float(p) <= 1


def test_the_card_says_what_it_must() -> None:
    card = " ".join((FOLDER / "README.md").read_text(encoding="utf-8").split())
    for part in ("CC BY 4.0", "10.17632/rscbjbr9sj.2", "Kermany", "170", "AUROC", "Not a medical device"):
        assert part in card


@pytest.mark.skipif("THORAXLIB_DATA" not in os.environ, reason="needs the radiographs: set THORAXLIB_DATA")
def test_auroc_of_60_test_images() -> None:
    root = Path(os.environ["THORAXLIB_DATA"], "kermany_pneumonia_224", "test")
    files = sorted(root.glob("*/*.jpeg"))[::10][:60]
    model = thoraxlib.load_pretrained(FOLDER)
    prepare = thoraxlib.preprocess_for(model)
    p = model.predict_proba(torch.cat([prepare(file) for file in files]))
    truth = torch.tensor([[float(file.parent.name == "PNEUMONIA")] for file in files])
    assert (len(files), int(truth.sum())) == (60, 36)
    assert metrics.auroc(truth, p).item() == pytest.approx(STORED, abs=0.005)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ModuleType]:
    pytest.importorskip("lightning")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(SCRIPTS))
    yield importlib.import_module("pneumonia_children")
    torch.set_flush_denormal(False)  # the script sets it for the whole process


def write(root: Path) -> None:
    """Write made-up images: one of each person and series; IM-0000 and IM-0002 are nearly one image."""
    rng = np.random.default_rng(0)
    base = rng.integers(0, 256, (32, 32), dtype=np.uint8)
    for split, first in (("train", 0), ("test", 14)):  # half of the numbers stand in both
        for kind in ("NORMAL", "PNEUMONIA"):
            (root / split / kind).mkdir(parents=True)
        for number in range(first, first + 28):
            name = f"PNEUMONIA/person{number}_virus_1.jpeg" if number % 2 else f"NORMAL/IM-{number:04d}-0001.jpeg"
            low = base if number in (0, 2) else rng.integers(0, 256, (32, 32), dtype=np.uint8)
            Image.fromarray(low).resize((64, 80)).save(root / split / name)


def test_the_script(script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(FileNotFoundError, match="no folders NORMAL and PNEUMONIA"):
        script.Children(tmp_path, "train")
    write(tmp_path / "data")
    images = script.Children(tmp_path / "data", "train")
    group = dict(zip(images.patient_ids, script.groups(images), strict=True))
    assert group["IM-0000"] == group["IM-0002"]
    assert len(set(group.values())) == 27
    train, val = script.parts(tmp_path / "data", 0)
    assert len(train) + len(val) == len(images)
    assert not {group[number] for number in train.patient_ids} & {group[number] for number in val.patient_ids}

    flags = ["--root", str(tmp_path / "data"), "--output", "out"]
    script.main([*flags, "--epochs", "1"])
    threshold = json.loads(Path("out/threshold.json").read_text())
    assert not Path("out/test.csv").exists()
    script.main([*flags, "--test"])
    printed = capsys.readouterr().out
    assert "val: 4 images" in printed
    assert "test: 28 images, 14 with pneumonia, 28 numbers" in printed
    assert "test, numbers that are not in train: 14 images, 7 with pneumonia, 14 numbers" in printed
    assert f"at the threshold {threshold:.4f}" in printed
    assert {path.name for path in Path("out/model").iterdir()} >= {CONFIG, WEIGHTS}
    assert Path("out/model", WEIGHTS).stat().st_size < 1_100_000  # float16
    assert np.asarray(Image.open("out/sheet.png")).std() > 10
