"""Dice and IoU of organ masks."""

from __future__ import annotations

import pytest
import torch

from thoraxlib import segmentation


def test_scores_are_their_formulas() -> None:
    predicted, truth = (torch.rand(2, 5, 3, 16, 12) > 0.6 for _ in range(2))
    dice, iou = (
        segmentation.dice_score(predicted, truth),
        segmentation.iou_score(predicted.float(), truth.to(torch.uint8)),
    )
    assert dice.shape == iou.shape == (2, 5, 3)
    a, b = ({tuple(p) for p in m[1, 4, 2].nonzero().tolist()} for m in (predicted, truth))
    assert dice[1, 4, 2].item() == pytest.approx(2 * len(a & b) / (len(a) + len(b)))
    assert iou[1, 4, 2].item() == pytest.approx(len(a & b) / len(a | b))
    torch.testing.assert_close(iou, dice / (2 - dice))


def test_bounds_and_absent_organs() -> None:
    heart = torch.zeros(4, 1, 8, 8, dtype=torch.uint8)
    heart[:2, :, 2:5, 2:5] = 1
    predicted = heart.clone()
    predicted[1], predicted[2, :, 0, 0] = 0, 1
    for score in (segmentation.dice_score, segmentation.iou_score):
        values = score(predicted, heart)[:, 0]
        assert values[:3].tolist() == [1, 0, 0]  # correct, missed, invented
        assert values[3].isnan()  # in neither
        assert score(predicted, heart).nanmean(dim=0).item() == pytest.approx(1 / 3)


def test_large_masks_are_counted_exactly() -> None:
    everything = torch.ones(1, 5000, 5000, dtype=torch.bool)
    less = everything.clone()
    less[0, 0, :2500] = False
    assert segmentation.iou_score(less, everything).item() == pytest.approx(1 - 2500 / 25e6, abs=1e-7)


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3, 4, 4\) and truth \(2, 1, 4, 4\)"):
        segmentation.dice_score(torch.zeros(2, 3, 4, 4), torch.zeros(2, 1, 4, 4))
    with pytest.raises(ValueError, match=r"\(\.\.\., M, H, W\)"):
        segmentation.iou_score(torch.zeros(4, 4), torch.zeros(4, 4))
    with pytest.raises(ValueError, match="predicted must hold 0 and 1 only; 16 pixels do not, the first is 0.5"):
        segmentation.dice_score(torch.full((1, 4, 4), 0.5), torch.zeros(1, 4, 4))
    with pytest.raises(ValueError, match="truth must hold 0 and 1 only; 1 pixels do not, the first is 255"):
        segmentation.dice_score(torch.zeros(1, 1, 1), torch.full((1, 1, 1), 255, dtype=torch.uint8))
    with pytest.raises(ValueError, match="first is nan"):
        segmentation.dice_score(torch.full((1, 4, 4), torch.nan), torch.zeros(1, 4, 4))
