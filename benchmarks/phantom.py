"""Rendering phantoms against the forward pass of a small network on them."""

from __future__ import annotations

import torch

import thoraxlib
from benchmarks.timing import Row, pair, seconds


def run() -> list[Row]:
    torch.set_num_threads(1)
    dataset = thoraxlib.datasets.build("phantom", length=64)
    model = thoraxlib.build("classifier", backbone="resnet18").eval()
    x = torch.randn(16, 3, 224, 224)

    def render() -> None:
        for index in range(16):
            dataset[index]

    @torch.inference_mode()
    def forward() -> torch.Tensor:
        return model(x)

    ratios = pair(render, forward, pairs=7)
    rate = 16 / min(seconds(render) for _ in range(5))
    conditions = f"16 images of 224 px with masks, 1 thread; {rate:.0f} images/s here"
    return [Row("render 16 phantoms", "ResNet-18 forward pass of 16", ratios, None, conditions)]
