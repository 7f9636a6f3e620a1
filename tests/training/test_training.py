"""Training end to end on a tiny task: learning, checkpoints, resuming, logs and errors."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("lightning")
sys.path.insert(0, str(Path(__file__).parent))

from lightning.pytorch import Callback
from samples import Images, Net, jitter, to_float

import thoraxlib
from thoraxlib import losses, metrics, training
from thoraxlib.input_spec import InputSpec
from thoraxlib.training import task
from thoraxlib.training.resume import WholeFiles

HERE = Path(__file__).parent
FAST = {"accelerator": "cpu", "progress": False, "optimizer": partial(torch.optim.Adam, lr=0.02)}


def module(**options: Any) -> training.DataModule:
    options = {"batch_size": 16, "train_transform": jitter, "eval_transform": to_float, **options}
    return training.DataModule(Images(64), Images(32, seed=1), **options)


def same_weights(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A script in its own process, with this folder's helpers."""
    code = f"import sys; sys.path.insert(0, {str(HERE)!r})\n" + script
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=900)


def test_it_learns_and_returns_the_best_epoch(tmp_path: Path) -> None:
    result = training.fit(Net(), module(), output=tmp_path, epochs=6, **FAST)
    assert result.score > 0.9
    assert not result.model.training
    found = training.predict(result.model, Images(32, seed=1), transform=to_float, progress=False)
    assert metrics.auroc(found.targets, found.probabilities).mean() == pytest.approx(result.score, abs=1e-6)
    rows = (tmp_path / "logs" / "metrics.csv").read_text().splitlines()
    column = rows[0].split(",").index("val/auroc")
    logged = [float(row.split(",")[column]) for row in rows[1:] if row.split(",")[column]]
    assert len(logged) == 6
    assert max(logged) == pytest.approx(result.score, abs=1e-6)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
    torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)


def test_unknown_labels_change_no_weight(tmp_path: Path) -> None:
    data = module(train_transform=to_float)
    for part in data.parts.values():
        part.targets[:, 1] = float("nan")
    model = Net()
    before = model.fc.weight[1].clone()
    with pytest.warns(UserWarning, match=r"train: labels that are unknown \(NaN\) in every image: top;"):
        result = training.fit(
            model, data, output=tmp_path, epochs=3, **{**FAST, "optimizer": partial(torch.optim.SGD, lr=0.3)}
        )
    assert torch.equal(result.model.fc.weight[1], before)
    assert not torch.equal(result.model.fc.weight[0], Net().fc.weight[0])
    assert result.score > 0.9


class _Falls(nn.Module):
    """A loss whose gradient makes the model worse after the first steps."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.inner = losses.build("bce")

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.calls += 1
        return self.inner(logits, labels) * (1 if self.calls <= 12 or not self.training else -1)


def test_best_is_kept_and_training_stops_early(tmp_path: Path) -> None:
    result = training.fit(
        Net(), module(), output=tmp_path, epochs=30, patience=3, loss=_Falls(), monitor="val/loss", **FAST
    )
    assert result.epoch <= 4
    assert result.trainer.current_epoch <= result.epoch + 4
    found = training.predict(result.model, Images(32, seed=1), transform=to_float, progress=False)
    assert losses.build("bce")(found.logits, found.targets).item() == pytest.approx(result.score, rel=1e-4)


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "logs" / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


class Kill(Callback):
    """The power fails in the third epoch."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.current_epoch == 2 and batch_idx == 1:
            os.kill(os.getpid(), signal.SIGKILL)


def four_epochs(output: str | Path, *callbacks: Callback) -> training.FitResult:
    return training.fit(Net(), module(), output=output, epochs=4, scheduler="onecycle", callbacks=callbacks, **FAST)


KILLED = "import test_training\ntest_training.four_epochs(sys.argv[1], test_training.Kill())"


def test_a_killed_run_resumes_to_the_same_weights(tmp_path: Path) -> None:
    killed = run(KILLED, str(tmp_path / "a"))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert torch.load(tmp_path / "a" / "checkpoints" / "last.ckpt", weights_only=True)["epoch"] == 1
    resumed, whole = four_epochs(tmp_path / "a"), four_epochs(tmp_path / "b")
    assert (resumed.score, resumed.epoch) == (whole.score, whole.epoch)
    assert same_weights(resumed.model, whole.model)
    for name in ("checkpoints/last.ckpt", "checkpoints/best.ckpt"):
        a, b = (torch.load(tmp_path / run_ / name, weights_only=True) for run_ in ("a", "b"))
        assert a["epoch"] == b["epoch"]
        assert all(torch.equal(a["state_dict"][key], b["state_dict"][key]) for key in b["state_dict"])
    assert rows(tmp_path / "a") == rows(tmp_path / "b")


def test_a_finished_run_started_again_changes_nothing(tmp_path: Path) -> None:
    for name, options in (("whole", {"epochs": 2}), ("early", {"epochs": 30, "patience": 1})):
        once, table = training.fit(Net(), module(), output=tmp_path / name, **options, **FAST), rows(tmp_path / name)
        again = training.fit(Net(), module(), output=tmp_path / name, **options, **FAST)
        assert again.trainer.global_step == once.trainer.global_step
        assert (again.score, again.epoch) == (once.score, once.epoch)
        assert same_weights(again.model, once.model)
        assert rows(tmp_path / name) == table


def test_a_checkpoint_cut_short_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    training.fit(Net(), module(), output=tmp_path, epochs=1, **FAST)
    last = tmp_path / "checkpoints" / "last.ckpt"
    before = last.read_bytes()

    def cut(self: Any, checkpoint: Any, path: Any, storage_options: Any = None) -> None:
        Path(path).write_bytes(before[:100])
        raise OSError("no space left on device")

    monkeypatch.setattr("lightning.pytorch.plugins.TorchCheckpointIO.save_checkpoint", cut)
    with pytest.raises(OSError, match="no space"):
        WholeFiles().save_checkpoint({}, last)
    assert last.read_bytes() == before


def test_resuming_with_other_settings_is_an_error(tmp_path: Path) -> None:
    training.fit(Net(), module(), output=tmp_path, epochs=1, **FAST)
    with pytest.raises(ValueError, match="accumulate=1 before, 2 now"):
        training.fit(Net(), module(), output=tmp_path, epochs=1, accumulate=2, **FAST)
    again = training.fit(Net(), module(), output=tmp_path, epochs=2, resume=False, **FAST)
    assert again.trainer.current_epoch == 2
    (tmp_path / "checkpoints" / "last.ckpt").write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match=r"last\.ckpt.*damaged"):
        training.fit(Net(), module(), output=tmp_path, epochs=2, **FAST)


DDP = """
import json, torch
from samples import Images, Net, to_float
from thoraxlib import training

def main():
    data = training.DataModule(
        Images(64), Images(33, seed=1), batch_size=8, train_transform=to_float, eval_transform=to_float
    )
    devices = int(sys.argv[2])
    result = training.fit(
        Net(), data, output=sys.argv[1], epochs=2, accelerator="cpu", progress=False, devices=devices,
        strategy="ddp" if devices > 1 else "auto", loss={"name": "w_cel", "scope": "dataset"},
    )
    trainer = result.trainer
    with open(f"{sys.argv[1]}/result{trainer.global_rank}.json", "w") as file:
        json.dump({
            "world": trainer.world_size, "score": result.score,
            "loss": float(trainer.callback_metrics["val/loss"]),
            "sum": float(sum(p.double().abs().sum() for p in result.model.parameters())),
        }, file)
    found = training.predict(result.model, Images(33, seed=1), transform=to_float, progress=False)
    if trainer.global_rank == 0:
        torch.save([found.logits, found.targets], sys.argv[1] + "/found.pt")

if __name__ == "__main__":
    main()
"""


@pytest.mark.slow
def test_two_processes(tmp_path: Path) -> None:
    script = tmp_path / "ddp.py"
    script.write_text(f"import sys; sys.path.insert(0, {str(HERE)!r})\n{DDP}")
    out = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "out"), "2"], capture_output=True, text=True, timeout=900
    )
    assert out.returncode == 0, out.stderr
    results = [json.loads((tmp_path / "out" / f"result{rank}.json").read_text()) for rank in range(2)]
    assert {result["world"] for result in results} == {2}
    assert results[0]["sum"] == results[1]["sum"]
    assert results[0]["loss"] == results[1]["loss"]
    # 33 images on two processes: one is seen twice and counts once
    logits, targets = torch.load(tmp_path / "out" / "found.pt", weights_only=True)
    assert metrics.auroc(targets, logits).mean() == pytest.approx(results[0]["score"], abs=1e-6)


def test_two_forked_processes(tmp_path: Path) -> None:
    data = training.DataModule(
        Images(32), Images(9, seed=1), batch_size=8, train_transform=to_float, eval_transform=to_float
    )
    options = {**FAST, "devices": 2, "strategy": "ddp_fork"}
    result = training.fit(Net(), data, output=tmp_path, epochs=2, **options)
    found = training.predict(result.model, Images(9, seed=1), transform=to_float, progress=False)
    assert metrics.auroc(found.targets, found.logits).mean() == pytest.approx(result.score, abs=1e-6)
    assert {row["epoch"] for row in rows(tmp_path)} == {"0", "1"}


@pytest.mark.parametrize(
    "options", [{"precision": "bf16-mixed"}, {"accumulate": 2, "gradient_clip": 1.0}, {"channels_last": True}]
)
def test_options(tmp_path: Path, options: dict[str, Any]) -> None:
    result = training.fit(Net(), module(), output=tmp_path, epochs=3, **FAST, **options)
    assert result.score > 0.7
    assert result.trainer.global_step == (6 if "accumulate" in options else 12)
    if "channels_last" in options:
        assert result.model.body[0].weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("scheduler", ["onecycle", "cosine", "plateau", {"name": "plateau", "factor": 0.5}, None])
def test_schedules(tmp_path: Path, scheduler: Any) -> None:
    result = training.fit(Net(), module(), output=tmp_path, epochs=2, scheduler=scheduler, **FAST)
    rate = result.trainer.optimizers[0].param_groups[0]["lr"]
    if scheduler == "cosine":
        assert rate == pytest.approx(0)
    elif scheduler == "onecycle":
        assert result.trainer.lr_scheduler_configs[0].scheduler.total_steps == 8
    else:
        assert min(abs(rate - known) for known in (0.02, 0.01, 0.002)) < 1e-9
    torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)


def test_a_callable_schedule_and_an_unknown_one(tmp_path: Path) -> None:
    halve = partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5)
    result = training.fit(Net(), module(), output=tmp_path / "a", epochs=2, scheduler=halve, **FAST)
    assert result.trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.005)
    with pytest.raises(ValueError, match="scheduler='linear'.*'onecycle'"):
        training.fit(Net(), module(), output=tmp_path / "b", epochs=1, scheduler="linear", **FAST)


def test_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    training.fit(Net(), module(), output=tmp_path, epochs=1, loggers=("csv", "tensorboard"), **FAST)
    assert list((tmp_path / "logs").glob("events*"))
    with pytest.raises(ValueError, match=r"loggers='wandb': allowed are 'csv'"):
        training.fit(Net(), module(), output=tmp_path, loggers=("wandb",), **FAST)


def test_a_model_of_the_registry_is_saved(tmp_path: Path) -> None:
    model = thoraxlib.build(
        "chexnet", backbone="resnet10t", labels=("left", "top"), in_chans=1, input_spec={"size": [32, 32]}
    )
    data = module(train_transform=None, eval_transform=None)
    spec = thoraxlib.images.transform_for(model.input_spec)
    data.transforms = dict.fromkeys(data.transforms, spec)
    result = training.fit(model, data, output=tmp_path, epochs=1, **FAST)
    assert same_weights(thoraxlib.load_pretrained(tmp_path / "model"), result.model)


@pytest.mark.parametrize("cache", [False, True])
def test_a_batch_of_a_models_own_transform_is_its_images_one_by_one(cache: bool) -> None:
    transform = thoraxlib.images.transform_for(InputSpec(size=6))
    data = training.DataModule(Images(4), Images(5, seed=1), batch_size=5, cache=cache, eval_transform=transform)
    (batch,) = data.val_dataloader()
    expected = torch.stack([transform(sample)["image"].as_subclass(torch.Tensor) for sample in Images(5, seed=1)])
    assert type(batch["image"]) is torch.Tensor
    assert torch.equal(batch["image"], expected)
    assert batch["id"] == Images(5, seed=1).ids


def test_the_cache_changes_nothing_and_reads_once() -> None:
    plain, cached = (
        training.DataModule(Images(20), Images(8, seed=1), batch_size=8, cache=cache, train_transform=jitter, seed=3)
        for cache in (False, True)
    )
    batches = []
    for data in (plain, cached):
        loader = data.train_dataloader()
        epochs = []
        for epoch in range(2):
            loader.sampler.set_epoch(epoch)
            epochs.append(list(loader))
        batches.append(epochs)
    for one, other in zip(batches[0][1], batches[1][1], strict=True):
        assert torch.equal(one["image"], other["image"])
        assert one["id"] == other["id"]
    assert plain.parts["train"].read == 40
    assert cached.parts["train"].read == 20
    assert not torch.equal(batches[0][0][0]["image"], batches[0][1][0]["image"])
    assert set(batches[0][0][0]) == {"image", "labels", "id", "index"}


def test_workers_change_nothing() -> None:
    batches = [
        list(
            training.DataModule(
                Images(20), Images(8, seed=1), batch_size=8, num_workers=n, train_transform=jitter
            ).train_dataloader()
        )
        for n in (0, 2)
    ]
    assert all(torch.equal(a["image"], b["image"]) for a, b in zip(*batches, strict=True))


def test_errors_of_the_data_module() -> None:
    uneven = Images(4)
    uneven.images = [torch.zeros(1, 8, 8 + index, dtype=torch.uint8) for index in range(4)]
    with pytest.raises(ValueError, match=r"one size.*0-1\.png is \(1, 8, 9\)"):
        training.DataModule(uneven, Images(4, seed=1), cache=True).train_dataloader()
    with pytest.raises(ValueError, match="val holds no image"):
        training.DataModule(Images(4), Images(0, seed=1))
    with pytest.raises(ValueError, match=r"val has the labels \('a', 'b'\)"):
        training.DataModule(Images(4), Images(4, seed=1, labels=("a", "b")))
    uncertain = Images(4)
    uncertain.targets[1, 1] = -1
    with pytest.raises(ValueError, match=r"train has the target -1\.0: from 0 to 1"):
        training.DataModule(uncertain, Images(4, seed=1))
    with pytest.raises(ValueError, match="batch_size=0"):
        training.DataModule(Images(4), Images(4, seed=1), batch_size=0)
    with pytest.warns(UserWarning, match="4 patients of train are also in val"):
        training.DataModule(Images(4), Images(4))


def test_errors_of_a_run(tmp_path: Path) -> None:
    class Wide(Net):
        def __init__(self) -> None:
            super().__init__(outputs=3)

    with pytest.raises(ValueError, match=r"labels are \(16, 2\).*logits \(16, 3\)"):
        training.fit(Wide(), module(), output=tmp_path / "a", **FAST)
    named = Net()
    named.labels = ("left", "bottom", "top")
    with pytest.raises(ValueError, match="the model has 3 labels"):
        training.fit(named, module(), output=tmp_path / "b", **FAST)

    def holes(sample: dict[str, Any]) -> dict[str, Any]:
        sample = to_float(sample)
        return {**sample, "image": sample["image"] + (float("nan") if sample["id"] == "0-7.png" else 0.0)}

    with pytest.raises(ValueError, match=r"0-7\.png: NaN or infinite values"):
        training.fit(Net(), module(train_transform=holes), output=tmp_path / "c", **FAST)
    with pytest.raises(ValueError, match=r"0-7\.png: NaN or infinite values"):
        training.predict(Net(), Images(10), transform=holes, progress=False)
    with pytest.raises(ValueError, match="epoch 0, batch 1: .*diverged"):
        training.fit(Net(), module(), output=tmp_path / "d", **{**FAST, "optimizer": partial(torch.optim.SGD, lr=1e30)})

    def refuses(sample: dict[str, Any]) -> dict[str, Any]:
        raise ValueError("no pixels")

    with pytest.raises(ValueError, match=r"0-\d+\.png: no pixels"):
        training.fit(Net(), module(train_transform=refuses), output=tmp_path / "e", **FAST)
    one_sided = module()
    one_sided.parts["val"].targets[:] = 1
    with pytest.raises(RuntimeError, match="val/auroc.*both classes"):
        training.fit(Net(), one_sided, output=tmp_path / "f", epochs=1, **FAST)
    frozen = Net().requires_grad_(False)
    with pytest.raises(ValueError, match="requires_grad"):
        training.fit(frozen, module(), output=tmp_path / "g", **FAST)


class _Breaks(nn.Module):
    """A loss that is NaN in its seventh batch, whatever the weights."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        self.calls += self.training
        return logits.square().mean() * (float("nan") if self.training and self.calls == 7 else 1.0)


@pytest.mark.parametrize("batches", [1, 3, 50])
def test_a_check_of_the_loss_now_and_then_names_the_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batches: int
) -> None:
    monkeypatch.setattr(task, "CHECK_EVERY", {"cpu": batches})  # as on a GPU
    with pytest.raises(ValueError, match="epoch 1, batch 2: the loss is not finite"):
        training.fit(Net(), module(), output=tmp_path, epochs=2, loss=_Breaks(), **FAST)


class _Lost(Net):
    """Finite in training, NaN for one image of validation."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = super().forward(x)
        if not self.training:
            logits = torch.where(x.mean((1, 2, 3))[:, None] == self.darkest, float("nan"), logits)
        return logits


def test_validation_does_not_hide_lost_logits(tmp_path: Path) -> None:
    model = _Lost()
    images = torch.stack([to_float(sample)["image"] for sample in Images(32, seed=1)])
    means = images.mean((1, 2, 3))
    model.darkest = float(means.min())
    with pytest.raises(ValueError, match=f"1 of 32 validation images are NaN, first of number {int(means.argmin())}:"):
        training.fit(model, module(), output=tmp_path, epochs=1, **FAST)


def test_predict_keeps_order_and_mode() -> None:
    model = Net().train()
    images = Images(10)
    found = training.predict(model, images, transform=to_float, batch_size=4, progress=False)
    assert model.training
    assert found.ids == images.ids
    assert torch.equal(found.targets, images.targets)
    one = training.predict(model, images, transform=to_float, batch_size=1, progress=False)
    torch.testing.assert_close(one.logits, found.logits)
    torch.testing.assert_close(found.probabilities, found.logits.double().sigmoid())
    half = training.predict(model, images, transform=to_float, precision="bf16-mixed", progress=False)
    torch.testing.assert_close(half.logits, found.logits, atol=0.05, rtol=0.05)
    with pytest.raises(ValueError, match="the data set has the labels"):
        training.predict(model, Images(4, labels=("a", "b")), progress=False)


def test_without_the_extra() -> None:
    out = run("sys.modules['lightning'] = None\nimport thoraxlib\nthoraxlib.training")
    assert out.returncode == 1
    assert 'pip install "thoraxlib[train]"' in out.stderr
