"""Training in stages: parts of a model one after the other, each stage from the best epoch of the one before."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from thoraxlib.checkpoints.saving import can_be_saved, save_pretrained, weights_digest
from thoraxlib.registry import Spec
from thoraxlib.training.data import DataModule
from thoraxlib.training.fit import FitResult, M, fit
from thoraxlib.training.processes import is_first_process, only_run
from thoraxlib.training.schedules import Schedule
from thoraxlib.training.task import model_inputs
from thoraxlib.training.tasks import MultiLabelTask
from thoraxlib.utils.files import check_resumable, read_json
from thoraxlib.utils.modes import uncompiled


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Settings of a training stage.

    Attributes
    ----------
    name : str
        Name of its folder.
    trained : sequence of str
        Dotted names of the parts that are trained, ``""`` for the whole model. Everything else is frozen: without
        gradient and in eval mode, so that norms keep their statistics.
    frozen_statistics : bool
        False: the whole model is in training mode, so that norms of frozen parts still update their statistics, as in
        published codes that only switch off the gradients.
    output : str
        The output that validation scores to choose the best epoch: a method of the model from images to logits, or
        ``"logits"`` for the model itself.
    losses : mapping of str to float
        Fields of the model's ``forward_all``, and the weights with which their losses are added; by default the loss of
        `output` alone.
    epochs : int
        Passes over the data.
    batch_size : int, optional
        By default the data module's.
    loss, optimizer, scheduler
        See :func:`thoraxlib.training.fit`.
    rates : mapping of str to float
        Learning rates of parts in `trained`, where they differ. The optimizer then has a group of parameters for each
        part, in the order of `trained`.
    prepare : callable, optional
        Called with the model before the stage, e.g. to initialize a layer from another one. It is called again when a
        run is resumed, and must then do the same.
    """

    name: str
    trained: Sequence[str] = ("",)
    frozen_statistics: bool = True
    output: str = "logits"
    losses: Mapping[str, float] = field(default_factory=dict)
    epochs: int = 10
    batch_size: int | None = None
    loss: Spec | nn.Module = "bce"
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer] | None = None
    scheduler: Schedule = None
    rates: Mapping[str, float] = field(default_factory=dict)
    prepare: Callable[[nn.Module], None] | None = None


def fit_stages(
    model: M,
    data: DataModule,
    stages: Sequence[Stage],
    *,
    output: str | os.PathLike[str],
    resume: bool = True,
    **settings: Any,
) -> list[FitResult[M]]:
    """Train `model` stage after stage; each begins with the best epoch of the one before.

    Each stage is a :func:`thoraxlib.training.fit` of its own in ``output/<number>_<name>``; the final model is in
    ``output/model``. If the run is interrupted, the same call skips finished stages, continues the unfinished one and,
    on one kind of machine, ends with the same weights as an uninterrupted run.

    Parameters
    ----------
    model : nn.Module
        Trained in place. In the end, the same parameters require a gradient as before.
    data : DataModule
        Its labels must be the model's.
    stages : sequence of Stage
        In order.
    output : path
        Folder of the run.
    resume : bool
        False starts again and removes the earlier run's checkpoints.
    **settings
        Further arguments of :func:`thoraxlib.training.fit`, for all stages.

    Returns
    -------
    list of FitResult
        One for each stage; all have the same model, as it is after the last stage.

    Raises
    ------
    ValueError
        No stages, or two of one name; parts that the model does not have; rates of parts that are not trained; a part
        that the loss does not reach; other epochs than before for a stage after which another has begun; and as
        :func:`thoraxlib.training.fit`.
    """
    names = [stage.name for stage in stages]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"stages={names}: at least one is needed, each with a name of its own")
    folders = [Path(output) / f"{number}_{name}" for number, name in enumerate(names, start=1)]
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    results = list[FitResult[M]]()
    try:
        for stage in stages:  # check all before the first one is trained, as far as none is to be prepared
            if stage.prepare is not None:
                break
            task = _StageTask(_Staged(model, stage, first=True), loss=stage.loss, monitor=settings.get("monitor"))
            task.check(data)
        with only_run(Path(output)):
            if not resume and is_first_process():  # also of later stages, which began with these weights
                for path in (_checkpoint(folder, name) for folder in folders for name in ("last", "best")):
                    path.unlink(missing_ok=True)
            for stage, folder, later in zip(stages, folders, [*folders[1:], None], strict=True):
                if later is not None and _checkpoint(later, "last").exists():
                    _check_epochs(folder, stage)
                part = copy.copy(data)  # shares images and cache
                part.batch_size = stage.batch_size or data.batch_size
                if stage.prepare is not None:
                    stage.prepare(model)
                result = fit(
                    _Staged(model, stage, first=not results),
                    part,
                    output=folder,
                    task=_StageTask,
                    epochs=stage.epochs,
                    loss=stage.loss,
                    optimizer=stage.optimizer,
                    scheduler=stage.scheduler,
                    resume=resume,
                    **settings,
                )
                results.append(FitResult(model, result.score, result.epoch, result.path, result.trainer))
            model.eval()
            if results[-1].trainer.is_global_zero and can_be_saved(model):
                save_pretrained(model, Path(output) / "model")
    finally:
        for parameter, required in before:
            parameter.requires_grad_(required)
    return results


def _checkpoint(folder: Path, name: str) -> Path:
    return folder / "checkpoints" / f"{name}.ckpt"


def _check_epochs(folder: Path, stage: Stage) -> None:
    """Raise if a stage gets other epochs than before, although the next stage began with its weights."""
    config = folder / "config.json"
    begun = read_json(config) if config.exists() else {}
    if isinstance(begun, dict) and "epochs" in begun:
        remedy = "the next stage began with its weights: change output, or resume=False for a new run"
        check_resumable(folder, begun, {"epochs": stage.epochs}, "a stage", remedy=remedy)


class _Staged(nn.Module):
    """A model in a stage: with one output, and with all but the trained parts frozen."""

    def __init__(self, model: nn.Module, stage: Stage, *, first: bool) -> None:
        super().__init__()
        self.model, self.stage = model, stage
        try:
            parts = {name: model.get_submodule(name) for name in stage.trained}
        except AttributeError as error:
            raise ValueError(f"stage {stage.name!r}: {type(model).__name__} has no such part: {error}") from error
        unknown = sorted({*stage.rates} - {*parts})
        if unknown:
            raise ValueError(f"stage {stage.name!r}: rates are of parts in trained, {sorted(parts)}, not of {unknown}")
        model.requires_grad_(False)
        for part in parts.values():
            part.requires_grad_(True)
        labels = getattr(model, "labels", None)
        if labels is not None:
            self.labels = tuple(labels)
        # further settings that decide the weights, compared when a run is resumed
        self.config: Any = {
            "model": getattr(model, "config", type(uncompiled(model)).__qualname__),
            "stage": stage.name,
            "trained": list(stage.trained),
            "output": stage.output,
            "losses": dict(stage.losses),
            "rates": dict(stage.rates),
            "start": None if first else weights_digest(uncompiled(model)),
            "frozen_statistics": stage.frozen_statistics,
        }
        self.train()

    def train(self, mode: bool = True) -> _Staged:
        """Set the mode of the trained parts; the others are in eval mode."""
        self.training = mode
        self.model.train(mode and not self.stage.frozen_statistics)
        for name in self.stage.trained:
            self.model.get_submodule(name).train(mode)
        return self

    def forward(self, *inputs: Tensor) -> Tensor:
        """Compute the stage's logits."""
        name = self.stage.output
        logits: Tensor = self.model(*inputs) if name == "logits" else getattr(self.model, name)(*inputs)
        return logits


class _StageTask(MultiLabelTask):
    """Train a stage."""

    model: _Staged

    def objective(self, batch: dict[str, Any]) -> Tensor:
        losses = self.model.stage.losses
        if not losses:
            return super().objective(batch)
        images, *more = model_inputs(batch)
        outputs: Any = self.model.model.forward_all(images.to(memory_format=self.memory_format), *more)  # type: ignore[operator]
        each = [weight * self.loss(getattr(outputs, name), batch["labels"]) for name, weight in losses.items()]
        return torch.stack(each).sum()

    def trained_parameters(self) -> list[Any]:
        rates = self.model.stage.rates
        if not rates:
            return super().trained_parameters()
        groups, seen = list[dict[str, Any]](), set[nn.Parameter]()
        for name in self.model.stage.trained:
            own = [p for p in self.model.model.get_submodule(name).parameters() if p not in seen]
            seen.update(own)
            groups.append({"params": own} | ({"lr": rates[name]} if name in rates else {}))
        return groups

    def on_after_backward(self) -> None:
        """Raise if the loss does not reach a trained part."""
        if self.global_step:
            return
        for name in self.model.stage.trained:
            if all(p.grad is None for p in self.model.model.get_submodule(name).parameters()):
                raise ValueError(
                    f"stage {self.model.stage.name!r} trains {name!r}, but no gradient of its loss gets there"
                )
