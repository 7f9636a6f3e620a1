"""The stage of the PadChest + Open-i repository."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import pytest
import torch

pytest.importorskip("lightning")
sys.path.insert(0, str(Path(__file__).parent))

from samples import Images, to_float

import thoraxlib
from thoraxlib import datasets, training
from thoraxlib.images import transform_for

FAST = {"accelerator": "cpu", "progress": False}


def images() -> training.DataModule:
    return training.DataModule(
        Images(64), Images(16, seed=1), batch_size=8, train_transform=to_float, eval_transform=to_float
    )


@pytest.mark.parametrize(
    ("backbone", "trained", "whole"),
    [("resnet50", 1_097_750, 23_553_110), ("densenet121", 61_462, 6_976_406), ("vgg16", 2_371_094, 14_725_974)],
)
def test_the_trained_parts(backbone: str, trained: int, whole: int) -> None:
    model = thoraxlib.build("unified_dcnn_padchest", backbone=backbone)
    stage = training.jaydurant_stage(model, epochs=3)
    assert (stage.name, stage.epochs, stage.frozen_statistics) == ("jaydurant", 3, True)
    counts = [sum(p.numel() for p in model.get_submodule(name).parameters()) for name in stage.trained]
    assert sum(counts) == trained
    assert sum(p.numel() for p in model.parameters()) == whole


def test_other_backbones_are_refused() -> None:
    with pytest.raises(ValueError, match=r"none of the backbones .*resnet50, densenet121, vgg16"):
        training.jaydurant_stage(thoraxlib.build("unified_dcnn_padchest", backbone="resnet10t"))


@pytest.mark.parametrize("frozen", [True, False])
def test_statistics_of_frozen_norms(tmp_path: Path, frozen: bool) -> None:
    model = thoraxlib.build("unified_dcnn_padchest", input_spec={"size": [32, 32]}, labels=["Mass", "Effusion"])
    before = {key: value.clone() for key, value in model.state_dict().items()}
    made = [datasets.build("synthetic", size=32, length=n, labels=model.labels, masks=False, seed=n) for n in (8, 40)]
    data = training.DataModule(
        *made, batch_size=4, train_transform=(to := transform_for(model.input_spec)), eval_transform=to
    )
    stage = training.jaydurant_stage(
        model, frozen_statistics=frozen, epochs=1, optimizer=partial(torch.optim.Adam, lr=1e-3)
    )
    training.fit_stages(model, data, [stage], output=tmp_path, monitor="val/loss", **FAST)
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    statistics = {key for key in before if "running" in key or "num_batches" in key}
    last = {f"backbone.net.layer4.2.{name}" for name in ("conv3.weight", "bn3.weight", "bn3.bias")}
    assert changed - statistics == last | {"head.fc.weight", "head.fc.bias"}
    own = {key for key in statistics if "layer4.2.bn3" in key}
    assert changed & statistics == (own if frozen else statistics)
    # the run says which it was
    other = training.jaydurant_stage(model, frozen_statistics=not frozen, epochs=1, optimizer=stage.optimizer)
    with pytest.raises(ValueError, match="holds a run with other settings"):
        training.fit_stages(model, data, [other], output=tmp_path, monitor="val/loss", **FAST)
