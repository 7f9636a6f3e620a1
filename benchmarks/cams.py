"""All-label Grad-CAM as a multiple of one inference forward pass of the same model."""

from __future__ import annotations

import torch

import thoraxlib
from benchmarks.timing import Row, pair


def run() -> list[Row]:
    torch.set_num_threads(1)
    rows = []
    for backbone in ("densenet121", "resnet50"):
        model = thoraxlib.build("chexnet", backbone=backbone).eval()
        x = torch.randn(8, 3, 224, 224)

        @torch.inference_mode()
        def forward(model: torch.nn.Module = model, x: torch.Tensor = x) -> torch.Tensor:
            return model(x)

        for name in ("cam", "gradcam", "gradcam++"):
            cam = thoraxlib.cams.build(name, model)
            ratios = pair(lambda cam=cam, x=x: cam(x), forward, pairs=7)
            rows.append(
                Row(f"{name}, 14 labels, {backbone}", "one forward pass", ratios, 1.05, "224 px, batch 8, 1 thread")
            )
    return rows
