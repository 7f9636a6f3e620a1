"""What lets an interrupted run go on as if nothing had happened."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.plugins import TorchCheckpointIO

from thoraxlib.files import replacing

__all__ = ["BatchSeed", "Patience", "WholeFiles"]


class WholeFiles(TorchCheckpointIO):  # type: ignore[misc]
    """Checkpoints that are whole or absent.

    Lightning's go through the folder for temporary files: where that is another file system, moving them into place
    is a copy, which a kill can cut.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write beside `path`, then rename."""
        with replacing(path) as scratch:
            super().save_checkpoint(checkpoint, scratch, storage_options)


class BatchSeed(Callback):  # type: ignore[misc]
    """A seed for each batch, so that dropout and its like in a resumed run draw what an uninterrupted one does.

    For each batch and not each epoch: Lightning makes a loader's iterator, which draws too, now before and now after
    the epoch's start.

    Parameters
    ----------
    seed : int
        Of the run.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Seed torch's generators by run, epoch, batch and process."""
        seed = hash((self.seed, trainer.current_epoch, batch_idx, trainer.global_rank)) % 2**63
        torch.default_generator.manual_seed(seed)
        if torch.cuda.is_available():
            torch.cuda.manual_seed(seed)


class Patience(EarlyStopping):  # type: ignore[misc]
    """Early stopping that holds when a run that it ended is started again; Lightning's trains one more epoch."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop at once where the checkpoint says so."""
        trainer.should_stop = trainer.should_stop or self.wait_count >= self.patience
