"""Class activation maps: model and images -> a heat map for every label, (N, K, h, w).

``build(name, model)(x)`` runs the trunk once without gradients; where a method needs gradients, only the head is
differentiated, for all labels together. No hooks; nothing of the model is changed. Works on the library's models and on
timm's as they are.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from thoraxlib.cams.base import ClassActivationMap
from thoraxlib.cams.maps import normalize, to_uint8, upsample
from thoraxlib.registry import Registry

__all__ = [
    "ClassActivationMap",
    "build",
    "describe",
    "names",
    "normalize",
    "register",
    "registry",
    "to_uint8",
    "upsample",
]

registry: Registry[ClassActivationMap] = Registry(
    "cams", modules=["thoraxlib.cams.cam", "thoraxlib.cams.gradcam", "thoraxlib.cams.gradcam_plusplus"]
)
register, names, describe = registry.register, registry.names, registry.describe


def build(name: str, model: nn.Module, target: None = None, **options: Any) -> ClassActivationMap:
    """The method called `name` for `model`; see :class:`ClassActivationMap` for what it does to images.

    Parameters
    ----------
    name : str
        One of :func:`names`.
    model : nn.Module
        With ``forward_features`` and ``forward_head``, as the library's and timm's models have them.
    target : None
        The map that the head sees; no other can be chosen yet.
    **options
        Of the method; see :func:`describe`.

    Raises
    ------
    UnknownNameError, OptionError
        See :class:`thoraxlib.registry.Registry`.
    TypeError, ValueError
        A model without the two methods; a `target`.
    """
    return registry.build(name, model=model, target=target, **options)
