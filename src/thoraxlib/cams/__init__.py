"""Class activation maps: model and images -> a heat map for every label, (N, K, h, w).

``build(name, model)(x)`` runs the backbone once without gradients; where a method needs gradients, only the head is
differentiated, for all labels together. No hooks, unless a layer inside a network is named; nothing of the model is
changed. Works on the library's models and on timm's as they are, and on any network by naming a layer.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from thoraxlib.cams.base import ClassActivationMap
from thoraxlib.cams.split import Split, split
from thoraxlib.localization.maps import normalize, upsample
from thoraxlib.registry import Registry

__all__ = [
    "ClassActivationMap",
    "Split",
    "build",
    "describe",
    "names",
    "normalize",
    "register",
    "registry",
    "split",
    "upsample",
]

registry: Registry[ClassActivationMap] = Registry(
    "cams",
    modules=[
        *(f"thoraxlib.cams.{name}" for name in ("cam", "pcam", "gradcam", "gradcam_plusplus", "eigencam", "masking")),
        "thoraxlib.reproduce.x_ray_cams",
    ],
)
register, names, describe = registry.register, registry.names, registry.describe


def build(name: str, model: nn.Module | Split, target: str | int | None = None, **options: Any) -> ClassActivationMap:
    """The method called `name` for `model`; see :class:`ClassActivationMap` for what it does to images.

    Parameters
    ----------
    name : str
        One of :func:`names`.
    model : nn.Module or Split
        With ``forward_features`` and ``forward_head``, as the library's and timm's models have them; or any network, if
        `target` names a layer.
    target : str or int, optional
        Dotted name of the layer whose output is explained (:func:`split`), or the number of a map of a model that has
        several; default the map that the head sees, the last one of several.
    **options
        Of the method; see :func:`describe`.

    Raises
    ------
    UnknownNameError, OptionError
        See :class:`thoraxlib.registry.Registry`.
    TypeError, ValueError
        A model without the two methods and no `target`; no such layer.
    """
    return registry.build(name, model=model, target=target, **options)
