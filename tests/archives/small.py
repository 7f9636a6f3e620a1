"""What the tests of scoring share: a model as small as can be, an archive, and the rows that were written."""

from __future__ import annotations

import csv
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchvision import tv_tensors

from thoraxlib.input_spec import InputSpec

QUICK: dict[str, Any] = {"progress": False, "part_size": 4, "batch_size": 3, "device": "cpu"}


class Tiny(nn.Module):
    """As little as a model needs."""

    def __init__(self, seed: int = 0, side: int = 16, labels: tuple[str, ...] = ("Mass", "Edema")) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.labels = labels
        self.input_spec = InputSpec(size=side, channels=1, mean=(0.5,), std=(0.5,), resize="pad")
        self.conv = nn.Conv2d(1, 4, 3, stride=4)
        self.fc = nn.Linear(4, len(labels))

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        maps: Tensor = self.conv(x).relu()
        return maps

    def forward_head(self, features: Tensor) -> Tensor:
        logits: Tensor = self.fc(features.mean(dim=(2, 3)) * 3)
        return logits


class Held(Dataset[dict[str, Any]]):
    """Images of noise in memory, with labels that depend on them, two for each patient."""

    def __init__(self, count: int, labels: tuple[str, ...] = ("Mass", "Edema"), seed: int = 0, side: int = 64) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.labels, self.ids = labels, [f"{k}.png" for k in range(count)]
        self.patient_ids = [str(k // 2) for k in range(count)]
        self.targets = (torch.rand(count, len(labels), generator=generator) < 0.5).float()
        self.images = (torch.rand(count, 1, side, side, generator=generator) * 100).to(torch.uint8)
        for k in range(len(labels)):  # a bright square for each label
            self.images[self.targets[:, k] == 1, :, 32:, 32 * k : 32 * k + 28] += 120

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {
            "image": tv_tensors.Image(self.images[index]),
            "labels": self.targets[index],
            "id": self.ids[index],
        }


def image(number: int, shape: tuple[int, int] | None = None) -> Image.Image:
    height, width = shape or (40 + 7 * (number % 3), 36 + 5 * (number % 4))
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(((0.5 + 0.4 * np.sin(x / 5 + number) * np.cos(y / 7)) * 255).astype(np.uint8))


def archive(folder: Path) -> Path:
    """19 images in two folders and a zip archive, one of them a JPEG, and two that are none."""
    root = folder / "images"
    for number in range(15):
        path = root / f"p{number % 2}" / f"{number:02d}{'.jpg' if number == 7 else '.png'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        image(number).save(path)
    with zipfile.ZipFile(root / "more.zip", "w") as archive:
        for number in range(15, 19):
            image(number).save(folder / "one.png")
            archive.write(folder / "one.png", f"q/{number}.png")
        archive.writestr("q/bad.png", b"nothing")
    (root / "p0" / "broken.png").write_bytes(b"nothing")
    (root / "notes.txt").write_text("no image")
    return root


def rows(folder: Path) -> list[dict[str, Any]]:
    """All rows, in the order of the files; numbers as float32 would have them."""
    found: list[dict[str, Any]] = []
    for path in sorted((folder / "scores").iterdir()):
        if path.suffix == ".csv":
            with path.open(newline="") as file:
                read = [{key: value or None for key, value in row.items()} for row in csv.DictReader(file)]
        else:
            from pyarrow import parquet

            read = parquet.read_table(path).to_pylist()
        for row in read:
            for key in set(row) - {"id", "path", "error"}:
                row[key] = None if row[key] is None else float(np.float32(row[key]))
        found += read
    return found
