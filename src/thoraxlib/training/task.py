"""Base class of the Lightning modules: optimizer, schedule, logging and checks that all tasks share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from thoraxlib import losses
from thoraxlib.registry import Spec
from thoraxlib.training.schedules import Schedule, of_whole_run, schedule

if TYPE_CHECKING:
    from thoraxlib.training.data import DataModule

#: Batches between two checks of the loss, by device; 50 on others, as each check makes the host wait for the device.
CHECK_EVERY = {"cpu": 1}

_COMPILED = "_orig_mod."  # in the names of a compiled module's weights


def model_inputs(batch: dict[str, Any]) -> tuple[Tensor, ...]:
    """Return a batch's model inputs: features of regions and their presence; or images, with organ masks if any."""
    if "features" in batch:
        return batch["features"], batch["present"]
    if "organ_mask" in batch:
        return batch["image"], batch["organ_mask"].to(batch["image"].dtype)
    return (batch["image"],)


def as_named(state: Mapping[str, Any], module: nn.Module) -> dict[str, Any]:
    """Rename weights of an uncompiled module to the names in `module`, parts of which may be compiled."""
    names = {name.replace(_COMPILED, ""): name for name in module.state_dict()}
    return {names.get(name, name): value for name, value in state.items()}


class Task(LightningModule):  # type: ignore[misc]
    """Base class of training tasks: a loss, an optimizer, a schedule, and a check that the loss is finite.

    Logs ``train/loss``. A subclass defines :meth:`outputs` (what the loss takes), ``validation_step`` (which calls
    :meth:`keep`), :meth:`score`, and the defaults. Checkpoints have the weight names of the uncompiled model.

    Parameters
    ----------
    model : nn.Module
        The model to train.
    loss : str, mapping or nn.Module, optional
        From :mod:`thoraxlib.losses`; by default :attr:`default_loss`. A loss with a ``fit`` method gets the training
        labels before the first step.
    optimizer : callable, optional
        From parameters to optimizer, e.g. ``partial(torch.optim.SGD, lr=0.1)``; by default AdamW, rate 3e-4, weight
        decay 1e-4.
    scheduler : str, mapping or callable, optional
        See :func:`thoraxlib.training.schedules.schedule`.
    monitor : str, optional
        The score that selects the best epoch and steps a plateau schedule; by default :attr:`default_monitor`.
    mode : {"min", "max"}, optional
        The better end of `monitor`; by default "min" for losses, else "max".
    channels_last : bool
        Keep the model and the images in that memory format (faster convolutions on most devices).

    Raises
    ------
    ValueError
        In a step: the loss is not finite.
    RuntimeError
        ``max_steps`` ends the first epoch before its validation, so that there is no best epoch.
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
        self.mode = mode or ("min" if "loss" in self.monitor else "max")
        self._finite: list[Tensor] = []
        self._kept: list[tuple[Tensor, ...]] = []

    def forward(self, x: Tensor, *more: Tensor) -> Any:
        """Run the model, with images in the task's memory format."""
        return self.model(x.to(memory_format=self.memory_format) if x.ndim == 4 else x, *more)

    @property
    def scores(self) -> tuple[str, ...]:
        """Names of all logged scores."""
        return ("train/loss",)

    def check(self, data: DataModule) -> None:
        """Raise if the task cannot be trained on the data; reads no image."""

    def make_loss(self, spec: Any) -> Any:
        """Build the loss."""
        return losses.registry.resolve(spec)

    def outputs(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Compute logits and targets of a batch, as the loss takes them."""
        raise NotImplementedError

    def objective(self, batch: dict[str, Any]) -> Tensor:
        """Compute the loss of a batch."""
        loss: Tensor = self.loss(*self.outputs(batch))
        return loss

    def trained_parameters(self) -> list[Any]:
        """List the trained parameters, or groups of them, as an optimizer takes them."""
        return [p for p in self.model.parameters() if p.requires_grad]

    def keep(self, batch: dict[str, Any], *values: Tensor) -> None:
        """Keep results of a validation batch, (N, ...) each, until the end of the epoch."""
        self._kept.append((torch.tensor(batch["index"], device=values[0].device), *values))

    def score(self, index: Tensor, *values: Tensor) -> dict[str, float]:
        """Compute the scores of the whole validation part from what :meth:`keep` kept, each image once."""
        raise NotImplementedError

    def on_validation_epoch_end(self) -> None:
        """Log the scores; results of all devices are gathered first."""
        index, *values = (torch.cat(parts) for parts in zip(*self._kept, strict=True))
        self._kept.clear()
        if self.trainer.world_size > 1:
            index, *values = (self.all_gather(part).flatten(0, 1) for part in (index, *values))
        # some images are on two devices, so that all have the same number
        first = np.unique(index.cpu().numpy(), return_index=True)[1]
        for name, value in self.score(index[first], *(part[first] for part in values)).items():
            # equal on all devices; Lightning wants sync_dist all the same
            self.log(name, float(value), prog_bar=name in ("val/loss", self.monitor), sync_dist=True)

    def on_train_start(self) -> None:
        """Raise if no epoch will be complete.

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
        """Rename the weights as in the uncompiled model."""
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {name.replace(_COMPILED, ""): value for name, value in state.items()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Rename the weights as in this model."""
        checkpoint["state_dict"] = as_named(checkpoint["state_dict"], self)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Compute and log the loss of a batch."""
        loss = self.objective(batch)
        self._finite.append(loss.detach().isfinite())
        if len(self._finite) >= CHECK_EVERY.get(self.device.type, 50) or self.trainer.is_last_batch:
            self._check_finite(batch, batch_idx)
        size = len(batch["id"])
        self.log("train/loss", loss, prog_bar=True, on_step=False, on_epoch=True, sync_dist=True, batch_size=size)
        return loss

    def _check_finite(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Raise if a loss since the last check was not finite, naming the first."""
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
        """Build the optimizer and the schedule, in Lightning's form.

        Raises
        ------
        ValueError
            The model has no parameter to train.
        """
        parameters = self.trained_parameters()
        if not parameters:
            raise ValueError("no parameter of the model has requires_grad=True: there is nothing to train")
        if self.make_optimizer is None:
            optimizer: Optimizer = torch.optim.AdamW(parameters, lr=3e-4, weight_decay=1e-4)
        else:
            optimizer = self.make_optimizer(parameters)
        steps = int(self.trainer.estimated_stepping_batches) if of_whole_run(self.scheduler) else 0
        plan = schedule(self.scheduler, optimizer, steps=steps, monitor=self.monitor, mode=self.mode)
        return optimizer if plan is None else {"optimizer": optimizer, "lr_scheduler": plan}

    def on_train_epoch_end(self) -> None:
        """Step a plateau schedule before the epoch's checkpoint is written; Lightning steps it afterwards."""
        value = self.trainer.callback_metrics.get(self.monitor)
        if value is None or not self.trainer.is_last_batch:
            return
        for config in self.trainer.lr_scheduler_configs:
            if config.reduce_on_plateau:
                self.lr_scheduler_step(config.scheduler, value)

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Step a schedule; a plateau only once in each epoch."""
        if isinstance(scheduler, ReduceLROnPlateau) and scheduler.last_epoch > self.current_epoch:
            return
        super().lr_scheduler_step(scheduler, metric)
