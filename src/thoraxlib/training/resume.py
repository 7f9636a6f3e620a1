"""What lets an interrupted run go on as if nothing had happened."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.plugins import TorchCheckpointIO

from thoraxlib.utils.files import check_stored, replacing


def _trusted(path: Path) -> Any:
    """A file of tensors and plain values only; anything else is refused before it could run code."""
    check_stored(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{path} is not a checkpoint of this library, or is damaged ({error})") from error


def of_run(path: Path) -> dict[str, Any]:
    """The checkpoint that a run left.

    Raises
    ------
    ValueError
        Naming the file: it is none, or is damaged.
    """
    content = _trusted(path)
    parts = {"epoch": int, "state_dict": dict, "callbacks": dict}
    if not isinstance(content, dict) or not all(isinstance(content.get(key), kind) for key, kind in parts.items()):
        raise ValueError(f"{path} is not a checkpoint of this library")
    return content


class WholeFiles(TorchCheckpointIO):  # type: ignore[misc]
    """Checkpoints that are whole or absent, and run no code.

    Lightning's go through the folder for temporary files: where that is another file system, moving them into place
    is a copy, which a kill can cut.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write beside `path`, then rename."""
        with replacing(path) as scratch:
            super().save_checkpoint(checkpoint, scratch, storage_options)

    def load_checkpoint(self, path: Any, map_location: Any = None, **_: Any) -> Any:
        """Tensors and plain values only; Lightning's own unpickles whatever it finds."""
        return _trusted(Path(path))


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


class _Numbered(Callback):  # type: ignore[misc]
    """One of several callbacks whose state would have the same name in a checkpoint."""

    kind: type
    number: int

    @property
    def state_key(self) -> str:
        """The class's name for it, and a number."""
        return f"{super().state_key}#{self.number}"

    def __reduce__(self) -> Any:
        return _again, (self.kind, self.__dict__)


def distinct(callbacks: Iterable[Callback]) -> None:
    """Give the states of callbacks names of their own: by their order, where those of a class have one name."""
    seen = Counter[str]()
    for callback in callbacks:
        if isinstance(callback, _Numbered):  # of an earlier run
            callback.__class__ = callback.kind
        key = callback.state_key
        seen[key] += 1
        if seen[key] > 1:
            callback.__class__ = _numbered(type(callback))
            callback.number = seen[key]


def _numbered(kind: type) -> type:
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "kind": kind}
    return type(kind.__name__, (_Numbered, kind), names)


def _again(kind: type, state: dict[str, Any]) -> Callback:
    """Such a callback in another process."""
    callback: Callback = object.__new__(_numbered(kind))
    callback.__dict__.update(state)
    return callback
