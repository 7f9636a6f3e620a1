"""Interrupted, prolonged and doubled runs: the weights of an uninterrupted run, or a clear error."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau, StepLR

pytest.importorskip("lightning")
sys.path.insert(0, str(Path(__file__).parent))

from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from samples import Images, Net, jitter, to_float

from thoraxlib import training
from thoraxlib.training import processes
from thoraxlib.utils.files import locked

HERE = Path(__file__).parent
SGD = partial(torch.optim.SGD, lr=0.5, momentum=0.9)
SCHEDULES: dict[str, Any] = {
    "none": None,
    "onecycle": "onecycle",
    "cosine": "cosine",
    "plateau": "plateau",
    "plateau_options": {"name": "plateau", "factor": 0.5, "patience": 0, "threshold": 0.9},
    "multistep": {"name": "multistep", "milestones": [2]},
    "exponential": "exponential",
    "warmup": {"name": "warmup", "total_iters": 6},
    "callable": partial(StepLR, step_size=1, gamma=0.5),
    "callable_plateau": partial(ReduceLROnPlateau, patience=0, threshold=0.9),
}


def run(output: Path, *callbacks: Callback, **options: Any) -> training.FitResult:
    data = training.DataModule(
        Images(24), Images(16, seed=1), batch_size=8, train_transform=jitter, eval_transform=to_float
    )
    options = {"epochs": 4, "monitor": "val/loss", "optimizer": SGD, **options}
    return training.fit(Net(), data, output=output, accelerator="cpu", progress=False, callbacks=callbacks, **options)


def last(output: Path) -> dict[str, Any]:
    return torch.load(output / "checkpoints" / "last.ckpt", weights_only=True)


def same(a: Path, b: Path) -> bool:
    """Return True if two runs ended alike: weights, optimizer, schedule, and the best epoch."""
    one, other = last(a), last(b)
    moments = [list(state["optimizer_states"][0]["state"].values()) for state in (one, other)]
    rates = [state["optimizer_states"][0]["param_groups"][0]["lr"] for state in (one, other)]
    plans = [[{**plan, "best": 0} for plan in state["lr_schedulers"]] for state in (one, other)]
    assert one["epoch"] == other["epoch"]
    assert rates[0] == rates[1]
    assert plans[0] == plans[1]
    best = [torch.load(path / "checkpoints" / "best.ckpt", weights_only=True) for path in (a, b)]
    assert best[0]["epoch"] == best[1]["epoch"]
    return all(
        torch.equal(x, y)
        for first, second in [
            (one["state_dict"], other["state_dict"]),
            (best[0]["state_dict"], best[1]["state_dict"]),
            *[(x, y) for x, y in zip(*moments, strict=True)],
        ]
        for x, y in zip(first.values(), second.values(), strict=True)
        if isinstance(x, torch.Tensor)
    )


class Stop(Callback):
    """The run ends in an epoch, at a hook."""

    def __init__(self, epoch: int, hook: str, at: int = 0) -> None:
        def stop(trainer: Any, *arguments: Any) -> None:
            batch = arguments[2] if len(arguments) > 2 else at
            if trainer.current_epoch == epoch and batch == at:
                raise InterruptedError

        setattr(self, hook, stop)


INTERRUPTIONS = [
    ("in an epoch", lambda: Stop(1, "on_train_batch_start", 1)),
    ("after validation", lambda: Stop(2, "on_validation_end")),
    ("between epochs", lambda: Stop(3, "on_train_epoch_start")),
]


@pytest.mark.parametrize("name", SCHEDULES)
def test_interrupted_in_three_ways_it_ends_as_it_would_have(tmp_path: Path, name: str) -> None:
    whole = run(tmp_path / "whole", scheduler=SCHEDULES[name])
    for _, interruption in INTERRUPTIONS:
        with pytest.raises(InterruptedError):
            run(tmp_path / "cut", interruption(), scheduler=SCHEDULES[name])
    resumed = run(tmp_path / "cut", scheduler=SCHEDULES[name])
    assert same(tmp_path / "whole", tmp_path / "cut")
    assert (resumed.score, resumed.epoch) == (whole.score, whole.epoch)
    if name in ("plateau_options", "callable_plateau"):  # they had something to do
        assert last(tmp_path / "whole")["optimizer_states"][0]["param_groups"][0]["lr"] < 0.5


@pytest.mark.parametrize("scheduler", ["plateau", lambda optimizer: ReduceLROnPlateau(optimizer, "max", patience=0)])
def test_a_plateau_steps_once_in_each_epoch(tmp_path: Path, scheduler: Any) -> None:
    result = run(tmp_path, scheduler=scheduler, monitor="val/auroc", epochs=3)
    assert result.trainer.lr_scheduler_configs[0].scheduler.last_epoch == 3


def test_a_plateau_with_the_wrong_mode_warns(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="the min of val/auroc, of which the max is the best"):
        run(tmp_path, scheduler=ReduceLROnPlateau, monitor="val/auroc", epochs=1)


@pytest.mark.parametrize("name", [name for name in SCHEDULES if name not in ("onecycle", "cosine")])
def test_more_epochs_go_on_where_the_schedule_does_not_know_their_number(tmp_path: Path, name: str) -> None:
    run(tmp_path / "grown", epochs=1, scheduler=SCHEDULES[name])
    grown, once = (run(tmp_path / folder, epochs=3, scheduler=SCHEDULES[name]) for folder in ("grown", "once"))
    assert same(tmp_path / "grown", tmp_path / "once")
    assert (grown.score, grown.epoch) == (once.score, once.epoch)
    configs = [json.loads((tmp_path / folder / "config.json").read_text()) for folder in ("grown", "once")]
    assert configs[0] == configs[1]
    assert (tmp_path / "grown" / "logs" / "metrics.csv").read_text() == (
        tmp_path / "once" / "logs" / "metrics.csv"
    ).read_text()


@pytest.mark.parametrize("scheduler", ["onecycle", "cosine", {"name": "cosine", "eta_min": 0.1}])
def test_more_epochs_are_refused_where_it_does(tmp_path: Path, scheduler: Any) -> None:
    run(tmp_path, epochs=1, scheduler=scheduler)
    before = last(tmp_path)["state_dict"]
    with pytest.raises(ValueError, match="epochs=1 before, 2 now, and the schedule depends on it.*resume=False"):
        run(tmp_path, epochs=2, scheduler=scheduler)
    assert all(torch.equal(value, before[key]) for key, value in last(tmp_path)["state_dict"].items())


def test_fewer_epochs_than_are_done_are_refused(tmp_path: Path) -> None:
    run(tmp_path, epochs=3)
    with pytest.raises(ValueError, match="epochs=3 before, 2 now, and 3 are done"):
        run(tmp_path, epochs=2)


def test_a_stage_that_another_began_with_has_no_more_epochs(tmp_path: Path) -> None:
    def stages(first: int, second: int) -> list[training.FitResult]:
        data = training.DataModule(Images(16), Images(16, seed=1), batch_size=8, train_transform=to_float)
        data.transforms = dict.fromkeys(data.transforms, to_float)
        plan = [
            training.Stage(name="one", trained=["body"], epochs=first),
            training.Stage(name="two", trained=["fc"], epochs=second),
        ]
        return training.fit_stages(Net(), data, plan, output=tmp_path, accelerator="cpu", progress=False)

    stages(1, 1)
    first = (tmp_path / "1_one" / "checkpoints" / "last.ckpt").read_bytes()
    with pytest.raises(ValueError, match="epochs=1 before, 2 now.*the next stage began with its weights"):
        stages(2, 1)
    assert (tmp_path / "1_one" / "checkpoints" / "last.ckpt").read_bytes() == first
    assert stages(1, 2)[-1].trainer.current_epoch == 2


class Second(Callback):
    """Begins another run in the folder of this one."""

    def __init__(self, begin: Callable[[], Any]) -> None:
        self.begin, self.error = begin, ""

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        with pytest.raises(ValueError, match="another process is writing"):
            self.begin()
        self.error = "seen"


@pytest.mark.parametrize("resume", [True, False])
def test_two_runs_do_not_write_to_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resume: bool) -> None:
    monkeypatch.setattr(processes, "_LINGERING", 0)
    second = Second(lambda: run(tmp_path / "a", resume=resume))
    whole = run(tmp_path / "b")
    assert run(tmp_path / "a", second).score == whole.score
    assert second.error
    assert same(tmp_path / "a", tmp_path / "b")
    assert run(tmp_path / "a").score == whole.score  # free again


def test_a_lock_that_a_killed_run_leaves_for_some_seconds_is_waited_for(tmp_path: Path) -> None:
    """Processes that load images hold it until they see that the run is gone."""
    held, free = threading.Event(), threading.Event()

    def hold() -> None:
        with locked(tmp_path):
            held.set()
            free.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(60)
    threading.Timer(0.3, free.set).start()
    assert run(tmp_path, epochs=1).epoch == 0
    thread.join()


OTHER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import test_resume
from thoraxlib.training import processes
processes._LINGERING = 0
test_resume.run(Path(sys.argv[1]))
"""


def test_another_process_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    class Launch(Callback):
        done: subprocess.CompletedProcess[str]

        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            if trainer.current_epoch == 1:
                command = [sys.executable, "-c", OTHER, str(tmp_path / "a"), str(HERE)]
                self.done = subprocess.run(command, capture_output=True, text=True, timeout=600)

    launch = Launch()
    run(tmp_path / "a", launch)
    run(tmp_path / "b")
    assert launch.done.returncode == 1
    assert "ValueError: another process is writing to" in launch.done.stderr
    assert same(tmp_path / "a", tmp_path / "b")
    tables = [(tmp_path / folder / "logs" / "metrics.csv").read_text() for folder in ("a", "b")]
    assert tables[0] == tables[1]


def test_scratch_files_of_killed_runs_are_removed(tmp_path: Path) -> None:
    left = tmp_path / "checkpoints" / ".last.0123456789abcdef.part.ckpt"
    left.parent.mkdir()
    left.write_bytes(b"half a checkpoint")
    run(tmp_path)
    assert sorted(path.name for path in left.parent.iterdir()) == ["best.ckpt", "last.ckpt"]


class Counted(Callback):
    """Counts batches over all of a run, and keeps the count in its checkpoints."""

    def __init__(self) -> None:
        self.batches = 0

    def on_train_batch_end(self, *_: Any) -> None:
        self.batches += 1

    def state_dict(self) -> dict[str, Any]:
        return {"batches": self.batches}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.batches = state_dict["batches"]


def several(folder: Path) -> list[Callback]:
    """Two top-k checkpoints of one score, which is the run's; two counts; two early stops."""
    name = "{epoch}-{step}"
    return [
        ModelCheckpoint(folder / "top2", filename=name, monitor="val/loss", mode="min", save_top_k=2),
        ModelCheckpoint(folder / "all", filename=name, monitor="val/loss", mode="min", save_top_k=-1),
        ModelCheckpoint(folder / "newest", filename=name),
        Counted(),
        Counted(),
        EarlyStopping("val/loss", patience=50),
        EarlyStopping("val/loss", patience=60),
    ]


def test_several_callbacks_of_one_class(tmp_path: Path) -> None:
    ends = {}
    for name in ("whole", "cut"):
        if name == "cut":
            with pytest.raises(InterruptedError):
                run(tmp_path / name, *several(tmp_path / name), Stop(2, "on_train_batch_start", 1))
        callbacks = several(tmp_path / name)
        result = run(tmp_path / name, *callbacks)
        assert isinstance(callbacks[1], ModelCheckpoint)
        assert [callback.batches for callback in callbacks[3:5]] == [12, 12]
        kept = {
            part: sorted(path.name for path in (tmp_path / name / part).iterdir()) for part in ("top2", "all", "newest")
        }
        ends[name] = kept, callbacks[0].best_model_score, [callback.wait_count for callback in callbacks[5:]]
        assert len(kept["top2"]) == 2
        assert len(kept["all"]) == 4
        assert float(callbacks[0].best_model_score) == result.score
    assert ends["whole"] == ends["cut"]
    assert same(tmp_path / "whole", tmp_path / "cut")
    run(tmp_path / "again", *callbacks, epochs=1)  # the same objects


def test_a_callback_without_a_folder_writes_under_the_logs(tmp_path: Path) -> None:
    for loggers in (("csv",), ()):
        run(tmp_path, ModelCheckpoint(save_last=True), epochs=1, loggers=loggers, resume=False)
        assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
    assert (tmp_path / "logs" / "checkpoints" / "last.ckpt").exists()


@pytest.mark.slow
def test_a_compiled_network_leaves_the_files_of_the_plain_one(tmp_path: Path) -> None:
    import thoraxlib

    images = {"train": Images(8), "val": Images(8, seed=1)}

    def trained(folder: str, compiled: str, epochs: int, *callbacks: Callback) -> tuple[nn.Module, training.FitResult]:
        torch.manual_seed(0)
        spec = {"size": [32, 32]}
        model = thoraxlib.build("classifier", backbone="resnet10t", labels=("left", "top"), in_chans=1, input_spec=spec)
        transform = thoraxlib.images.transform_for(model.input_spec)
        data = training.DataModule(**images, batch_size=8, train_transform=transform, eval_transform=transform)
        given: Any = torch.compile(model, backend="eager") if compiled == "whole" else model
        if compiled == "part":
            model.backbone = torch.compile(model.backbone, backend="eager")
        options = {"output": tmp_path / folder, "epochs": epochs, "accelerator": "cpu", "progress": False}
        result = training.fit(given, data, callbacks=callbacks, **options)
        assert result.model is given
        assert not model.training
        return model, result

    plain, _ = trained("plain", "", 2)
    model, _ = trained("compiled", "whole", 2)
    files = [sorted(path.name for path in (tmp_path / name / "model").iterdir()) for name in ("plain", "compiled")]
    assert files[0] == files[1]
    for name in ("best", "last"):
        states = [
            torch.load(tmp_path / folder / "checkpoints" / f"{name}.ckpt", weights_only=True)["state_dict"]
            for folder in ("plain", "compiled")
        ]
        assert list(states[0]) == list(states[1])
    saved = thoraxlib.load_pretrained(tmp_path / "compiled" / "model").state_dict()
    assert all(torch.equal(value, saved[key]) for key, value in model.state_dict().items())
    thoraxlib.load_checkpoint(plain, tmp_path / "compiled" / "checkpoints" / "best.ckpt", labels=plain.labels)
    # begun compiled, gone on with a part of it compiled, and plain
    trained("mixed", "whole", 1)
    trained("mixed", "part", 2)
    _, result = trained("mixed", "", 3)
    assert result.trainer.current_epoch == 3
    assert not any("_orig_mod" in key for key in last(tmp_path / "mixed")["state_dict"])


def test_stages_of_a_compiled_network(tmp_path: Path) -> None:
    plan = [training.Stage(name="one", trained=["fc"], epochs=1), training.Stage(name="two", epochs=1)]
    for name in ("plain", "compiled"):
        data = training.DataModule(Images(16), Images(16, seed=1), batch_size=8, train_transform=to_float)
        data.transforms = dict.fromkeys(data.transforms, to_float)
        model: Any = Net() if name == "plain" else torch.compile(Net(), backend="eager")
        results = training.fit_stages(model, data, plan, output=tmp_path / name, accelerator="cpu", progress=False)
        assert results[-1].model is model
    for stage in ("1_one", "2_two"):
        one, other = (last(tmp_path / name / stage)["state_dict"] for name in ("plain", "compiled"))
        assert list(one) == list(other)
        assert all(torch.allclose(one[key], other[key], atol=1e-5) for key in one)
    config = [(tmp_path / name / "1_one" / "config.json").read_text() for name in ("plain", "compiled")]
    assert config[0] == config[1]
