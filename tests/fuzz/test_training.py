"""Labels and thresholds of every kind: a run is refused before it reads an image, or ends with a score."""

from __future__ import annotations

import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

pytest.importorskip("lightning")
sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "training"))

from damage import FEW
from samples import Images, Net, to_float

from thoraxlib import metrics, training

NAN = float("nan")
LABELS = st.lists(st.sampled_from((0.0, 1.0, 1.0, 0.0, NAN, 0.3, 1e-30)), min_size=1, max_size=5)


@given(
    train=LABELS,
    val=LABELS,
    loss=st.sampled_from(("bce", "w_cel", "weighted_bce", "focal", "batch_focal", "plain")),
    monitor=st.sampled_from(("val/auroc", "val/average_precision", "val/loss", "train/loss", "val/mean")),
)
@FEW
def test_a_run_is_refused_at_once_or_ends(
    tmp_path: Path, train: list[float], val: list[float], loss: str, monitor: str
) -> None:
    shutil.rmtree(tmp_path / "run", ignore_errors=True)
    parts = [Images(6), Images(4, seed=1)]
    for part, values in zip(parts, (train, val), strict=True):
        count = part.targets.numel()
        part.targets = torch.tensor([values[k % len(values)] for k in range(count)]).reshape(part.targets.shape)
    data = training.DataModule(*parts, batch_size=3, train_transform=to_float, eval_transform=to_float)
    chosen: Any = nn.BCEWithLogitsLoss() if loss == "plain" else loss
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        try:
            result = training.fit(
                Net(),
                data,
                output=tmp_path / "run",
                epochs=1,
                loss=chosen,
                monitor=monitor,
                accelerator="cpu",
                progress=False,
            )
        except (ValueError, RuntimeError) as error:
            result, message = None, str(error)
    if result is not None:
        assert np.isfinite(result.score)
        return
    assert any(word in message for word in ("monitor", "train", "val"))
    assert parts[0].read == parts[1].read == 0
    assert not (tmp_path / "run").exists()


SCORES = st.sampled_from((0.0, 0.1, 0.5, 1.0, 0.1 + 0.2, 0.3, 1e-30, 1 - 1e-16))


@given(data=st.data())
@FEW
def test_a_score_counts_from_its_threshold_on(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 6))
    columns = st.lists(SCORES, min_size=count, max_size=count)
    scores = np.array([data.draw(columns) for _ in range(3)]).T
    targets = np.array(data.draw(st.lists(st.sampled_from((0.0, 1.0, NAN)), min_size=3 * count, max_size=3 * count)))
    targets = targets.reshape(count, 3)
    limits = np.array(data.draw(st.lists(SCORES | st.just(NAN), min_size=3, max_size=3)))
    found = metrics.confusion(targets, scores, limits)
    for k in range(3):
        ones = [score >= limits[k] for score, truth in zip(scores[:, k], targets[:, k], strict=True) if truth == 1]
        expected = sum(ones) / len(ones) if ones and not np.isnan(limits[k]) else NAN
        np.testing.assert_equal(found["sensitivity"][k], expected)
