"""Faults of the data and the settings that raise before the first epoch."""

from __future__ import annotations

import pickle
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("lightning")
sys.path.insert(0, str(Path(__file__).parent))

from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint
from samples import Images, Net, to_float

import thoraxlib
from thoraxlib import losses, metrics, training
from thoraxlib.training.resume import distinct

NAN = float("nan")


def images(**options: Any) -> training.DataModule:
    options = {"batch_size": 8, "train_transform": to_float, "eval_transform": to_float, **options}
    return training.DataModule(Images(16), Images(16, seed=1), **options)


def fit(data: training.DataModule, output: Path, **options: Any) -> training.FitResult:
    options = {"epochs": 1, "accelerator": "cpu", "progress": False, **options}
    return training.fit(Net(), data, output=output, **options)


def refused(data: training.DataModule, output: Path, error: type[Exception], match: str, **options: Any) -> None:
    """The run is refused before an image is read or a file is written."""
    with pytest.raises(error, match=match):
        fit(data, output, **options)
    assert data.parts["train"].read == data.parts["val"].read == 0
    assert not output.exists()


@pytest.mark.parametrize("part", ["train", "val"])
@pytest.mark.parametrize("loss", ["bce", "w_cel", "weighted_bce", "focal", nn.BCEWithLogitsLoss()])
def test_labels_that_are_all_unknown(tmp_path: Path, part: str, loss: Any) -> None:
    data = images()
    data.parts[part].targets[:] = NAN
    refused(data, tmp_path / "run", ValueError, f"{part}: every label of every image is unknown", loss=loss)


@pytest.mark.parametrize("part", ["train", "val"])
def test_a_label_that_is_unknown_throughout_is_named(tmp_path: Path, part: str) -> None:
    data = images()
    data.parts[part].targets[:, 0] = NAN
    with pytest.warns(UserWarning, match=rf"{part}: labels that are unknown \(NaN\) in every image: left;"):
        fit(data, tmp_path)


@pytest.mark.parametrize("value", [0.7, 0.5, 1e-6])
@pytest.mark.parametrize("monitor", ["val/auroc", "val/loss", "train/loss"])
def test_soft_labels_are_for_training(tmp_path: Path, value: float, monitor: str) -> None:
    data = images()
    data.parts["train"].targets[3, 0] = value
    fit(data, tmp_path / "train", monitor=monitor)
    scores = {}
    for name, target in (("soft", value), ("unknown", NAN)):
        data = images()
        data.parts["val"].targets[3, 0] = target
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            logged = fit(data, tmp_path / name, monitor=monitor).trainer.callback_metrics
        scores[name] = [float(logged[key]) for key in ("val/auroc", "val/average_precision")]
        text = f"val: 1 targets between 0 and 1, such as {value:g}, take no part in the scores"
        assert any(str(warning.message).startswith(text) for warning in caught) == (name == "soft")
    assert scores["soft"] == scores["unknown"]


class Plain(nn.Module):
    """A loss that cannot take unknown labels, with a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", torch.ones(2))

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return (self.weight * (logits - labels).square()).mean()


@pytest.mark.parametrize("part", ["train", "val"])
@pytest.mark.parametrize("loss", [nn.BCEWithLogitsLoss(), Plain(), nn.MSELoss()])
def test_unknown_labels_and_a_loss_that_cannot_take_them(tmp_path: Path, part: str, loss: nn.Module) -> None:
    data = images()
    data.parts[part].targets[5, 1] = NAN
    refused(data, tmp_path / "run", ValueError, f"is NaN where a label is unknown, and {part} has such", loss=loss)
    assert loss.training
    fit(data, tmp_path, loss=losses.build("bce"))
    fit(images(), tmp_path / "known", loss=loss)


@pytest.mark.parametrize("monitor", ["val/auroc", "val/average_precision"])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_validation_labels_of_one_class(tmp_path: Path, monitor: str, value: float) -> None:
    data = images()
    data.parts["val"].targets[:] = value
    data.parts["val"].targets[::2] = NAN
    refused(data, tmp_path / "run", RuntimeError, f"{monitor}.*both classes", monitor=monitor)
    fit(data, tmp_path, monitor="val/loss")


class Logs(Callback):
    """Logs a score."""

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        pl_module.log("val/own", 0.5)


@pytest.mark.parametrize("monitor", ["val_auroc", "val/AUROC", "auroc", "val/dice"])
def test_a_score_that_nobody_logs(tmp_path: Path, monitor: str) -> None:
    message = f"monitor='{monitor}': allowed are 'train/loss', 'val/loss', 'val/auroc'"
    refused(images(), tmp_path / "run", ValueError, message, monitor=monitor)
    refused(images(), tmp_path / "run", ValueError, message, monitor=monitor, callbacks=[LearningRateMonitor()])
    for callback in (EarlyStopping(monitor), ModelCheckpoint(monitor=monitor)):
        refused(images(), tmp_path / "run", ValueError, f"monitor of .*'{monitor}'", callbacks=[callback])


def test_a_score_of_a_callback(tmp_path: Path) -> None:
    assert fit(images(), tmp_path, monitor="val/own", callbacks=[Logs()]).score == 0.5
    fit(images(), tmp_path / "epoch", callbacks=[ModelCheckpoint(monitor="epoch", mode="max", save_top_k=2)])


def test_steps_that_end_in_the_first_epoch(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="max_steps=1: an epoch has 2 steps, and monitor='val/auroc'"):
        fit(images(), tmp_path / "a", max_steps=1)
    fit(images(), tmp_path / "b", max_steps=1, accumulate=2)
    fit(images(), tmp_path / "c", max_steps=1, monitor="train/loss")


def test_a_refused_run_leaves_the_one_before(tmp_path: Path) -> None:
    fit(images(), tmp_path)
    before = (tmp_path / "checkpoints" / "last.ckpt").read_bytes()
    data = images()
    data.parts["val"].targets[:] = NAN
    with pytest.raises(ValueError, match="val: every label of every image is unknown"):
        fit(data, tmp_path, resume=False)
    assert (tmp_path / "checkpoints" / "last.ckpt").read_bytes() == before


def test_targets_of_another_width() -> None:
    wide = Images(8)
    wide.targets = torch.zeros(8, 3)
    with pytest.raises(ValueError, match=r"train has targets \(8, 3\): 8 images and 2 labels"):
        training.DataModule(wide, Images(8, seed=1))


def test_a_later_stage_is_checked_before_the_first(tmp_path: Path) -> None:
    data = images()
    data.parts["train"].targets[0, 0] = NAN
    plan = [training.Stage(name="one", epochs=1), training.Stage(name="two", epochs=1, loss=nn.BCEWithLogitsLoss())]
    with pytest.raises(ValueError, match="NaN where a label is unknown"):
        training.fit_stages(Net(), data, plan, output=tmp_path / "run", accelerator="cpu", progress=False)
    plan[1] = training.Stage(name="two", epochs=1, trained=["nowhere"])
    with pytest.raises(ValueError, match="has no such part"):
        training.fit_stages(Net(), data, plan, output=tmp_path / "run", accelerator="cpu", progress=False)
    assert not (tmp_path / "run").exists()
    assert data.parts["train"].read == 0


def test_a_segmenter_wants_masks_of_both_parts(tmp_path: Path) -> None:
    segmenter = thoraxlib.segmentation.build("unet", width=2, depth=2)
    options = {"output": tmp_path / "run", "epochs": 1, "accelerator": "cpu", "progress": False}
    with pytest.raises(ValueError, match=r"no masks: .*masks=True"):
        training.fit(segmenter, images(), **options)
    data = images(masks=True)
    data.parts["train"].mask_names = ("lungs",)
    with pytest.raises(ValueError, match=r"mask_names of train are \('lungs',\), of val \(\)"):
        training.fit(segmenter, data, **options)
    assert not (tmp_path / "run").exists()


class Sure(nn.Module):
    """Logits beyond float32's probabilities: by the mean of the image, in order of the first label."""

    def __init__(self) -> None:
        super().__init__()
        self.labels = ("left", "top")
        self.shift = nn.Parameter(torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (18 + 10 * x[:, 0, :, :4].mean(dim=(1, 2))[:, None] + self.shift).expand(-1, 2)


def test_a_sure_network_is_scored_by_its_order(tmp_path: Path) -> None:
    data = images()
    result = training.fit(
        Sure(),
        data,
        output=tmp_path,
        epochs=1,
        accelerator="cpu",
        progress=False,
        optimizer=partial(torch.optim.SGD, lr=0.0),
    )
    found = training.predict(result.model, Images(16, seed=1), transform=to_float, progress=False)
    assert bool((found.logits.sigmoid() == 1).all())
    by_logits = metrics.auroc(found.targets, found.logits)
    assert by_logits[0] > 0.9
    for probabilities in (found.probabilities, found.probabilities.numpy()):
        assert metrics.auroc(found.targets, probabilities).tolist() == by_logits.tolist()
        report = metrics.evaluate(found.targets, probabilities, found.labels, n_bootstrap=5)
        assert report.rows[0].auroc == by_logits[0]
    studies, _ = metrics.aggregate(found.probabilities, found.ids, "max")
    assert metrics.auroc(found.targets, studies).tolist() == by_logits.tolist()
    assert result.score == pytest.approx(by_logits.mean(), abs=1e-6)
    limits = metrics.best_thresholds(found.targets, found.probabilities)
    assert metrics.confusion(found.targets, found.probabilities, limits)["f1"][0] > 0.8


@pytest.mark.parametrize("sign", [1, -1])
def test_ten_crops_of_a_sure_network_are_finite(sign: int) -> None:
    from thoraxlib.models.tta import TenCrop

    class Constant(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return sign * (40 + x.mean(dim=(1, 2, 3))[:, None])

    images = torch.tensor([0.0, 1.0, 2.0])[:, None, None, None].expand(-1, 1, 8, 8)
    logits = TenCrop(Constant(), size=4)(images)
    torch.testing.assert_close(logits[:, 0], sign * torch.tensor([40.0, 41.0, 42.0]))
    mixed = torch.randn(6, 10, 2, generator=torch.Generator().manual_seed(0))

    class Drawn(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return sign * mixed.flatten(0, 1)

    found = TenCrop(Drawn(), size=4, chunk=60)(torch.zeros(6, 1, 8, 8)).sigmoid()
    torch.testing.assert_close(found, (sign * mixed).sigmoid().mean(dim=1))


def test_a_numbered_callback_is_its_class_and_can_be_pickled() -> None:
    first, second = EarlyStopping("val/loss", patience=2), EarlyStopping("val/loss", patience=4)
    distinct([first, second])
    assert first.state_key != second.state_key
    again = pickle.loads(pickle.dumps(second))
    assert (again.patience, again.state_key) == (4, second.state_key)
    assert isinstance(again, EarlyStopping)
    distinct([second, first])
    assert type(second) is EarlyStopping
    assert np.unique([first.state_key, second.state_key]).size == 2
