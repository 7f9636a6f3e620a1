"""The Lightning module: multi-label classification with unknown labels."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from thoraxlib import losses
from thoraxlib.metrics.scores import checked, per_label
from thoraxlib.registry import Spec
from thoraxlib.training.schedules import Schedule, of_whole_run, schedule
from thoraxlib.utils.arrays import Floats

if TYPE_CHECKING:
    from thoraxlib.datasets import ChestDataset
    from thoraxlib.training.data import DataModule

# A look at the loss makes the host wait for the device, so that away from the CPU it is taken after so many batches.
LOOK = {"cpu": 1}
LOOK_ELSEWHERE = 50

_COMPILED = "_orig_mod."  # of torch.compile, in the names of weights


def model_inputs(batch: dict[str, Any]) -> tuple[Tensor, ...]:
    """What of a batch goes into the model: features of regions and which are present; or images, and organ masks."""
    if "features" in batch:
        return batch["features"], batch["present"]
    if "organ_mask" in batch:
        return batch["image"], batch["organ_mask"].to(batch["image"].dtype)
    return (batch["image"],)


def check_labels(logits: Tensor, labels: Tensor) -> None:
    """Raise unless there is a label for every logit.

    Raises
    ------
    ValueError
        Other shapes.
    """
    if logits.shape != labels.shape:
        raise ValueError(
            f"the labels are {tuple(labels.shape)}, the model's logits {tuple(logits.shape)}: a data set "
            "for this model has its labels (datasets take labels=model.labels)"
        )


def as_named(state: Mapping[str, Any], module: nn.Module) -> dict[str, Any]:
    """Weights of uncompiled modules, by the names that `module` has for them."""
    names = {name.replace(_COMPILED, ""): name for name in module.state_dict()}
    return {names.get(name, name): value for name, value in state.items()}


def better(monitor: str) -> str:
    """Whether the ``"min"`` or the ``"max"`` of a logged score is the best."""
    return "min" if "loss" in monitor else "max"


class Task(LightningModule):  # type: ignore[misc]
    """What training has in common, whatever the model's output: a loss, an optimizer, a schedule, a look at the loss.

    Logs ``train/loss``. A subclass says in :meth:`outputs` what goes into the loss, and has the validation and the
    defaults. Checkpoints have the names of the uncompiled model's weights.

    Parameters
    ----------
    model : nn.Module
        What is trained.
    loss : str, mapping or nn.Module, optional
        From :mod:`thoraxlib.losses`; by default :attr:`default_loss`. One with a ``fit`` method gets the training
        targets before the first step.
    optimizer : callable, optional
        From parameters to optimizer, e.g. ``partial(torch.optim.SGD, lr=0.1)``; by default AdamW, rate 3e-4, weight
        decay 1e-4.
    scheduler : str, mapping or callable, optional
        See :func:`thoraxlib.training.schedules.schedule`.
    monitor : str, optional
        The score that a plateau schedule watches; by default :attr:`default_monitor`.
    mode : {"min", "max"}, optional
        Which end of it is best; by default "min" for losses.
    channels_last : bool
        Keep the model and the images in that memory format (faster convolutions on most devices).

    Raises
    ------
    ValueError
        In a step: a loss that is not finite.
    RuntimeError
        Fewer steps than an epoch has, where the best epoch is that of a validation score.
    """

    default_loss: ClassVar[Spec]
    default_monitor: ClassVar[str]

    def __init__(
        self,
        model: nn.Module,
        *,
        loss: Spec | nn.Module | None = None,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer] | None = None,
        scheduler: Schedule = None,
        monitor: str | None = None,
        mode: str | None = None,
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.model = model.to(memory_format=self.memory_format)  # type: ignore[call-overload]
        self.loss_spec = self.default_loss if loss is None else loss
        self.loss = self.make_loss(self.loss_spec)
        self.make_optimizer, self.scheduler = optimizer, scheduler
        self.monitor = self.default_monitor if monitor is None else monitor
        self.mode = mode or better(self.monitor)
        self._finite: list[Tensor] = []
        self._seen: list[tuple[Tensor, ...]] = []

    def forward(self, x: Tensor, *more: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.model(x.to(memory_format=self.memory_format) if x.ndim == 4 else x, *more)
        return logits

    @property
    def scores(self) -> tuple[str, ...]:
        """Names of all that is logged."""
        return ("train/loss",)

    def check(self, data: DataModule) -> None:
        """Raise, before anything is read or written, where the data cannot be trained on."""

    def make_loss(self, spec: Any) -> Any:
        """The loss of its spec."""
        return losses.registry.resolve(spec)

    def outputs(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Logits and targets of a batch, as the loss takes them."""
        raise NotImplementedError

    def objective(self, batch: dict[str, Any]) -> Tensor:
        """What is minimised."""
        loss: Tensor = self.loss(*self.outputs(batch))
        return loss

    def training_targets(self) -> Tensor | None:
        """What a loss with a ``fit`` method gets before the first step."""
        targets: Tensor | None = getattr(self.trainer.datamodule, "targets", None)
        return targets

    def trained_parameters(self) -> list[Any]:
        """Parameters, or groups of them, as an optimizer takes them."""
        return [p for p in self.model.parameters() if p.requires_grad]

    def keep(self, batch: dict[str, Any], *values: Tensor) -> None:
        """Keep what a validation batch gave, (N, ...) each, until the epoch's end."""
        self._seen.append((torch.tensor(batch["index"], device=values[0].device), *values))

    def kept(self) -> tuple[Tensor, ...] | None:
        """Index and values of the whole validation part, each image once however it was spread over devices."""
        if not self._seen:
            return None
        index, *values = (torch.cat(parts) for parts in zip(*self._seen, strict=True))
        self._seen.clear()
        if self.trainer.world_size > 1:
            index, *values = (self.all_gather(part).flatten(0, 1) for part in (index, *values))
        # shares of one size repeat some images
        first = np.unique(index.cpu().numpy(), return_index=True)[1]
        return index[first], *(part[first] for part in values)

    def on_fit_start(self) -> None:
        """Give the loss the training targets, where there are some."""
        targets = self.training_targets()
        if targets is not None:
            self.count(targets)

    def on_train_start(self) -> None:
        """Raise where no epoch will be whole.

        Raises
        ------
        RuntimeError
            See the class.
        """
        steps = -(-self.trainer.num_training_batches // self.trainer.accumulate_grad_batches)
        best_is_kept = bool(self.trainer.checkpoint_callbacks) and self.monitor.startswith("val/")
        if best_is_kept and 0 <= self.trainer.max_steps < steps:
            raise RuntimeError(
                f"max_steps={self.trainer.max_steps}: an epoch has {steps} steps, and monitor={self.monitor!r} is "
                "known after whole epochs only"
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Name the weights as the uncompiled model does."""
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {name.replace(_COMPILED, ""): value for name, value in state.items()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Name the weights as this model does."""
        checkpoint["state_dict"] = as_named(checkpoint["state_dict"], self)

    def count(self, targets: Tensor) -> None:
        """Give the loss the training targets, where it asks for them."""
        fit = getattr(self.loss, "fit", None)
        if callable(fit):
            fit(targets)
            self.loss.to(self.device)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """The loss of a batch."""
        loss = self.objective(batch)
        self._finite.append(loss.detach().isfinite())
        if len(self._finite) >= LOOK.get(self.device.type, LOOK_ELSEWHERE) or self.trainer.is_last_batch:
            self._look(batch, batch_idx)
        self.log(
            "train/loss",
            loss,
            prog_bar=True,
            on_step=False,
            on_epoch=True,
            sync_dist=True,
            batch_size=len(batch["id"]),
        )
        return loss

    def _look(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Raise if a loss since the last look was not finite, naming the first."""
        finite = torch.stack(self._finite).tolist()
        self._finite.clear()
        if all(finite):
            return
        first = batch_idx - len(finite) + 1 + finite.index(False)
        where = f"epoch {self.current_epoch}, batch {first}: the loss is not finite"
        inputs = model_inputs(batch)[0]
        bad = [name for name, x in zip(batch["id"], inputs, strict=True) if not bool(x.isfinite().all())]
        if first == batch_idx and bad:
            raise ValueError(f"{where}: NaN or infinite values in {', '.join(bad)}")
        raise ValueError(
            f"{where}: the weights have diverged or the precision is too low (learning rate "
            f"{self.trainer.optimizers[0].param_groups[0]['lr']:.3g}, {self.trainer.precision})"
        )

    def configure_optimizers(self) -> Any:
        """Optimizer and schedule, as Lightning wants them.

        Raises
        ------
        ValueError
            No parameter to train.
        """
        parameters = self.trained_parameters()
        if not parameters:
            raise ValueError("no parameter of the model has requires_grad=True: there is nothing to train")
        if self.make_optimizer is None:
            optimizer: Optimizer = torch.optim.AdamW(parameters, lr=3e-4, weight_decay=1e-4)
        else:
            optimizer = self.make_optimizer(parameters)
        plan = schedule(
            self.scheduler,
            optimizer,
            steps=int(self.trainer.estimated_stepping_batches) if of_whole_run(self.scheduler) else 0,
            monitor=self.monitor,
            mode=self.mode,
        )
        return optimizer if plan is None else {"optimizer": optimizer, "lr_scheduler": plan}

    def on_train_epoch_end(self) -> None:
        """Step a plateau schedule before the epoch's checkpoint; Lightning does so after it."""
        value = self.trainer.callback_metrics.get(self.monitor)
        if value is None or not self.trainer.is_last_batch:
            return
        for config in self.trainer.lr_scheduler_configs:
            if config.reduce_on_plateau:
                self.lr_scheduler_step(config.scheduler, value)

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Step a schedule, a plateau once in an epoch."""
        if isinstance(scheduler, ReduceLROnPlateau) and scheduler.last_epoch > self.current_epoch:
            return
        super().lr_scheduler_step(scheduler, metric)


_RANKED = ("val/auroc", "val/average_precision")


def _check_known(part: str, targets: Tensor, labels: Sequence[str]) -> None:
    """Raise where no label of a part is known; name those that are unknown throughout."""
    known = ~targets.isnan().flatten(0, -2).all(dim=0)
    if not bool(known.any()):
        raise ValueError(f"{part}: every label of every image is unknown (NaN)")
    if not bool(known.all()):
        lost = [label for label, told in zip(labels, known.tolist(), strict=True) if not told]
        text = "nothing is learnt about them" if part == "train" else "they have no part in the scores"
        warnings.warn(
            f"{part}: labels that are unknown (NaN) in every image: {', '.join(lost)}; {text}",
            UserWarning,
            stacklevel=4,
        )


def _scored(targets: Tensor) -> Tensor:
    """Targets that scores take: smoothed ones, which are of uncertain labels, are unknown (NaN)."""
    return torch.where((targets == 0) | (targets == 1), targets, torch.nan)


def _check_scored(targets: Tensor, monitor: str) -> None:
    """Raise where validation labels cannot be scored; say how many take no part."""
    soft = (targets != 0) & (targets != 1) & ~targets.isnan()
    if bool(soft.any()):
        warnings.warn(
            f"val: {int(soft.sum())} targets between 0 and 1, such as {float(targets[soft][0]):g}, take no part in the "
            "scores (smoothed labels are for training: build the validation part with another uncertain=)",
            UserWarning,
            stacklevel=4,
        )
    columns = _scored(targets).flatten(1)
    if monitor in _RANKED and not bool(((columns == 0).any(dim=0) & (columns == 1).any(dim=0)).any()):
        raise RuntimeError(
            f"monitor={monitor!r} cannot be finite, so that no epoch would be the best: no label of the validation "
            "part has both classes"
        )


class MultiLabelTask(Task):
    """Trains a model of images (N, C, H, W) -> logits (N, K) on labels 1, 0 and NaN.

    Logs ``train/loss`` and, over the whole validation part at once, ``val/loss``, ``val/auroc`` and
    ``val/average_precision`` (means over the labels that have both classes; NaN if none has).

    Parameters
    ----------
    model : nn.Module
        Returns logits; of images, and of organ masks where the data set has them.
    loss, optimizer, scheduler, monitor, mode, channels_last
        See :class:`Task`.

    Raises
    ------
    ValueError
        In a step: labels of another width than the logits; a loss that is not finite, or validation logits that are
        NaN.
    """

    default_loss = "bce"
    default_monitor = "val/auroc"

    @property
    def scores(self) -> tuple[str, ...]:
        """Names of all that is logged."""
        return (*super().scores, "val/loss", *_RANKED)

    def check(self, data: DataModule) -> None:
        """See that the labels of both parts can be learnt and scored.

        Raises
        ------
        ValueError
            Nothing but unknown labels; unknown labels that make the loss NaN.
        RuntimeError
            A validation part of which no label has both classes, where the best epoch is that of a ranking score.

        Warns
        -----
        UserWarning
            Labels that are unknown in every image of a part; smoothed labels in the validation part.
        """
        super().check(data)
        for name, part in data.parts.items():
            targets = self.targets(part) if name != "test" else None
            if targets is not None:
                _check_known(name, targets, data.labels)
                if name == "train":
                    self.count(targets.flatten(0, -2))
                else:
                    _check_scored(targets, self.monitor)
                self._check_loss(name, targets)

    def targets(self, part: ChestDataset) -> Tensor | None:
        """Labels of a part (N, ..., K), where they are known before its images are read."""
        return part.targets

    def _check_loss(self, part: str, targets: Tensor) -> None:
        """Raise where unknown labels make the loss NaN."""
        rows = targets[targets.isnan().flatten(1).any(dim=1)][:8]
        if not len(rows):
            return
        rows = rows.to(next((of.device for of in chain(self.loss.parameters(), self.loss.buffers())), rows.device))
        mode = self.loss.training
        with torch.no_grad():
            value = self.loss.eval()(torch.zeros_like(rows), rows)
        self.loss.train(mode)
        if bool(value.isnan().any()):
            raise ValueError(
                f"loss={self.loss_spec!r} is NaN where a label is unknown, and {part} has such labels (NaN): the "
                "losses of thoraxlib.losses leave them out"
            )

    def outputs(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Logits and labels (N, K)."""
        logits: Tensor = self(*model_inputs(batch))
        check_labels(logits, batch["labels"])
        return logits, batch["labels"]

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Keep logits and labels until the epoch's end."""
        logits, labels = self.outputs(batch)
        self.keep(batch, logits.float(), labels)

    def mean(self, values: Floats) -> float:
        """The mean over labels of their scores; NaN if none has one."""
        return float(np.mean(values[~np.isnan(values)])) if not np.isnan(values).all() else np.nan

    def on_validation_epoch_end(self) -> None:
        """Score the whole part.

        Raises
        ------
        ValueError
            Logits that are NaN.
        """
        kept = self.kept()
        if kept is None:
            return
        index, logits, labels = kept
        lost = logits.flatten(1).isnan().any(dim=1)
        if bool(lost.any()):
            raise ValueError(
                f"epoch {self.current_epoch}: the logits of {int(lost.sum())} of {len(lost)} validation images are "
                f"NaN, first of number {int(index[lost][0])}: the weights have diverged, or the "
                f"precision is too low ({self.trainer.precision})"
            )
        scores = {"val/loss": float(self.loss(logits, labels))}
        columns, shown = checked(_scored(labels).flatten(1).cpu(), logits.flatten(1).nan_to_num().cpu())
        for name in ("auroc", "average_precision"):  # small parts lack rare findings, epoch after epoch: no warning
            scores[f"val/{name}"] = self.mean(per_label(columns, shown, name).reshape(labels.shape[1:]))
        self.log_dict(scores, prog_bar=True, sync_dist=True)  # alike everywhere; Lightning asks for it all the same
