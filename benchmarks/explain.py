"""Explaining films, and boxes of heat maps, as multiples of the forward pass that they come with."""

from __future__ import annotations

from collections.abc import Iterator

import torch

import thoraxlib
from benchmarks.timing import Row, pair


def run() -> Iterator[Row]:
    torch.set_num_threads(1)
    model = thoraxlib.build("chexnet").eval()
    dataset = thoraxlib.datasets.build("phantom", size=512, length=32, masks=False)
    films = [dataset[index]["image"] for index in range(32)]
    preprocess = thoraxlib.preprocess_for(model)
    x = torch.cat([preprocess(film) for film in films])

    @torch.inference_mode()
    def forward() -> list[torch.Tensor]:
        return [model(part) for part in x.split(16)]

    conditions = "DenseNet-121, 32 phantom films of 512 px, input 224 px, 1 thread"
    for threshold, what in ((0.5, "labels above 0.5"), (0.0, "all 14 labels")):
        ratios = pair(lambda t=threshold: thoraxlib.explain(model, films, threshold=t), forward, pairs=3, warmup=1)
        yield Row(f"explain, {what}", "forward pass alone", ratios, None, conditions)
    maps = thoraxlib.cams.build("cam", model)(x)
    for name in thoraxlib.localization.names():
        rule = thoraxlib.localization.build(name)
        ratios = pair(lambda rule=rule: rule(maps, 224), forward, pairs=3, warmup=1)
        yield Row(f"boxes by {name}, 14 maps a film", "forward pass alone", ratios, None, conditions)
