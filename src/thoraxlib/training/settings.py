"""What decides about the weights of a run: written down, so that nothing goes on that was begun otherwise."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from thoraxlib.datasets import ChestDataset
from thoraxlib.detection import RegionDetector
from thoraxlib.segmentation import Segmenter
from thoraxlib.training.data import DataModule
from thoraxlib.training.processes import is_first_process
from thoraxlib.training.resume import of_run
from thoraxlib.utils.files import check_resumable, read_json, write_json


def identity(model: nn.Module, data: DataModule) -> dict[str, Any]:
    """What is trained on what."""
    return {
        "model": _model(model),
        "labels": list(data.labels),
        "images": {name: _images(part) for name, part in data.parts.items()},
        "batch_size": data.batch_size,
        "data_seed": data.seed,
    }


def begin(output: Path, settings: Mapping[str, Any], last: Path, best: Path, *, resume: bool, growing: bool) -> int:
    """Make a run's folder, or find the run that is in it.

    Parameters
    ----------
    output : path
        The folder; ``config.json`` in it holds the settings.
    settings : mapping
        That decide about the weights; those that are no JSON become text.
    last, best : path
        Checkpoints.
    resume : bool
        Go on after `last` if it is there; otherwise both are removed.
    growing : bool
        The run may go on to another number of epochs than it was begun for, if no more are done.

    Returns
    -------
    int
        The last whole epoch of the run in the folder, -1 where there is none.

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


def _model(model: nn.Module) -> Any:
    """How a model was built, and for which input."""
    if isinstance(model, (Segmenter, RegionDetector)):
        spec = getattr(model, "registry_spec", {"name": type(model).__qualname__})
        return {**spec, "input_spec": model.input_spec.to_json()}
    return getattr(model, "config", type(model).__qualname__)


def _images(part: ChestDataset) -> list[Any]:
    """Which images a part has; of a feature store also whose features."""
    known = [len(part), _digest(part.ids)]
    return [*known, part.fingerprint] if hasattr(part, "fingerprint") else known


def _digest(ids: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(ids).encode()).hexdigest()[:16]


def _plain(value: Any) -> Any:
    """Settings that are no JSON, as text that is the same in the next process."""
    if isinstance(value, partial):
        return {"call": _plain(value.func), "args": list(value.args), **value.keywords}
    if isinstance(value, (os.PathLike, nn.Module)):
        return str(value)
    return getattr(value, "__qualname__", None) or type(value).__qualname__
