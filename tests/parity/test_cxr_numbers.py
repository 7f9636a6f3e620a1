"""Losses and scores of QUST-SmartData/CXRClassification, against its own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from formulas import image, load_record
from torch import Tensor

from thoraxlib import losses

RECORD = load_record("cxr_losses_metrics.json")
LOSSES = RECORD["outputs"]["losses"]


@pytest.fixture
def recorded() -> tuple[Tensor, Tensor]:
    """Logits and labels (8, 14) of the record, by its formulas."""
    logits = image(8, 1, 1, 14).reshape(8, 14)
    labels = torch.from_numpy(np.sin(1.7 * np.arange(112)) > 0.3).reshape(8, 14).float()
    np.testing.assert_allclose(logits.sigmoid()[0], RECORD["input"]["p_first"], rtol=1e-6)
    assert labels.tolist() == RECORD["input"]["t"]
    return logits, labels


def test_losses(recorded: tuple[Tensor, Tensor]) -> None:
    def loss(name: str, **options: object) -> float:
        return float(losses.build(name, **options)(*recorded))

    assert loss("batch_focal") == pytest.approx(LOSSES["focal"], rel=1e-6)
    assert loss("bce") == pytest.approx(LOSSES["bce_mean"], rel=1e-6)
    # the record's factor weighs both classes
    assert 0.8 * loss("focal", alpha=None) == pytest.approx(LOSSES["focal_per_element_mean"], rel=1e-6)


def test_mask_losses(recorded: tuple[Tensor, Tensor]) -> None:
    logits, masks = (x[..., None, None] for x in recorded)
    assert float(losses.build("dice")(logits, masks)) == pytest.approx(LOSSES["dice_loss"], rel=1e-6)
    assert float(losses.build("dice_bce")(logits, masks)) == pytest.approx(LOSSES["dice_bce"], rel=1e-6)
