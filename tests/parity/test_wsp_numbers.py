"""Preprocessing, losses, schedules and scores of jfhealthcare/Chexpert and alinstein/X_RAY, against their own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from formulas import assert_matches, image, load_record
from torch import Tensor

from thoraxlib import InputSpec, losses, metrics
from thoraxlib.images import preprocess_for
from thoraxlib.images.resize import blur3, equalize
from thoraxlib.models.pcam import JF_INPUT

PREPROCESS = load_record("jfhealthcare_preprocess.json")["outputs"]


def gray(height: int, width: int, phase: float) -> Tensor:
    return ((image(1, 1, height, width, phase)[0, 0].double() + 2) * 63.75).clamp(0, 255).to(torch.uint8)


@pytest.mark.parametrize("case", PREPROCESS)
def test_preprocessing(case: str) -> None:
    expected = PREPROCESS[case]
    picture = gray(*expected["args"])
    assert_matches(picture, expected["gray"], 1e-6)
    assert_matches(equalize(picture), expected["equalized"], 1e-6)
    assert_matches(blur3(equalize(picture)), expected["blurred"], 1e-6)
    changes = {"size": expected["long_side"]}
    overrides = expected["overrides"]
    if overrides.get("border_pad") == "zero":
        changes["fill"] = 0.0
    changes["equalize"] = overrides.get("use_equalizeHist", True)
    changes["blur"] = overrides.get("gaussian_blur", 3)
    # cases without border_pad=zero pad with the mean, but for the record's own default, zero
    spec = InputSpec().updated(JF_INPUT).updated(changes)
    ours = preprocess_for(spec)(picture)[0]
    assert_matches(ours, expected["output"], 1.01 / 64 / expected["output"]["abs_max"])  # one grey level
    row = expected["output_row_middle"]["first"]
    np.testing.assert_allclose(ours[0, 64, : len(row)], row, atol=1.01 / 64)


def formula() -> tuple[Tensor, Tensor]:
    i = np.arange(60, dtype=np.float64).reshape(12, 5)
    labels = (np.cos(2.3 * i) > 0.35).astype(np.float32)
    labels[:, 4] = 0
    return torch.from_numpy((2 * np.sin(0.7 * i + 0.3)).astype(np.float32)), torch.from_numpy(labels)


def test_losses() -> None:
    out = load_record("wsp_losses.json")["outputs"]
    logits, labels = formula()
    assert labels.sum(dim=0).tolist() == out["positives_per_class"]

    def loss(name: str, **options: object) -> float:
        return float(losses.build(name, **options)(logits, labels))

    assert loss("w_cel", reduction="sum") == pytest.approx(out["weighted_BCELoss"], rel=1e-6)
    assert loss("bce", reduction="sum") == pytest.approx(out["unweighted_sum_BCELoss"], rel=1e-6)
    default = out["x_ray default loss (sum over classes of batch-mean BCE)"]
    assert loss("bce", reduction="label_sum") == pytest.approx(default, rel=1e-6)
    for key in ("per_class_batch_pos_weight_loss(x_ray get_loss)", "jf get_loss batch_weight=true"):
        theirs = loss("bce", pos_weight="batch", skip_absent=True, reduction="label_sum")
        assert theirs == pytest.approx(sum(out[key]), rel=1e-6)
        each = [
            float(losses.build("bce", pos_weight="batch", skip_absent=True)(logits[:, [k]], labels[:, [k]]))
            for k in range(5)
        ]
        np.testing.assert_allclose(each, out[key], rtol=1e-6)
    weights = [1, 2, 0.5, 3, 1]
    assert loss("bce", pos_weight=weights, reduction="label_sum") == pytest.approx(
        sum(out["jf get_loss pos_weight=[1,2,0.5,3,1]"]), rel=1e-6
    )


@pytest.mark.parametrize(
    ("key", "milestones"),
    [
        ("x_ray lr_schedule(1e-4,0.1,epoch,[4,8,12]) for epoch 1..13", [3, 7, 11]),
        ("jf lr_schedule(1e-4,0.1,epoch,[2]) for epoch 0..3", [2]),
    ],
)
def test_schedules(key: str, milestones: list[int]) -> None:
    pytest.importorskip("lightning")
    from thoraxlib.training.schedules import schedule

    expected = load_record("wsp_losses.json")["outputs"][key]
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=1e-4)
    config = schedule(
        {"name": "multistep", "milestones": milestones}, optimizer, steps=1, monitor="val/loss", mode="min"
    )
    rates = []
    for _ in expected:
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        config["scheduler"].step()
    np.testing.assert_allclose(rates, expected, rtol=1e-9)


def test_scores() -> None:
    record = load_record("wsp_eval_stats.json")["outputs"]
    i = np.arange(1600, dtype=np.float64).reshape(200, 8)
    truth = np.sin(0.37 * i + 1.0) > 0.5
    scores = (1 / (1 + np.exp(-(1.2 * (truth - 0.5) + 1.5 * np.sin(1.7 * i + 0.2))))).astype(np.float32)
    np.testing.assert_allclose(metrics.auroc(truth, scores), record["auroc"], atol=1e-6)
    thresholds = metrics.best_thresholds(truth, scores, "equal")
    np.testing.assert_allclose(thresholds, record["thresholds"], atol=1e-6)
    found = metrics.confusion(truth, scores, thresholds)
    for ours, theirs in (("sensitivity", "TPR"), ("specificity", "TNR"), ("precision", "PPV"), ("f1", "F1")):
        np.testing.assert_allclose(found[ours], list(record[theirs].values()), atol=1e-6)
        assert found[ours].mean() == pytest.approx(record[f"mean_{theirs}"], abs=1e-6)
    np.testing.assert_allclose(found["accuracy"], record["accuracy"], atol=1e-6)
    assert (1 - found["accuracy"]).mean() == pytest.approx(record["mean_hamming"], abs=1e-6)
