"""Learning-rate schedules by name, in Lightning's form."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

from torch.optim import Optimizer, lr_scheduler

from thoraxlib.utils.arguments import one_of

Schedule = str | Mapping[str, Any] | Callable[[Optimizer], Any] | None

# torch's scheduler, options, and whether it steps after each step or epoch
_SCHEDULES: dict[str, tuple[Callable[..., Any], dict[str, Any], str]] = {
    "onecycle": (lr_scheduler.OneCycleLR, {}, "step"),
    "cosine": (lr_scheduler.CosineAnnealingLR, {}, "step"),
    "plateau": (lr_scheduler.ReduceLROnPlateau, {"factor": 0.1, "patience": 0}, "epoch"),
    "multistep": (lr_scheduler.MultiStepLR, {"milestones": []}, "epoch"),
    "exponential": (lr_scheduler.ExponentialLR, {"gamma": 0.9}, "epoch"),
    "warmup": (lr_scheduler.LinearLR, {"start_factor": 1e-3, "total_iters": 1000}, "step"),
}


def of_whole_run(spec: Schedule) -> bool:
    """Return True if the rates depend on the length of the whole run."""
    return (spec.get("name") if isinstance(spec, Mapping) else spec) in ("onecycle", "cosine")


def schedule(spec: Schedule, optimizer: Optimizer, *, steps: int, monitor: str, mode: str) -> dict[str, Any] | None:
    """Build a schedule, in Lightning's form.

    Parameters
    ----------
    spec : str, mapping, callable or None
        ``"onecycle"`` and ``"cosine"`` run over all steps. ``"plateau"`` divides the rate by 10 after an epoch without
        improvement of `monitor`. ``"multistep"`` divides it by 10 after the numbers of epochs in ``milestones``
        (jfhealthcare/Chexpert: [2]; alinstein/X_RAY's 4, 8, 12 count from 1: [3, 7, 11]). ``"exponential"`` multiplies
        it by 0.9 after each epoch. ``"warmup"`` increases it from a thousandth over 1,000 steps and then keeps it
        (AnaXNet's detector). A mapping ``{"name": ..., **options}`` sets options of torch's scheduler. A callable makes
        a scheduler from the optimizer; it is stepped after each epoch, with `monitor` if it is a ``ReduceLROnPlateau``.
    optimizer : Optimizer
        Its rates are the highest ones of the schedule.
    steps : int
        Optimizer steps of the whole run, for schedules that depend on it.
    monitor, mode : str
        The score of a plateau, and whether its "min" or "max" is the best.

    Raises
    ------
    ValueError
        An unknown name.

    Warns
    -----
    UserWarning
        A plateau scheduler has another mode than `mode`.
    """
    if spec is None:
        return None
    if callable(spec):
        made, interval = spec(optimizer), "epoch"
    else:
        given: dict[str, Any] = {"name": spec} if isinstance(spec, str) else {**spec}
        name = given.pop("name", None)
        one_of("scheduler", name, _SCHEDULES, ", a callable, or None")
        kind, options, interval = _SCHEDULES[name]
        if name == "onecycle":
            options = {"max_lr": [group["lr"] for group in optimizer.param_groups], "total_steps": max(steps, 2)}
        elif name == "cosine":
            options = {"T_max": max(steps, 1)}
        elif name == "plateau":
            options = {"mode": mode, **options}
        made = kind(optimizer, **{**options, **given})
    plan = {"scheduler": made, "interval": interval}
    if not isinstance(made, lr_scheduler.ReduceLROnPlateau):
        return plan
    if made.mode != mode:
        warnings.warn(
            f"scheduler: the plateau waits for the {made.mode} of {monitor}, of which the {mode} is the best: give "
            f"ReduceLROnPlateau mode={mode!r}",
            UserWarning,
            stacklevel=2,
        )
    return {**plan, "monitor": monitor}
