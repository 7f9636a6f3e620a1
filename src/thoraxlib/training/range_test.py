"""Which learning rate to begin with: a range test, run by Lightning."""

from __future__ import annotations

import copy
import io
import math
import tempfile
from collections.abc import Callable, Iterable
from contextlib import nullcontext, redirect_stderr
from typing import Any, NamedTuple

import numpy as np
from lightning.pytorch import Trainer
from lightning.pytorch.tuner import Tuner
from torch import nn
from torch.optim import Optimizer

from thoraxlib.registry import Spec
from thoraxlib.training.data import DataModule
from thoraxlib.training.logs import quiet
from thoraxlib.training.task import MultiLabelTask

__all__ = ["RangeTest", "lr_range_test"]

_NEW = 0.05  # share of a new loss in the smoothed one
_SKIPPED = 10, 5  # points at both ends that no suggestion comes from


class RangeTest(NamedTuple):
    """What :func:`lr_range_test` found.

    Attributes
    ----------
    rates : list of float
        Learning rates that were tried, until the loss diverged.
    losses : list of float
        The training loss at each, smoothed.
    suggestion : float
        Where the loss falls most from one rate to the next; NaN if there were too few.
    """

    rates: list[float]
    losses: list[float]
    suggestion: float


def lr_range_test(
    model: nn.Module,
    data: DataModule,
    *,
    loss: Spec | nn.Module | None = None,
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer] | None = None,
    lowest: float = 1e-7,
    highest: float = 100.0,
    steps: int = 100,
    stop_above: float = 5.0,
    accelerator: str = "auto",
    precision: str = "32-true",
    progress: bool = True,
) -> RangeTest:
    """Train a copy of a model for some steps with a growing learning rate, and suggest one.

    Smith, "Cyclical learning rates for training neural networks", 2017, section 3.3. The suggestion is the rate at the
    steepest fall of the smoothed loss over the logarithm of the rate, without the first 10 and the last 5 points: about
    what jaydurant/ChestX-ray_classification_and_localization found its 6.58e-4 with.

    Parameters
    ----------
    model : nn.Module
        Returns logits; only what requires a gradient is trained.
    data : DataModule
        Its training part is used.
    loss, optimizer
        As in :func:`thoraxlib.training.fit`; the optimizer's own rate does not matter.
    lowest, highest : float
        Rates of the first and the last step; those between are equally spaced in their logarithm, but for the first
        step, which Lightning makes twice as long.
    steps : int
        Batches.
    stop_above : float
        Stop where the loss is so many times the best; above 1.
    accelerator, precision, progress
        Lightning's.

    Raises
    ------
    ValueError
        Rates that do not grow, fewer than 2 steps, or `stop_above` of 1 or less.
    """
    if not 0 < lowest < highest or steps < 2:
        raise ValueError(
            f"lowest={lowest}, highest={highest}, steps={steps}: 0 < lowest < highest and 2 steps are needed"
        )
    if not stop_above > 1:
        raise ValueError(f"stop_above={stop_above}: above 1 is accepted")
    task = _RangeTask(copy.deepcopy(model), loss=loss, optimizer=optimizer)
    task.stop_above = stop_above
    # Lightning's finder has a bar of its own, which no option turns off
    hidden = nullcontext() if progress else redirect_stderr(io.StringIO())
    with quiet(), hidden, tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            accelerator=accelerator,
            devices=1,
            precision=precision,  # type: ignore[arg-type, unused-ignore]
            max_epochs=steps,
            limit_val_batches=0,
            num_sanity_val_steps=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=progress,
            enable_model_summary=False,
            default_root_dir=folder,
        )
        rates = {"min_lr": lowest, "max_lr": highest, "num_training": steps}
        task.count(data.targets)  # the finder runs before the task could
        Tuner(trainer).lr_find(task, datamodule=data, **rates, early_stop_threshold=None, update_attr=False)
    return RangeTest(task.rates, task.losses, _steepest(task.rates, task.losses))


class _RangeTask(MultiLabelTask):
    """Keeps rates and smoothed losses, and stops when these diverge; a loss that is not finite is no error here."""

    stop_above: float

    def __init__(self, model: nn.Module, **options: Any) -> None:
        super().__init__(model, **options)
        self.rates: list[float] = []
        self.losses: list[float] = []

    def _look(self, batch: dict[str, Any], batch_idx: int) -> None:
        self._finite.clear()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """The rate that this batch is trained with."""
        self._rate = float(self.trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Smooth the loss."""
        loss = float(outputs["loss"])
        if self.losses:
            loss = _NEW * loss + (1 - _NEW) * self.losses[-1]
        if not math.isfinite(loss) or loss > self.stop_above * min([loss, *self.losses]):
            self.trainer.should_stop = True
            return
        self.rates.append(self._rate)
        self.losses.append(loss)


def _steepest(rates: list[float], losses: list[float]) -> float:
    first, last = _SKIPPED
    curve = losses[first:-last]
    return rates[first + int(np.gradient(curve).argmin())] if len(curve) > 1 else float("nan")
