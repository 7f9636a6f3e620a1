"""The schedules of AG-CNN: the paper's stages in its orders, and the one of the published codes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from thoraxlib.training.schedules import Schedule
from thoraxlib.training.stages import Stage
from thoraxlib.utils.arguments import one_of

#: Of table II of the paper, and that of the published codes.
ORDERS = ("G_L_F", "G_L_F*", "G_LF", "GL_F", "GLF", "joint")

_PARTS = {"G": "global_branch", "L": "local_branch", "F": "head"}
_OUTPUTS = {"G": "global_logits", "L": "local_logits", "F": "logits"}
_NAMES = {"G": "global", "L": "local", "F": "fusion"}
_SGD = partial(torch.optim.SGD, lr=0.01, momentum=0.9, weight_decay=1e-4)
_DROP = {"name": "multistep", "milestones": [20]}


def ag_cnn_stages(
    order: str = "G_L_F",
    *,
    epochs: int | Sequence[int] = 50,
    batch_size: int | None = 64,
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer] = _SGD,
    scheduler: Schedule = _DROP,
) -> list[Stage]:
    """How AG-CNN is trained, for :func:`thoraxlib.training.fit_stages`.

    Guan et al. 2018 (arXiv 1801.09927), section IV-B and table II. Letters are the branches and the fusion; those that
    stand together are trained together, by the sum of their losses; an underscore begins a stage, in which everything
    else is frozen. The best epoch of a stage is that of its last letter's mean AUROC.

    Parameters
    ----------
    order : str
        "G_L_F" is the method. "G_L_F*": the last stage tunes the branches as well, which needs a model built with
        ``detach_branches=False``. "joint": as Ien001/AG-CNN, everything at once by 0.8 G + 0.1 L + 0.1 F, with Adam at
        its rates, which suit weights that are trained already; the fusion's is divided by 10 every 15 epochs (at their
        ends, where the code does it one epoch early).
    epochs : int or sequence of int
        Of each stage.
    batch_size : int, optional
        64 for ResNet-50 and 32 for DenseNet-121 in the paper; the global branch alone takes twice as many. None: the
        data module's, for all.
    optimizer, scheduler
        By default the paper's: momentum 0.9, weight decay 1e-4, rate 0.01, divided by 10 after 20 epochs. Not for
        "joint".

    Raises
    ------
    ValueError
        Another order; epochs that are not one number for each stage.
    """
    one_of("order", order, ORDERS)
    steps = ["GLF"] if order == "joint" else order.removesuffix("*").split("_")
    each = [epochs] * len(steps) if isinstance(epochs, int) else list(epochs)
    if len(each) != len(steps):
        raise ValueError(f"epochs={epochs}: {order!r} has {len(steps)} stages")
    if order == "joint":
        return [_joint(each[0], batch_size)]
    stages = []
    for step, count in zip(steps, each, strict=True):
        tuned = _PARTS if order.endswith("*") and step == "F" else step
        stages.append(
            Stage(
                name="_".join(_NAMES[letter] for letter in step),
                trained=[_PARTS[letter] for letter in tuned],
                output=_OUTPUTS[step[-1]],
                losses={_OUTPUTS[letter]: 1.0 for letter in step} if len(step) > 1 else {},
                epochs=count,
                batch_size=2 * batch_size if batch_size and step == "G" else batch_size,
                optimizer=optimizer,
                scheduler=scheduler,
            )
        )
    return stages


def _joint(epochs: int, batch_size: int | None) -> Stage:
    """One Adam with three groups is three Adams: no gradient of one network depends on another."""
    return Stage(
        name="joint",
        trained=list(_PARTS.values()),
        losses=dict(zip(_OUTPUTS.values(), (0.8, 0.1, 0.1), strict=True)),
        epochs=epochs,
        batch_size=batch_size,
        optimizer=partial(torch.optim.Adam, lr=1e-3, weight_decay=1e-5),
        scheduler=partial(LambdaLR, lr_lambda=[_same, _same, _every_15]),
        rates={"global_branch": 1e-8, "local_branch": 1e-8, "head": 1e-3},
    )


def _same(epoch: int) -> float:
    return 1.0


def _every_15(epoch: int) -> float:
    return float(0.1 ** (epoch // 15))
