"""Compare drawing synthetic images with the forward pass of a small network on them."""

from __future__ import annotations

from collections.abc import Iterator

import torch

import thoraxlib
from benchmarks.timing import Row, compare, seconds

PACKAGES = ("numpy", "timm")


def run(device: torch.device) -> Iterator[Row]:
    dataset = thoraxlib.datasets.build("synthetic", length=64)
    model = thoraxlib.build("classifier", backbone="resnet18").eval()
    x = torch.randn(16, 3, 224, 224)

    def render() -> None:
        for index in range(16):
            dataset[index]

    forward = torch.inference_mode()(lambda: model(x))
    rate = 16 / min(seconds(render) for _ in range(5))
    conditions = f"224 px, with masks; {rate:.0f} images/s here"
    yield compare(
        "16 synthetic images", "ResNet-18, forward pass of 16", render, forward, pairs=7, conditions=conditions
    )
