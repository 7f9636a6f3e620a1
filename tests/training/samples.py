"""A tiny task that can be learnt in seconds: bright or dark halves, one of them partly unlabelled."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from torchvision import tv_tensors


class Images(Dataset[dict[str, Any]]):
    """Noise with a bright left half (label "left") or top half ("top")."""

    def __init__(self, length: int = 64, seed: int = 0, *, labels: tuple[str, ...] = ("left", "top")) -> None:
        rng = torch.Generator().manual_seed(seed)
        self.labels = labels
        self.targets = (torch.rand(length, 2, generator=rng) < 0.5).float()
        self.images = torch.randint(0, 120, (length, 1, 8, 8), dtype=torch.uint8, generator=rng)
        self.images[:, :, :, :4] += (90 * self.targets[:, 0]).byte()[:, None, None, None]
        self.images[:, :, :4] += (45 * self.targets[:, 1]).byte()[:, None, None, None]
        self.ids = [f"{seed}-{index}.png" for index in range(length)]
        self.patient_ids = list(self.ids)
        self.transform = None
        self.read = 0

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        self.read += 1
        boxes = tv_tensors.BoundingBoxes(torch.zeros(index % 3, 4), format="XYXY", canvas_size=(8, 8))
        return {
            "image": tv_tensors.Image(self.images[index]),
            "labels": self.targets[index],
            "boxes": boxes,
            "id": self.ids[index],
        }


def to_float(sample: dict[str, Any]) -> dict[str, Any]:
    return {**sample, "image": sample["image"].float() / 255 - 0.3}


def jitter(sample: dict[str, Any]) -> dict[str, Any]:
    return {**sample, "image": sample["image"].float() / 255 - 0.3 + 0.1 * torch.randn(1, 8, 8)}


class Net(nn.Module):
    """A convolution, batch norm, dropout and a linear layer."""

    def __init__(self, outputs: int = 2) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.labels = ("left", "top")
        self.body = nn.Sequential(nn.Conv2d(1, 4, 4, 4), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.1))
        self.fc = nn.Linear(16, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(x))
