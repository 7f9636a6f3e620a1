"""Losses and scores of QUST-SmartData/CXRClassification, against its own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from formulas import image, load_record
from torch import Tensor

from thoraxlib import losses, metrics
from thoraxlib.reproduce import cxr_curves

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


def test_areas(recorded: tuple[Tensor, Tensor]) -> None:
    expected, (logits, labels) = RECORD["outputs"], recorded
    np.testing.assert_allclose(metrics.auroc(labels, logits), expected["auc_per_class"], rtol=1e-12)
    assert metrics.auroc(labels, logits).mean() == pytest.approx(expected["auc_mean"], rel=1e-12)
    assert metrics.micro_roc(labels, logits).area == pytest.approx(expected["micro_auc"], rel=1e-12)
    macro = cxr_curves.macro_roc(labels, logits)
    assert macro.area == pytest.approx(expected["macro_curve_auc"], rel=1e-12)
    assert metrics.macro_roc(labels, logits).area == pytest.approx(expected["auc_mean"], rel=1e-12)


def test_radiologists() -> None:
    recorded = RECORD["radiologist_points"]
    labels = list(recorded["points"])
    assert labels == list(metrics.CHEXPERT_RADIOLOGISTS)
    for label, points in recorded["points"].items():
        np.testing.assert_allclose(metrics.CHEXPERT_RADIOLOGISTS[label], points, rtol=1e-15)
    j = np.arange(200)
    truth = np.repeat(np.sin(2.3 * j)[:, None] > 0.4, 5, axis=1)
    scores = np.repeat((0.5 + 0.2 * np.sin(2.3 * j) + 0.14 * np.cos(0.9 * j))[:, None], 5, axis=1)
    example = recorded["example"]
    assert metrics.auroc(truth, scores)[0] == pytest.approx(example["auc"], rel=1e-12)
    counts = cxr_curves.radiologists_under_curve(truth, scores, labels)
    assert dict(zip(labels, counts, strict=True)) == example["radiologists_under_curve"]
