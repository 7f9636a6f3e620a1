"""How jaydurant/ChestX-ray_classification_and_localization trains: the last layers of an ImageNet network."""

from __future__ import annotations

from typing import Any

from torch import nn

from thoraxlib.training.stages import Stage

_TRAINED = {
    "resnet50": ("backbone.net.layer4.2.conv3", "backbone.net.layer4.2.bn3", "head"),
    "densenet121": ("backbone.net.features_denseblock4.denselayer16.conv2", "backbone.net.features_norm5", "head"),
    "vgg16": ("backbone.net.features_28", "head"),
}


def jaydurant_stage(model: nn.Module, *, frozen_statistics: bool = True, **settings: Any) -> Stage:
    """The stage, for :func:`thoraxlib.training.fit_stages`, that trains what that repository trains.

    The head, and of the backbone: the last convolution and norm of ResNet-50 (1,097,750 parameters with 22 labels), the
    last convolution of the last block and the last norm of DenseNet-121 (61,462), the last convolution of VGG-16
    (2,371,094).

    Parameters
    ----------
    model : nn.Module
        A classifier with one of these backbones.
    frozen_statistics : bool
        Norms of the frozen layers keep their statistics. In the repository they do not: False.
    **settings
        Further fields of :class:`~thoraxlib.training.Stage`.

    Raises
    ------
    ValueError
        Another backbone.
    """
    modules = dict(model.named_modules())
    for parts in _TRAINED.values():
        if all(name in modules for name in parts):
            return Stage(
                **{"name": "jaydurant", "trained": list(parts), "frozen_statistics": frozen_statistics, **settings}
            )
    raise ValueError(
        f"model has none of the backbones that this stage is of ({', '.join(_TRAINED)}); name the parts yourself: "
        "Stage(name=..., trained=[...])"
    )
