"""Learning-rate schedules by name, in the form that Lightning expects."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    ExponentialLR,
    LinearLR,
    MultiStepLR,
    OneCycleLR,
    ReduceLROnPlateau,
)

Schedule = str | Mapping[str, Any] | Callable[[Optimizer], Any] | None
NAMES = ("onecycle", "cosine", "plateau", "multistep", "exponential", "warmup")

_OF_WHOLE_RUN = ("onecycle", "cosine")


def of_whole_run(spec: Schedule) -> bool:
    """Tell whether the rates depend on how long the whole run is."""
    return (spec.get("name") if isinstance(spec, Mapping) else spec) in _OF_WHOLE_RUN


def schedule(spec: Schedule, optimizer: Optimizer, *, steps: int, monitor: str, mode: str) -> dict[str, Any] | None:
    """Lightning's scheduler configuration.

    Parameters
    ----------
    spec : str, mapping, callable or None
        ``"onecycle"`` and ``"cosine"`` run over all steps; ``"plateau"`` divides the rate by 10 after an epoch without
        gain in `monitor`; ``"multistep"`` divides it by 10 when as many epochs are over as its ``milestones`` say
        (jfhealthcare/Chexpert: [2]; alinstein/X_RAY's 4, 8, 12 count from 1: [3, 7, 11]); ``"exponential"`` takes it
        times 0.9 after each epoch; ``"warmup"`` rises from a thousandth of it over 1,000 steps and then stays (the
        detector of AnaXNet); a mapping ``{"name": ..., **options}`` sets options of torch's scheduler; a callable makes
        one of the optimizer, stepped after each epoch (by `monitor`, if it is a ``ReduceLROnPlateau``).
    optimizer : Optimizer
        Its rates are the highest ones.
    steps : int
        Optimizer steps of the whole run, for schedules that run over all of them.
    monitor, mode : str
        The score that a plateau is of, and whether "min" or "max" of it is better.

    Raises
    ------
    ValueError
        An unknown name.

    Warns
    -----
    UserWarning
        A plateau of the other end of `monitor` than `mode`.
    """
    if spec is None:
        return None
    if callable(spec):
        made = spec(optimizer)
        return _plateau(made, monitor, mode) if isinstance(made, ReduceLROnPlateau) else _each_epoch(made)
    name, options = (spec, {}) if isinstance(spec, str) else (spec.get("name"), {**spec})
    options.pop("name", None)
    if name == "onecycle":
        rates = [group["lr"] for group in optimizer.param_groups]
        return {"scheduler": OneCycleLR(optimizer, rates, total_steps=max(steps, 2), **options), "interval": "step"}
    if name == "cosine":
        return {"scheduler": CosineAnnealingLR(optimizer, max(steps, 1), **options), "interval": "step"}
    if name == "plateau":
        made = ReduceLROnPlateau(optimizer, **{"mode": mode, "factor": 0.1, "patience": 0, **options})
        return _plateau(made, monitor, mode)
    if name == "multistep":
        return _each_epoch(MultiStepLR(optimizer, **{"milestones": [], **options}))
    if name == "exponential":
        return _each_epoch(ExponentialLR(optimizer, **{"gamma": 0.9, **options}))
    if name == "warmup":
        rising = LinearLR(optimizer, **{"start_factor": 1e-3, "total_iters": 1000, **options})
        return {"scheduler": rising, "interval": "step"}
    raise ValueError(f"scheduler={name!r}: allowed are {', '.join(map(repr, NAMES))}, a callable, or None")


def _each_epoch(made: Any) -> dict[str, Any]:
    return {"scheduler": made, "interval": "epoch"}


def _plateau(made: ReduceLROnPlateau, monitor: str, mode: str) -> dict[str, Any]:
    if made.mode != mode:
        warnings.warn(
            f"scheduler: the plateau waits for the {made.mode} of {monitor}, of which the {mode} is the best: give "
            f"ReduceLROnPlateau mode={mode!r}",
            UserWarning,
            stacklevel=2,
        )
    return {**_each_epoch(made), "monitor": monitor}
