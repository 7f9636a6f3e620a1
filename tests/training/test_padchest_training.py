"""What the PadChest + Open-i repository trains, and its range test of learning rates."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("lightning")
sys.path.insert(0, str(Path(__file__).parent))

from films import Films, Net, to_float

import thoraxlib
from thoraxlib import datasets, training
from thoraxlib.images import transform_for
from thoraxlib.training.range_test import _steepest

FAST = {"accelerator": "cpu", "progress": False}


def films() -> training.DataModule:
    return training.DataModule(
        Films(64), Films(16, seed=1), batch_size=8, train_transform=to_float, eval_transform=to_float
    )


@pytest.mark.parametrize(
    ("backbone", "trained", "whole"),
    [("resnet50", 1_097_750, 23_553_110), ("densenet121", 61_462, 6_976_406), ("vgg16", 2_371_094, 14_725_974)],
)
def test_the_trained_parts(backbone: str, trained: int, whole: int) -> None:
    model = thoraxlib.build("unified_dcnn_padchest", backbone=backbone)
    stage = training.seed_stage(model, epochs=3)
    assert (stage.name, stage.epochs, stage.frozen_statistics) == ("seed", 3, True)
    counts = [sum(p.numel() for p in model.get_submodule(name).parameters()) for name in stage.trained]
    assert sum(counts) == trained
    assert sum(p.numel() for p in model.parameters()) == whole


def test_other_trunks_are_refused() -> None:
    with pytest.raises(ValueError, match=r"none of the trunks .*resnet50, densenet121, vgg16"):
        training.seed_stage(thoraxlib.build("unified_dcnn_padchest", backbone="resnet10t"))


@pytest.mark.parametrize("frozen", [True, False])
def test_statistics_of_frozen_norms(tmp_path: Path, frozen: bool) -> None:
    model = thoraxlib.build("unified_dcnn_padchest", input_spec={"size": [32, 32]}, labels=["Mass", "Effusion"])
    before = {key: value.clone() for key, value in model.state_dict().items()}
    made = [datasets.build("phantom", size=32, length=n, labels=model.labels, masks=False, seed=n) for n in (8, 40)]
    data = training.DataModule(
        *made, batch_size=4, train_transform=(to := transform_for(model.input_spec)), eval_transform=to
    )
    stage = training.seed_stage(model, frozen_statistics=frozen, epochs=1, optimizer=partial(torch.optim.Adam, lr=1e-3))
    training.fit_stages(model, data, [stage], output=tmp_path, monitor="val/loss", **FAST)
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    statistics = {key for key in before if "running" in key or "num_batches" in key}
    last = {f"backbone.net.layer4.2.{name}" for name in ("conv3.weight", "bn3.weight", "bn3.bias")}
    assert changed - statistics == last | {"head.fc.weight", "head.fc.bias"}
    own = {key for key in statistics if "layer4.2.bn3" in key}
    assert changed & statistics == (own if frozen else statistics)
    # the run says which it was
    other = training.seed_stage(model, frozen_statistics=not frozen, epochs=1, optimizer=stage.optimizer)
    with pytest.raises(ValueError, match="holds a run with other settings"):
        training.fit_stages(model, data, [other], output=tmp_path, monitor="val/loss", **FAST)


def test_the_range_test_leaves_the_model_as_it_was() -> None:
    model, data = Net(), films()
    model.eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    found = training.lr_range_test(model, data, optimizer=torch.optim.Adam, lowest=1e-5, highest=10.0, **FAST)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not model.training
    assert len(found.rates) == len(found.losses) > 60
    assert found.rates[0] == pytest.approx(1e-5)
    first, *steps = np.diff(np.log(found.rates))
    np.testing.assert_allclose(steps, np.log(1e6) / 100, rtol=1e-3)  # equal in the logarithm
    assert first == pytest.approx(2 * steps[0], rel=1e-3)
    assert found.rates[9] < found.suggestion < found.rates[-5]
    assert min(found.losses) < found.losses[0]


def test_the_range_test_ends_where_the_loss_diverges() -> None:
    found = training.lr_range_test(Net(), films(), optimizer=torch.optim.SGD, highest=1e30, stop_above=2.0, **FAST)
    assert len(found.losses) < 90
    assert np.isfinite(found.losses).all()
    assert all(loss <= 2 * min(found.losses[: k + 1]) for k, loss in enumerate(found.losses))


def test_the_range_test_counts_for_losses_that_ask() -> None:
    found = training.lr_range_test(Net(), films(), loss="weighted_bce", steps=20, highest=1.0, **FAST)
    assert len(found.rates) == 20
    assert np.isfinite(found.suggestion)
    short = training.lr_range_test(Net(), films(), steps=5, highest=1e-3, **FAST)
    assert np.isnan(short.suggestion)


def test_the_steepest_fall() -> None:
    rates, losses = [10.0**k for k in range(40)], [1.0] * 40
    losses[20:] = [0.2] * 20
    losses[2] = -50.0  # among the first, which do not count
    losses[38] = -90.0  # or the last
    assert _steepest(rates, losses) in (1e19, 1e20)


@pytest.mark.parametrize("options", [{"lowest": 1.0, "highest": 0.1}, {"lowest": 0.0}, {"steps": 1}])
def test_errors(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="0 < lowest < highest and 2 steps are needed"):
        training.lr_range_test(nn.Linear(1, 1), films(), **options)


def test_a_loss_must_be_allowed_to_be_the_best() -> None:
    with pytest.raises(ValueError, match=r"stop_above=0\.5: above 1 is accepted"):
        training.lr_range_test(nn.Linear(1, 1), films(), stop_above=0.5)
