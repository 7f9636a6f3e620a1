"""Resume an interrupted run: checkpoints, settings, log table and callbacks."""

from __future__ import annotations

import csv
import hashlib
import json
import logging
import os
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins import TorchCheckpointIO
from torch import nn

from thoraxlib.detection import RegionDetector
from thoraxlib.segmentation import Segmenter
from thoraxlib.training.data import DataModule
from thoraxlib.training.processes import is_first_process
from thoraxlib.utils.files import check_resumable, check_stored, read_json, replacing, write_json

_NOISE = (
    ".*does not have many workers.*",
    ".*smaller than the logging interval.*",
    ".*Checkpoint directory.*exists.*",
    ".*Experiment logs directory.*exists.*",
    ".*module.s. in eval mode at the start of training.*",  # such as a frozen segmenter
    # about Lightning's own calls
    ".*isinstance.treespec, LeafSpec.*",
    ".*torch.distributed.nn.functional.all_gather.*is deprecated.*",
)


def identity(model: nn.Module, data: DataModule) -> dict[str, Any]:
    """Describe the model and the data of a run."""
    config: Any = getattr(model, "config", type(model).__qualname__)
    if isinstance(model, (Segmenter, RegionDetector)):
        spec = getattr(model, "registry_spec", {"name": type(model).__qualname__})
        config = {**spec, "input_spec": model.input_spec.to_json()}
    images = {}
    for name, part in data.parts.items():
        digest = hashlib.sha256("\n".join(part.ids).encode()).hexdigest()[:16]
        # a feature store also names its detector
        images[name] = [len(part), digest, *([part.fingerprint] if hasattr(part, "fingerprint") else [])]
    return {
        "model": config,
        "labels": list(data.labels),
        "images": images,
        "batch_size": data.batch_size,
        "data_seed": data.seed,
    }


def begin(output: Path, settings: Mapping[str, Any], last: Path, best: Path, *, resume: bool, growing: bool) -> int:
    """Create the folder of a run, or check the run in it.

    Parameters
    ----------
    output : path
        The folder; its ``config.json`` has the settings.
    settings : mapping
        Settings that decide the weights; values that JSON does not have become text.
    last, best : path
        Checkpoints.
    resume : bool
        Resume from `last` if it exists; otherwise both are removed.
    growing : bool
        The run may continue to another number of epochs than it was started with, if not more are done.

    Returns
    -------
    int
        The last complete epoch of the run in the folder, -1 for none.

    Raises
    ------
    ValueError
        The run there had other settings, or one of its files is damaged.
    """
    config, plain = output / "config.json", json.loads(json.dumps(dict(settings), default=_plain))
    if resume and last.exists():
        before = read_json(config) if config.exists() else {}
        if not isinstance(before, dict):
            raise ValueError(f"{config} is damaged: it holds no settings; resume=False starts a new run")
        done = int(of_run(last)["epoch"])
        epochs, more = before.get("epochs"), plain["epochs"]
        why = "the schedule depends on it" if done < more else f"{done + 1} are done"
        check_resumable(
            output,
            {**before, "epochs": more} if growing and done < more else before,
            plain,
            "a run",
            {"epochs": f"epochs={epochs} before, {more} now, and {why}"},
            remedy="change output, or resume=False for a new run",
        )
        if epochs != more and is_first_process():
            write_json(config, plain, indent=2)
        return done
    if is_first_process():
        last.parent.mkdir(parents=True, exist_ok=True)
        for path in (last, best):
            path.unlink(missing_ok=True)
        write_json(config, plain, indent=2)
    return -1


def of_run(path: Path) -> dict[str, Any]:
    """Read the checkpoint of a run.

    Raises
    ------
    ValueError
        Naming the file: it is no such checkpoint, or is damaged.
    """
    content = _trusted(path)
    parts = {"epoch": int, "state_dict": dict, "callbacks": dict}
    if not isinstance(content, dict) or not all(isinstance(content.get(key), kind) for key, kind in parts.items()):
        raise ValueError(f"{path} is not a checkpoint of this library")
    return content


@contextmanager
def quiet() -> Iterator[None]:
    """Silence Lightning's hints about its own interface."""
    logs = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for message in _NOISE:
                warnings.filterwarnings("ignore", message)
            yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)


class WholeFiles(TorchCheckpointIO):  # type: ignore[misc]
    """Checkpoint files that are whole or absent, and run no code.

    Lightning writes them to the folder for temporary files first. If that is another file system, the final move is a
    copy, which a kill can cut.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write a scratch file beside `path`, then rename it."""
        with replacing(path) as scratch:
            super().save_checkpoint(checkpoint, scratch, storage_options)

    def load_checkpoint(self, path: Any, map_location: Any = None, **_: Any) -> Any:
        """Read tensors and plain values only; Lightning unpickles any object."""
        return _trusted(Path(path))


class EpochTable(CSVLogger):  # type: ignore[misc]
    """Logger to ``logs/metrics.csv`` that a resumed run continues; Lightning's logger removes an earlier table.

    Parameters
    ----------
    output : Path
        Folder of the run.
    until : int
        The last epoch whose rows are kept; -1 for none.
    """

    def __init__(self, output: Path, until: int) -> None:
        super().__init__(output, name="logs", version="")
        path = Path(self.log_dir) / "metrics.csv"
        if not is_first_process() or until < 0 or not path.exists():
            return
        with path.open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if int(row["epoch"]) <= until]
        if rows:
            with quiet(), replacing(path) as scratch:
                table = self.experiment  # this removes the file
                table.metrics, table.metrics_file_path = rows, str(scratch)
                table.save()
                table.metrics_file_path = str(path)


class BatchSeed(Callback):  # type: ignore[misc]
    """Seed torch before each batch, so that dropout draws the same numbers in a resumed and an uninterrupted run.

    Seeding each epoch is not enough: Lightning creates a loader's iterator, which draws numbers too, sometimes before
    and sometimes after the start of the epoch.

    Parameters
    ----------
    seed : int
        Seed of the run.
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
    """Early stopping that also stops a resumed run at once; Lightning's trains one more epoch."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop if the checkpoint had no patience left."""
        trainer.should_stop = trainer.should_stop or self.wait_count >= self.patience


class _Numbered(Callback):  # type: ignore[misc]
    """Mixin that adds a number to the name of a callback's state."""

    kind: type
    number: int

    @property
    def state_key(self) -> str:
        return f"{super().state_key}#{self.number}"

    def __reduce__(self) -> Any:
        return _unpickled, (self.kind, self.__dict__)


def distinct(callbacks: Iterable[Callback]) -> None:
    """Number callbacks whose states would have the same name in a checkpoint, which Lightning refuses."""
    seen = Counter[str]()
    for callback in callbacks:
        if isinstance(callback, _Numbered):  # in an earlier run
            callback.__class__ = callback.kind
        key = callback.state_key
        seen[key] += 1
        if seen[key] > 1:
            callback.__class__ = _numbered(type(callback))
            callback.number = seen[key]


def _numbered(kind: type) -> type:
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "kind": kind}
    return type(kind.__name__, (_Numbered, kind), names)


def _unpickled(kind: type, state: dict[str, Any]) -> Callback:
    callback: Callback = object.__new__(_numbered(kind))
    callback.__dict__.update(state)
    return callback


def _trusted(path: Path) -> Any:
    """Read a file of tensors and plain values; refuse others before they could run code."""
    check_stored(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{path} is not a checkpoint of this library, or is damaged ({error})") from error


def _plain(value: Any) -> Any:
    """Convert settings that JSON does not have to text that is the same in the next process."""
    if isinstance(value, partial):
        return {"call": _plain(value.func), "args": list(value.args), **value.keywords}
    if isinstance(value, (os.PathLike, nn.Module)):
        return str(value)
    return getattr(value, "__qualname__", None) or type(value).__qualname__
