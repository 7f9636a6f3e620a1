"""Compare an epoch of a head on stored features with an epoch of training through the network."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn import functional as F

import thoraxlib
from benchmarks.timing import Row, Work, compare
from benchmarks.training import step
from thoraxlib.archives import FeatureFolder, features

PACKAGES = ("timm",)
IMAGES, BATCH, SIZE = 32, 16, 224


def run(device: torch.device) -> Iterator[Row]:
    images = thoraxlib.datasets.build("synthetic", size=SIZE, length=IMAGES)
    targets = images.targets.nan_to_num()
    for head in ("linear", "map"):
        model = thoraxlib.build("classifier", backbone="efficientnet-lite0", head=head)
        with tempfile.TemporaryDirectory() as folder:
            features(model, images, folder, maps=True, dtype="float32", progress=False)
            stored = FeatureFolder(folder)
            found = stored.vectors()[:, :, None, None] if head == "linear" else stored.maps()
        x = torch.randn(IMAGES, 3, SIZE, SIZE)
        batches = [slice(start, start + BATCH) for start in range(0, IMAGES, BATCH)]
        frozen = [epoch_step(model.head, found[rows], targets[rows]) for rows in batches]
        whole = [step(model, x[rows], targets[rows]) for rows in batches]
        yield compare(
            f"probe, epoch of the head {head!r} on stored features",
            "epoch of training through the whole network, images in memory",
            lambda works=frozen: [work() for work in works],
            lambda works=whole: [work() for work in works],
            target=1 / 50,
            conditions=f"EfficientNet-Lite0, 14 labels, {SIZE} px, {IMAGES} images, batch {BATCH}",
            pairs=3,
        )


def epoch_step(head: nn.Module, found: torch.Tensor, targets: torch.Tensor) -> Work:
    """Return a step of AdamW of the head alone."""
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-4)

    def work() -> None:
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(head(found), targets).backward()
        optimizer.step()

    return work
