"""Training in stages: trained and frozen parts, the hand-over between stages, and interruptions."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("lightning")
sys.path.insert(0, str(Path(__file__).parent))

from lightning.pytorch import Callback
from samples import Images, jitter, to_float

import thoraxlib
from thoraxlib import metrics, training
from thoraxlib.training.recipes import ORDERS, _every_15

HERE = Path(__file__).parent
ADAM = partial(torch.optim.Adam, lr=0.02)
FAST = {"accelerator": "cpu", "progress": False}
PARTS = ("global_branch", "local_branch", "head")


class Outputs(NamedTuple):
    logits: Tensor
    global_logits: Tensor
    local_logits: Tensor


def branch() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 4, 4), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.1), nn.Linear(16, 2)
    )


class Net(nn.Module):
    """Two branches and a layer over their logits, with AG-CNN's names."""

    def __init__(self, detach: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.labels = ("left", "top")
        self.global_branch, self.local_branch, self.head = branch(), branch(), nn.Linear(4, 2)
        self.detach = detach

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_all(x).logits

    def forward_all(self, x: Tensor) -> Outputs:
        both = self.global_branch(x), self.local_branch(x)
        seen = torch.cat(both, dim=1)
        return Outputs(self.head(seen.detach() if self.detach else seen), *both)

    def global_logits(self, x: Tensor) -> Tensor:
        return self.global_branch(x)

    def local_logits(self, x: Tensor) -> Tensor:
        return self.local_branch(x)


def module(**options: Any) -> training.DataModule:
    options = {"batch_size": 16, "train_transform": jitter, "eval_transform": to_float, **options}
    return training.DataModule(Images(64), Images(32, seed=1), **options)


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


def differing(a: dict[str, Tensor], b: dict[str, Tensor]) -> set[str]:
    return {key.split(".")[0] for key in a if not torch.equal(a[key], b[key])}


def stages(order: str = "G_L_F", epochs: Any = 2) -> list[training.Stage]:
    return training.ag_cnn_stages(order, epochs=epochs, batch_size=8, optimizer=ADAM, scheduler=None)


class Watch(Callback):
    """Records the parts that a stage changes, and their mode."""

    def __init__(self) -> None:
        self.changed: list[set[str]] = []
        self.training: list[set[str]] = []
        self.batches: list[int] = []

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.before = weights(pl_module.model.model)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.seen = {name for name, part in pl_module.model.model.named_children() if part.training}
        self.size = len(batch["image"])

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.changed.append(differing(self.before, weights(pl_module.model.model)))
        self.training.append(self.seen)
        self.batches.append(self.size)


@pytest.mark.parametrize(
    ("order", "expected", "batches"),
    [
        ("G_L_F", [{"global_branch"}, {"local_branch"}, {"head"}], [16, 8, 8]),
        ("G_L_F*", [{"global_branch"}, {"local_branch"}, {*PARTS}], [16, 8, 8]),
        ("G_LF", [{"global_branch"}, {"local_branch", "head"}], [16, 8]),
        ("GL_F", [{"global_branch", "local_branch"}, {"head"}], [8, 8]),
        ("GLF", [{*PARTS}], [8]),
    ],
)
def test_each_stage_changes_its_parts_only(
    tmp_path: Path, order: str, expected: list[set[str]], batches: list[int]
) -> None:
    model, watch, data = Net(detach=not order.endswith("*")), Watch(), module()
    model.head.bias.requires_grad_(False)
    results = training.fit_stages(model, data, stages(order), output=tmp_path, callbacks=[watch], **FAST)
    assert watch.changed == watch.training == expected
    assert watch.batches == batches
    assert data.batch_size == 16
    assert all(result.model is model for result in results)
    assert not model.training
    assert [p.requires_grad for p in model.parameters()].count(False) == 1
    found = training.predict(model, Images(32, seed=1), transform=to_float, progress=False)
    assert metrics.auroc(found.targets, found.logits).mean() == pytest.approx(results[-1].score, abs=1e-6)


def test_the_best_epoch_is_handed_over(tmp_path: Path) -> None:
    """A rate that first learns and then destroys: the next stage does not begin with the last epoch."""
    plan = stages(epochs=[5, 1, 1])
    plan[0] = training.Stage(
        name="global",
        trained=["global_branch"],
        output="global_logits",
        epochs=5,
        optimizer=ADAM,
        scheduler=partial(torch.optim.lr_scheduler.LambdaLR, lr_lambda=_destroys),
    )
    model = Net()
    results = training.fit_stages(model, module(), plan, output=tmp_path, **FAST)
    assert results[0].epoch < 4
    best, last = (
        torch.load(tmp_path / "1_global" / "checkpoints" / f"{name}.ckpt", weights_only=True)["state_dict"]
        for name in ("best", "last")
    )
    own = {f"model.model.{key}": value for key, value in model.state_dict().items() if key.startswith("global_branch.")}
    assert all(torch.equal(best[key], value) for key, value in own.items())
    assert not all(torch.equal(last[key], value) for key, value in own.items())


def _destroys(epoch: int) -> float:
    return 1.0 if epoch < 3 else 200.0


class Kill(Callback):
    """The power fails in the third epoch of the second stage."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if pl_module.model.stage.name == "local" and trainer.current_epoch == 2 and batch_idx == 1:
            os.kill(os.getpid(), signal.SIGKILL)


def run_stages(output: str | Path, *callbacks: Callback) -> tuple[nn.Module, list[training.FitResult]]:
    model = Net()
    return model, training.fit_stages(model, module(), stages(epochs=4), output=output, callbacks=callbacks, **FAST)


KILLED = "import test_stages\ntest_stages.run_stages(sys.argv[1], test_stages.Kill())"


def test_a_run_killed_in_the_second_stage_resumes_there_to_the_same_weights(tmp_path: Path) -> None:
    code = f"import sys; sys.path.insert(0, {str(HERE)!r})\n{KILLED}"
    killed = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a")], capture_output=True, text=True, timeout=900
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert torch.load(tmp_path / "a" / "2_local" / "checkpoints" / "last.ckpt", weights_only=True)["epoch"] == 1
    assert not (tmp_path / "a" / "3_fusion").exists()
    first = (tmp_path / "a" / "1_global" / "checkpoints" / "last.ckpt").read_bytes()
    watch = Watch()
    (resumed, parts), (whole, others) = run_stages(tmp_path / "a", watch), run_stages(tmp_path / "b")
    assert (tmp_path / "a" / "1_global" / "checkpoints" / "last.ckpt").read_bytes() == first
    assert watch.changed[-2:] == [{"local_branch"}, {"head"}]
    assert [(part.score, part.epoch) for part in parts] == [(part.score, part.epoch) for part in others]
    assert not differing(weights(resumed), weights(whole))
    again, _ = run_stages(tmp_path / "a")
    assert not differing(weights(again), weights(whole))


def test_a_stage_does_not_go_on_from_another_start(tmp_path: Path) -> None:
    training.fit_stages(Net(), module(), stages(epochs=1), output=tmp_path, **FAST)
    for name in ("last", "best"):
        (tmp_path / "1_global" / "checkpoints" / f"{name}.ckpt").unlink()
    other = Net()
    nn.init.constant_(other.global_branch[0].bias, 0.5)
    with pytest.raises(ValueError, match=r"2_local holds a run with other settings \(model=.*start"):
        training.fit_stages(other, module(), stages(epochs=1), output=tmp_path, **FAST)
    anew = training.fit_stages(other, module(), stages(epochs=1), output=tmp_path, resume=False, **FAST)
    assert [result.trainer.current_epoch for result in anew] == [1, 1, 1]


def _begin(model: nn.Module) -> None:
    nn.init.constant_(model.head.weight, 0.25)


def test_a_stage_is_prepared_and_a_finished_one_stays_as_it_is(tmp_path: Path) -> None:
    class Start(Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            seen.append(pl_module.model.model.head.weight.detach().clone())

    seen: list[Tensor] = []
    plan = stages(epochs=1)
    plan[-1] = replace(plan[-1], prepare=_begin)
    model, again = Net(), Net()
    training.fit_stages(model, module(), plan, output=tmp_path, callbacks=[Start()], **FAST)
    assert torch.equal(seen[-1], torch.full((2, 4), 0.25))
    assert not torch.equal(seen[0], seen[-1])
    training.fit_stages(again, module(), plan, output=tmp_path, **FAST)
    assert not differing(weights(model), weights(again))


def test_rates_of_parts(tmp_path: Path) -> None:
    plan = training.ag_cnn_stages("joint", epochs=1, batch_size=16)
    model = Net()
    before = weights(model)
    (result,) = training.fit_stages(model, module(), plan, output=tmp_path, **FAST)
    groups = result.trainer.optimizers[0].param_groups
    assert [group["lr"] for group in groups] == [1e-8, 1e-8, 1e-3]
    assert [len(group["params"]) for group in groups] == [6, 6, 2]
    moved = {key: float((value.detach() - before[key]).abs().max()) for key, value in model.named_parameters()}
    slow = [moved[key] for key in moved if not key.startswith("head")]
    assert 0 < max(slow) <= 1e-7  # four steps of 1e-8, rounded
    assert moved["head.weight"] > 1e-3
    assert [_every_15(epoch) for epoch in (0, 14, 15, 30)] == pytest.approx([1, 1, 0.1, 0.01])


def test_a_joint_loss_is_the_weighted_sum(tmp_path: Path) -> None:
    """One step of plain gradient descent moves each part by its own loss's gradient, times its weight."""
    weight = {"global_logits": 0.8, "local_logits": 0.1, "logits": 0.1}
    stage = training.Stage(
        name="joint", losses=weight, epochs=1, batch_size=64, optimizer=partial(torch.optim.SGD, lr=1.0)
    )
    assert training.ag_cnn_stages("joint")[0].losses == weight
    model, alone = Net(), Net()
    for net in (model, alone):
        net.global_branch[4].p = net.local_branch[4].p = 0.0
    training.fit_stages(model, module(train_transform=to_float), [stage], output=tmp_path, **FAST)
    x = torch.stack([to_float(sample)["image"] for sample in Images(64)])
    loss = nn.functional.binary_cross_entropy_with_logits
    for (name, part), share in zip(weight.items(), ("global_branch", "local_branch", "head"), strict=True):
        loss(getattr(alone.train().forward_all(x), name), Images(64).targets).backward()
        for own, trained in zip(getattr(alone, share).parameters(), getattr(model, share).parameters(), strict=True):
            torch.testing.assert_close(trained, own - part * own.grad, rtol=1e-4, atol=1e-6)


def test_the_paper_s_settings() -> None:
    plan = training.ag_cnn_stages()
    assert [stage.name for stage in plan] == ["global", "local", "fusion"]
    assert [stage.batch_size for stage in plan] == [128, 64, 64]
    assert all(stage.epochs == 50 and stage.scheduler == {"name": "multistep", "milestones": [20]} for stage in plan)
    optimizer = plan[0].optimizer([nn.Parameter(torch.zeros(1))])
    assert [optimizer.defaults[key] for key in ("lr", "momentum", "weight_decay")] == [0.01, 0.9, 1e-4]
    assert [stage.batch_size for stage in training.ag_cnn_stages(batch_size=32)] == [64, 32, 32]
    for order in ORDERS:
        assert training.ag_cnn_stages(order)[-1].output == "logits"
    with pytest.raises(ValueError, match="order='L_G'.*'G_L_F'"):
        training.ag_cnn_stages("L_G")
    with pytest.raises(ValueError, match="'G_LF' has 2 stages"):
        training.ag_cnn_stages("G_LF", epochs=[1, 2, 3])


def test_errors(tmp_path: Path) -> None:
    def run(*plan: training.Stage, model: nn.Module | None = None) -> None:
        training.fit_stages(model or Net(), module(), plan, output=tmp_path, **FAST)

    with pytest.raises(ValueError, match="at least one is needed"):
        run()
    with pytest.raises(ValueError, match="a name of its own"):
        run(training.Stage(name="a"), training.Stage(name="a"))
    with pytest.raises(ValueError, match="stage 'a': Net has no such part: .*tail"):
        run(training.Stage(name="a", trained=["tail"]))
    with pytest.raises(ValueError, match=r"rates are of parts in trained, \['head'\], not of \['body'\]"):
        run(training.Stage(name="a", trained=["head"], rates={"body": 1.0}))
    model = Net()
    with pytest.raises(ValueError, match="stage 'a' trains 'local_branch', but no gradient of its loss gets there"):
        run(training.Stage(name="a", trained=["head", "local_branch"], epochs=1), model=model)
    assert all(p.requires_grad for p in model.parameters())


def test_ag_cnn_itself(tmp_path: Path) -> None:
    model = thoraxlib.build(
        "ag_cnn", backbone="resnet10t", labels=("left", "top"), in_chans=1, input_spec={"size": [32, 32]}
    )
    data = module(train_transform=None, eval_transform=None)
    data.transforms = dict.fromkeys(data.transforms, thoraxlib.images.transform_for(model.input_spec))
    watch = Watch()
    plan = training.ag_cnn_stages(epochs=1, batch_size=None, optimizer=partial(torch.optim.Adam, lr=1e-3))
    results = training.fit_stages(model, data, plan, output=tmp_path, callbacks=[watch], channels_last=True, **FAST)
    assert watch.changed == watch.training == [{name} for name in PARTS]
    assert not differing(weights(thoraxlib.load_pretrained(tmp_path / "model")), weights(model))
    before = weights(model)
    thoraxlib.load_checkpoint(model, results[0].path, labels=model.labels)
    assert differing(before, weights(model)) == {"local_branch", "head"}
