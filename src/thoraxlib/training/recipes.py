"""Training settings of published codes: AG-CNN's stages, jaydurant's last layers, AnaXNet's detector."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import nn
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from thoraxlib.training.schedules import Schedule
from thoraxlib.training.stages import Stage
from thoraxlib.utils.arguments import one_of

#: Training of AnaXNet's detector, for :func:`thoraxlib.training.fit`: SGD with a warm-up, 50,000 batches of 16, from
#: COCO's weights with ``trainable_layers=3`` and ``freeze_norm=True``. That is about five epochs of Chest ImaGenome.
#: Without COCO's weights it learns far too slowly. The original's mirroring is left out: it swaps left and right, but
#: not their names.
ANAXNET_DETECTOR: Mapping[str, Any] = {
    "optimizer": partial(SGD, lr=1e-4, momentum=0.9, weight_decay=1e-4),
    "scheduler": "warmup",
    "max_steps": 50_000,
}

#: Orders of AG-CNN's stages: those of table II of the paper, and that of the published codes.
ORDERS = ("G_L_F", "G_L_F*", "G_LF", "GL_F", "GLF", "joint")

_SGD = partial(SGD, lr=0.01, momentum=0.9, weight_decay=1e-4)
_DROP = {"name": "multistep", "milestones": [20]}
# name of the stage, trained part, output
_STEPS = {
    "G": ("global", "global_branch", "global_logits"),
    "L": ("local", "local_branch", "local_logits"),
    "F": ("fusion", "head", "logits"),
}
_TRAINED = {
    "resnet50": ("backbone.net.layer4.2.conv3", "backbone.net.layer4.2.bn3", "head"),
    "densenet121": ("backbone.net.features_denseblock4.denselayer16.conv2", "backbone.net.features_norm5", "head"),
    "vgg16": ("backbone.net.features_28", "head"),
}


def ag_cnn_stages(
    order: str = "G_L_F",
    *,
    epochs: int | Sequence[int] = 50,
    batch_size: int | None = 64,
    optimizer: Callable[[Iterable[nn.Parameter]], Optimizer] = _SGD,
    scheduler: Schedule = _DROP,
) -> list[Stage]:
    """Return the stages of AG-CNN's training, for :func:`thoraxlib.training.fit_stages`.

    Guan et al. 2018 (arXiv 1801.09927), section IV-B and table II. Letters stand for the global branch, the local
    branch and the fusion. Adjacent letters are trained together, by the sum of their losses; an underscore begins the
    next stage, in which everything else is frozen. The best epoch of a stage has the highest mean AUROC of its last
    letter's output.

    Parameters
    ----------
    order : str
        "G_L_F" is the paper's method. In "G_L_F*", the last stage also trains the branches; the model must be built
        with ``detach_branches=False``. "joint" trains everything at once by 0.8 G + 0.1 L + 0.1 F, as Ien001/AG-CNN
        does, with Adam and its rates, which suit weights that are already trained. The fusion's rate is divided by 10
        at the end of every 15 epochs; the original does so one epoch earlier.
    epochs : int or sequence of int
        Epochs of all stages, or of each.
    batch_size : int, optional
        64 for ResNet-50 and 32 for DenseNet-121 in the paper; twice as many for the global branch alone. None: the data
        module's, for all stages.
    optimizer, scheduler
        By default the paper's: momentum 0.9, weight decay 1e-4, rate 0.01, divided by 10 after 20 epochs. "joint"
        ignores them.

    Raises
    ------
    ValueError
        Another order, or not one number of epochs for each stage.
    """
    one_of("order", order, ORDERS)
    steps = ["GLF"] if order == "joint" else order.removesuffix("*").split("_")
    counts = [epochs] * len(steps) if isinstance(epochs, int) else list(epochs)
    if len(counts) != len(steps):
        raise ValueError(f"epochs={epochs}: {order!r} has {len(steps)} stages")
    if order == "joint":
        # one Adam with three groups equals three Adams: the branches have no gradient in common
        joint = Stage(
            name="joint",
            trained=[part for _, part, _ in _STEPS.values()],
            losses={"global_logits": 0.8, "local_logits": 0.1, "logits": 0.1},
            epochs=counts[0],
            batch_size=batch_size,
            optimizer=partial(Adam, lr=1e-3, weight_decay=1e-5),
            scheduler=partial(LambdaLR, lr_lambda=[_same, _same, _every_15]),
            rates={"global_branch": 1e-8, "local_branch": 1e-8, "head": 1e-3},
        )
        return [joint]
    stages = []
    for step, count in zip(steps, counts, strict=True):
        names, parts, outputs = zip(*(_STEPS[letter] for letter in step), strict=True)
        if order.endswith("*") and step == "F":
            parts = tuple(part for _, part, _ in _STEPS.values())
        stages.append(
            Stage(
                name="_".join(names),
                trained=parts,
                output=outputs[-1],
                losses=dict.fromkeys(outputs, 1.0) if len(step) > 1 else {},
                epochs=count,
                batch_size=2 * batch_size if batch_size and step == "G" else batch_size,
                optimizer=optimizer,
                scheduler=scheduler,
            )
        )
    return stages


def jaydurant_stage(model: nn.Module, **settings: Any) -> Stage:
    """Return the stage that trains the same layers as jaydurant/ChestX-ray_classification_and_localization.

    These are the head and layers of an ImageNet backbone: the last convolution and norm of ResNet-50 (1,097,750
    parameters with 22 labels), the last convolution of the last block and the last norm of DenseNet-121 (61,462), or
    the last convolution of VGG-16 (2,371,094).

    Parameters
    ----------
    model : nn.Module
        A classifier with one of these backbones.
    **settings
        Further fields of :class:`~thoraxlib.training.Stage`. In the repository, norms of frozen layers still update
        their statistics: ``frozen_statistics=False``.

    Raises
    ------
    ValueError
        The model has another backbone.
    """
    modules = dict(model.named_modules())
    for parts in _TRAINED.values():
        if all(name in modules for name in parts):
            return Stage(name="jaydurant", trained=parts, **settings)
    raise ValueError(
        f"model has none of the backbones of this stage ({', '.join(_TRAINED)}); name the parts yourself: "
        "Stage(name=..., trained=[...])"
    )


def _same(epoch: int) -> float:
    return 1.0


def _every_15(epoch: int) -> float:
    return float(0.1 ** (epoch // 15))
