"""MedMNIST: given files, other files, and the split."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from thoraxlib import datasets
from thoraxlib.datasets import medmnist
from thoraxlib.utils.download import DigestError


def write(path: Path, size: int = 28, labels: int = 1, **other: Any) -> Path:
    """Write a file of MedMNIST's format: 6, 3 and 4 images."""
    rng = np.random.default_rng(0)
    content: dict[str, Any] = {}
    for split, count in (("train", 6), ("val", 3), ("test", 4)):
        content[f"{split}_images"] = rng.integers(0, 256, (count, size, size), dtype=np.uint8)
        content[f"{split}_labels"] = rng.integers(0, 2, (count, labels), dtype=np.uint8)
    np.savez_compressed(path, **{**content, **other})
    return path


@pytest.mark.parametrize(("name", "size", "labels"), [("pneumoniamnist", 28, 1), ("chestmnist", 64, 14)])
def test_a_given_file(tmp_path: Path, name: str, size: int, labels: int) -> None:
    path = write(tmp_path / (f"{name}.npz" if size == 28 else f"{name}_{size}.npz"), size, labels)
    with pytest.warns(UserWarning, match="has another MD5 than MedMNIST's file"):
        data = datasets.build(name, root=tmp_path, split="val", size=size)
    with np.load(path) as content:
        images, targets = content["val_images"], content["val_labels"]
    assert isinstance(data, datasets.ChestDataset)
    assert len(data) == 3
    assert len(data.labels) == labels
    sample = data[2]
    assert sample["image"].dtype == torch.uint8
    assert np.array_equal(sample["image"][0].numpy(), images[2])
    assert np.array_equal(data.targets.numpy(), targets)
    assert torch.equal(sample["labels"], data.targets[2])
    assert len(set(data.patient_ids)) == 3


def test_the_official_md5_gives_no_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    path = write(tmp_path / "mine.npz")
    md5 = hashlib.md5(path.read_bytes()).hexdigest()
    monkeypatch.setattr(medmnist.PneumoniaMNIST, "md5", {28: md5})
    assert len(datasets.build("pneumoniamnist", root=path)) == 6
    assert not [each for each in recwarn.list if "MD5" in str(each.message)]


def test_downloaded_files_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "source.npz")
    asked: list[str] = []

    def download(url: str, to: Path, verify: Any, **_: Any) -> None:
        asked.append(url)
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_bytes(path.read_bytes())
        verify(to)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(medmnist, "download", download)
    with pytest.raises(DigestError, match="MedMNIST's is 28209eda62fecd6e6a2d98b1501bb15f"):
        datasets.build("pneumoniamnist")
    assert asked == ["https://zenodo.org/records/10519652/files/pneumoniamnist.npz?download=1"]
    monkeypatch.setattr(medmnist.PneumoniaMNIST, "md5", {28: hashlib.md5(path.read_bytes()).hexdigest()})
    assert len(datasets.build("pneumoniamnist", split="test")) == 4


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            {"val_images": np.zeros((3, 64, 64), np.uint8)},
            r"val_images must be uint8 \(N, 28, 28\), got uint8 \(3, 64, 64\)",
        ),
        ({"val_images": np.zeros((3, 28, 28))}, "got float64"),
        ({"val_labels": np.full((3, 1), 2)}, "val_labels must be 0 or 1"),
        ({"val_labels": np.zeros((2, 1))}, r"got \(2, 1\)"),
        ({"val_images": np.array([{}], dtype=object)}, "no file of MedMNIST"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*MD5")
def test_other_content(tmp_path: Path, other: dict[str, Any], message: str) -> None:
    path = write(tmp_path / "pneumoniamnist.npz", **other)
    with pytest.raises(ValueError, match=message):
        datasets.build("pneumoniamnist", root=path, split="val")


@pytest.mark.filterwarnings("ignore:.*MD5")
def test_errors(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file .*pneumoniamnist_64\.npz; root=None downloads it"):
        datasets.build("pneumoniamnist", root=tmp_path, size=64)
    with pytest.raises(ValueError, match="size=32"):
        datasets.build("pneumoniamnist", root=tmp_path, size=32)
    with pytest.raises(ValueError, match="split='valid'"):
        datasets.build("chestmnist", root=tmp_path, split="valid")
    (tmp_path / "pneumoniamnist.npz").write_bytes(b"PK no archive")
    with pytest.raises(ValueError, match=r"pneumoniamnist\.npz is no file of MedMNIST"):
        datasets.build("pneumoniamnist", root=tmp_path)


@pytest.mark.skipif("THORAXLIB_DATA" not in os.environ, reason="needs PneumoniaMNIST: set THORAXLIB_DATA")
def test_the_real_file() -> None:
    root = Path(os.environ["THORAXLIB_DATA"], "pneumoniamnist")
    with pytest.warns(UserWarning, match="another MD5"):  # assembled from two copies, in another order
        parts = {split: datasets.build("pneumoniamnist", root=root, split=split) for split in ("train", "val", "test")}
    assert {split: len(data) for split, data in parts.items()} == {"train": 4708, "val": 524, "test": 624}
    assert [int(data.targets.sum()) for data in parts.values()] == [3494, 389, 390]
