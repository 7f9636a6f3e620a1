"""Train a model in one call: best and last checkpoints, resuming, early stopping, logs, the best weights at the end."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Generic

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn
from torch.optim import Optimizer
from typing_extensions import TypeVar

from thoraxlib.checkpoints.saving import can_be_saved, save_pretrained
from thoraxlib.detection import RegionDetector
from thoraxlib.registry import Spec
from thoraxlib.segmentation import Segmenter
from thoraxlib.training.data import DataModule
from thoraxlib.training.processes import is_first_process, only_run
from thoraxlib.training.resume import (
    BatchSeed,
    EpochTable,
    Patience,
    WholeFiles,
    begin,
    distinct,
    identity,
    of_run,
    quiet,
)
from thoraxlib.training.schedules import Schedule, of_whole_run
from thoraxlib.training.task import Task, as_named
from thoraxlib.training.tasks import DetectionTask, MultiLabelTask, RegionTask, SegmentationTask
from thoraxlib.utils.arguments import one_of
from thoraxlib.utils.files import discard_scratch
from thoraxlib.utils.modes import uncompiled

M = TypeVar("M", bound=nn.Module, default=nn.Module)


@dataclass(frozen=True)
class FitResult(Generic[M]):
    """Result of :func:`fit`.

    Attributes
    ----------
    model : nn.Module
        The given model, with the weights of the best epoch, in eval mode.
    score : float
        The best value of `monitor`.
    epoch : int
        The epoch that had it, from 0.
    path : Path
        Lightning's checkpoint of that epoch.
    trainer : Trainer
        Lightning's trainer.
    """

    model: M
    score: float
    epoch: int
    path: Path
    trainer: Trainer


def fit(
    model: M,
    data: DataModule,
    *,
    output: str | os.PathLike[str],
    epochs: int = 10,
    task: Callable[..., Task] | None = None,
    loss: Spec | nn.Module | None = None,
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer] | None = None,
    scheduler: Schedule = None,
    monitor: str | None = None,
    mode: str | None = None,
    patience: int | None = None,
    accumulate: int = 1,
    gradient_clip: float | None = None,
    max_steps: int = -1,
    precision: str = "32-true",
    accelerator: str = "auto",
    devices: int | str | Sequence[int] = "auto",
    num_nodes: int = 1,
    strategy: str = "auto",
    channels_last: bool = False,
    loggers: Sequence[str] = ("csv",),
    callbacks: Sequence[Callback] = (),
    progress: bool = True,
    resume: bool = True,
    seed: int = 0,
) -> FitResult[M]:
    """Train `model` on `data` and return it with the weights of its best epoch.

    `output` receives ``checkpoints/best.ckpt`` and ``checkpoints/last.ckpt`` (after each epoch), ``config.json``, logs,
    and ``model/`` (see :func:`thoraxlib.save_pretrained`) for models of the registry. If the run is interrupted, the
    same call resumes it after the last complete epoch and, on one kind of machine, ends with the same weights as an
    uninterrupted run. So does a call with more `epochs`, unless the schedule depends on their number. Only one run at a
    time may write to `output`. Labels that cannot be learned or scored raise before the first epoch.

    Parameters
    ----------
    model : nn.Module
        Returns logits (N, K); trained in place. A compiled one (``torch.compile``) is saved as the original model.
    data : DataModule
        Its labels must be the model's.
    output : path
        Folder of the run.
    epochs, max_steps : int
        Passes over the data, and the largest number of optimizer steps (-1: no limit).
    task : callable, optional
        A subclass of :class:`Task`; by default :class:`SegmentationTask` for segmenters, :class:`DetectionTask` for
        detectors of regions, :class:`RegionTask` for other models with ``region_names``, and :class:`MultiLabelTask`
        for all others.
    loss, optimizer, scheduler, monitor, mode, channels_last
        See the task, which has the defaults. The epoch with the best `monitor` is kept: ``"val/auroc"``,
        ``"val/loss"``, ``"val/average_precision"``, ``"val/dice"``, ``"val/iou"``, or a score that a callback logs.
    patience : int, optional
        Stop after so many epochs without improvement of `monitor`.
    accumulate : int
        Batches for each optimizer step.
    gradient_clip : float, optional
        Largest norm of the gradient.
    precision, accelerator, devices, num_nodes, strategy
        Lightning's: ``"bf16-mixed"``, ``"gpu"``, ``2``, ``1``, ``"ddp"``, ... Each device takes batches of the data
        module's size. Only the first process writes; all of them return the same model and score.
    loggers : sequence of {"csv", "tensorboard"}
        Loggers of the scores, which write to ``output/logs``.
    callbacks : sequence of Callback
        Further Lightning callbacks, also several of one class, such as ``ModelCheckpoint`` for the best three epochs.
        Those without a ``dirpath`` write to ``output/logs``. In a resumed run, pass them in the same order.
    progress : bool
        Show a progress bar.
    resume : bool
        Resume from ``last.ckpt`` if there is one. False starts again and removes the earlier run's checkpoints.
    seed : int
        Random seed of dropout and the like; the order of the images has the data module's.

    Returns
    -------
    FitResult
        The model, its score, and the checkpoint of its best epoch.

    Raises
    ------
    ValueError
        Model and data have different labels or regions; labels cannot be learned or scored, such as those that are
        unknown in all images; a resumed run had other settings; another run is writing to `output`; arguments out of
        range.
    RuntimeError
        `monitor` cannot be, or never was, finite after a whole epoch, so that there is no best one.

    Warns
    -----
    UserWarning
        Labels that are unknown in every image of the training or the validation part.
    """
    plain = uncompiled(model)
    labels = getattr(plain, "labels", None)
    if labels is not None and tuple(labels) != data.labels:
        raise ValueError(
            f"the model has {len(labels)} labels {tuple(labels)}, the data {len(data.labels)} {data.labels}: build one "
            "with labels= of the other"
        )
    if epochs < 1 or accumulate < 1:
        raise ValueError(f"epochs={epochs}, accumulate={accumulate}: at least 1 of each is needed")
    for name in loggers:
        one_of("loggers", name, ("csv", "tensorboard"))
    output = Path(output)
    checkpoints = output / "checkpoints"
    last, best = checkpoints / "last.ckpt", checkpoints / "best.ckpt"
    training = (task or _default_task(plain))(
        model,
        loss=loss,
        optimizer=optimizer,
        scheduler=scheduler,
        monitor=monitor,
        mode=mode,
        channels_last=channels_last,
    )
    monitor, mode = training.monitor, training.mode
    _check_monitors(training, callbacks)
    training.check(data)
    settings = {
        **identity(plain, data),
        "epochs": epochs,
        "max_steps": max_steps,
        "loss": training.loss_spec,
        "optimizer": optimizer,
        "scheduler": scheduler,
        "monitor": [monitor, mode],
        "patience": patience,
        "accumulate": accumulate,
        "gradient_clip": gradient_clip,
        "precision": precision,
        "seed": seed,
    }
    keep = partial(ModelCheckpoint, dirpath=checkpoints, enable_version_counter=False, auto_insert_metric_name=False)
    of_best = keep(filename="best", monitor=monitor, mode=mode)
    of_last = keep(filename="last", save_on_train_epoch_end=True)
    stopping = [] if patience is None else [Patience(monitor, mode=mode, patience=patience)]
    distinct([of_best, of_last, *stopping, *callbacks])
    with only_run(output), quiet():
        if is_first_process():  # of runs that were killed while they wrote a checkpoint
            discard_scratch(checkpoints)
        done = begin(output, settings, last, best, resume=resume, growing=not of_whole_run(training.scheduler))
        trainer = Trainer(
            accelerator=accelerator,
            devices=1 if accelerator == "cpu" and devices == "auto" else devices,
            num_nodes=num_nodes,
            strategy=strategy,
            precision=precision,  # type: ignore[arg-type, unused-ignore]
            max_epochs=epochs,
            max_steps=max_steps,
            accumulate_grad_batches=accumulate,
            gradient_clip_val=gradient_clip,
            logger=[
                EpochTable(output, done) if name == "csv" else TensorBoardLogger(output, name="logs", version="")
                for name in loggers
            ],
            # the checkpoint of the last epoch is written last, so that it has the state of all other callbacks
            callbacks=[of_best, BatchSeed(seed), *callbacks, *stopping, of_last],
            plugins=[WholeFiles()],
            default_root_dir=output / "logs",
            enable_progress_bar=progress,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            log_every_n_steps=1,
        )
        trainer.fit(training, datamodule=data, ckpt_path=str(last) if done >= 0 else None)
        if trainer.interrupted:
            raise KeyboardInterrupt
        return _best(model, trainer, of_best, best, output, monitor)


def _default_task(model: nn.Module) -> type[Task]:
    if isinstance(model, Segmenter):
        return SegmentationTask
    if isinstance(model, RegionDetector):
        return DetectionTask
    return RegionTask if hasattr(model, "region_names") else MultiLabelTask


def _check_monitors(task: Task, callbacks: Sequence[Callback]) -> None:
    """Raise for a monitored score that is never logged, if all classes that log are known."""
    known = ("thoraxlib.", "lightning.")
    if not all(type(each).__module__.startswith(known) for each in (task, *callbacks)):
        return
    one_of("monitor", task.monitor, task.scores)
    for each in callbacks:
        if getattr(each, "monitor", None) is not None:
            one_of(f"monitor of {type(each).__name__}", each.monitor, (*task.scores, "epoch", "step"))


def _best(model: M, trainer: Trainer, kept: ModelCheckpoint, path: Path, output: Path, monitor: str) -> FitResult[M]:
    """Load the weights of the best epoch, and save the model."""
    # read the file, not the callback: the strategy may have run it in other processes
    state = of_run(path) if path.exists() else None
    score = None if state is None else state["callbacks"][kept.state_key]["best_model_score"]
    if state is None or score is None or not bool(torch.as_tensor(score).isfinite()):
        raise RuntimeError(
            f"monitor={monitor!r} was never finite after a whole epoch, so none is the best: has the validation part "
            f"labels with both classes, and did max_steps leave time for an epoch? logged: "
            f"{', '.join(sorted(map(str, trainer.callback_metrics)))}"
        )
    weights = {k.removeprefix("model."): v for k, v in state["state_dict"].items() if k.startswith("model.")}
    plain = uncompiled(model)
    plain.load_state_dict(as_named(weights, plain))
    model.eval()
    if trainer.is_global_zero and can_be_saved(plain):
        save_pretrained(plain, output / "model")
    return FitResult(model, float(score), int(state["epoch"]), path, trainer)
