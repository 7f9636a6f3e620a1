"""One seed, one result: the same bits on a CPU, however many workers there are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from compatibility import small_parts
from torch import Tensor
from torch.utils.data import DataLoader

import thoraxlib
from thoraxlib import datasets, images, losses, metrics
from thoraxlib.images import augmentations
from thoraxlib.input_spec import InputSpec

LABELS = ["Mass", "Edema", "Effusion"]


def trained(build: Callable[[], Any], *inputs: Tensor) -> list[Tensor]:
    """A model's weights and predictions after it is built and has done two steps, all from one seed."""
    torch.manual_seed(0)
    model = build().train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    for _ in range(2):
        logits = model(*inputs)
        loss = losses.build("bce")(logits, torch.ones_like(logits))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return [*model.state_dict().values(), model.eval()(*inputs)]


@pytest.mark.parametrize("name", thoraxlib.models.registry.registered())
def test_models(name: str) -> None:
    generator = torch.Generator().manual_seed(1)
    if "backbone" in thoraxlib.describe(name).options:
        options = {"backbone": "test_resnet", "input_spec": {"size": 64}, "labels": LABELS, **small_parts(name)}
        inputs = [torch.randn(2, 3, 64, 64, generator=generator)]
    else:
        options = {"labels": LABELS, "regions": ["left lung", "trachea"], "in_features": 8}
        inputs = [torch.randn(3, 2, 8, generator=generator), torch.rand(3, 2, generator=generator) < 0.8]
    first, again = (trained(lambda: thoraxlib.build(name, **options), *inputs) for _ in range(2))
    assert len(first) == len(again)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert all(value.isfinite().all() for value in first)


def synthetic(**options: Any) -> Any:
    return datasets.build("synthetic", size=32, length=12, **options)


def test_data_sets_and_splits() -> None:
    for a, b in zip(synthetic(seed=3), synthetic(seed=3), strict=True):
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) if isinstance(a[key], Tensor) else a[key] == b[key] for key in a)
    assert not torch.equal(synthetic(seed=3)[0]["image"], synthetic(seed=4)[0]["image"])
    patients = [f"patient {k % 7}" for k in range(40)]
    parts = datasets.split_patients(patients, seed=5)
    assert parts == datasets.split_patients(patients, seed=5)
    # whatever order the images come in
    turned = datasets.split_patients(patients[::-1], seed=5)
    assert {name: {39 - k for k in rows} for name, rows in turned.items()} == {k: set(v) for k, v in parts.items()}


@pytest.mark.parametrize("name", augmentations.names())
def test_augmentations(name: str) -> None:
    transform = images.transform_for(InputSpec(size=24), train=name)
    pictures = [
        {key: image[key] for key in ("image", "labels", "masks")} for image in (synthetic()[k] for k in range(3))
    ]

    def augmented() -> list[Tensor]:
        torch.manual_seed(7)
        return [transform(image)["image"] for image in pictures]

    assert all(torch.equal(a, b) for a, b in zip(augmented(), augmented(), strict=True))


def test_batches_with_and_without_workers() -> None:
    training = pytest.importorskip("thoraxlib.training", reason="needs the extra train")
    pictures, spec = synthetic(), InputSpec(size=24)

    def batches(workers: int) -> list[dict[str, Any]]:
        data = training.DataModule(
            pictures,
            pictures,
            batch_size=4,
            num_workers=workers,
            train_transform=images.transform_for(spec, train="cxr_lka"),
            eval_transform=images.transform_for(spec),
            seed=2,
        )
        data.setup("fit")
        loader: DataLoader[Any] = data.train_dataloader()
        return [batch for _ in range(2) for batch in loader]

    alone = batches(0)
    assert len(alone) == 6
    for workers in (0, 2):
        for a, b in zip(alone, batches(workers), strict=True):
            assert a["id"] == b["id"]
            assert torch.equal(a["image"], b["image"])
            assert torch.equal(a["labels"].nan_to_num(2), b["labels"].nan_to_num(2))


def test_intervals() -> None:
    rng = np.random.default_rng(0)
    targets, scores = rng.integers(0, 2, (60, 2)), rng.random((60, 2))
    patients = [str(k % 20) for k in range(60)]
    first, again = (metrics.bootstrap(targets, scores, n_bootstrap=50, seed=9, patient_ids=patients) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    other = metrics.bootstrap(targets, scores, n_bootstrap=50, seed=10, patient_ids=patients)
    assert not np.array_equal(first.low, other.low)
