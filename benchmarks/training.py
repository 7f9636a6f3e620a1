"""Compare training steps and inference of DenseNet-121 (layout, precision, folding) with plain torchvision."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import thoraxlib
from benchmarks.timing import Row, Work, compare

DEVICES = ("cpu", "cuda")
PACKAGES = ("torchvision", "timm")
CONDITIONS = {"conditions": "14 labels, 224 px, batch 8"}


def run(device: torch.device) -> Iterator[Row]:
    from torchvision.models import densenet121

    x, targets = torch.randn(8, 3, 224, 224, device=device), torch.rand(8, 14, device=device).round()
    plain = step(densenet121(num_classes=14).to(device), x, targets)
    ours = thoraxlib.build("chexnet").to(device, memory_format=torch.channels_last)
    last = x.contiguous(memory_format=torch.channels_last)
    for precision, dtype, target in (("float32", None, None), ("bfloat16", torch.bfloat16, 0.75)):
        row = f"CheXNet, training step, channels_last, {precision}"
        work = step(ours, last, targets, dtype)
        yield compare(
            row, "torchvision's densenet121, float32, NCHW", work, plain, target=target, pairs=3, **CONDITIONS
        )

    model = thoraxlib.build("chexnet").eval().to(device)
    fast = thoraxlib.optimize_for_inference(model)
    as_built = torch.inference_mode()(lambda: model(x))
    folded = torch.inference_mode()(lambda: fast(x))
    half = torch.autocast(device.type, torch.bfloat16)(folded)
    difference = float((folded() - as_built()).abs().max() / as_built().abs().max())
    same = {"conditions": f"{CONDITIONS['conditions']}; outputs equal to {difference:.0e}"}
    peer = "the model as built"
    yield compare("CheXNet, optimize_for_inference", peer, folded, as_built, target=1.0, pairs=5, **same)
    row = "CheXNet, optimize_for_inference, bfloat16 autocast"
    yield compare(row, peer, half, as_built, target=0.6, pairs=5, **CONDITIONS)


def step(model: nn.Module, x: Tensor, targets: Tensor, dtype: torch.dtype | None = None) -> Work:
    """Return a step of AdamW on binary cross-entropy in training mode; with a `dtype`, under autocast."""
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=1e-4)

    def work() -> None:
        model.train()
        optimizer.zero_grad()
        with torch.autocast(x.device.type, dtype, enabled=dtype is not None):
            loss = F.binary_cross_entropy_with_logits(model(x), targets)
        loss.backward()
        optimizer.step()

    return work
