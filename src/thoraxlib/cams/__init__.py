"""Class activation maps: model and images -> a heat map for every label, (N, K, h, w).

``build(name, model)(x)`` runs the backbone once without gradients. Methods that need gradients differentiate only the
head, for all labels together. Hooks are used only if a layer inside a network is named; the model is not changed. It
works with the library's models and timm's models, and with any network if a layer is named.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from thoraxlib.cams.base import ClassActivationMap
from thoraxlib.cams.split import Split
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
    "upsample",
]

registry: Registry[ClassActivationMap] = Registry(
    "cams",
    modules=[
        *(f"thoraxlib.cams.{name}" for name in ("cam", "gradcam", "gradient_free")),
        "thoraxlib.reproduce.x_ray_cams",
    ],
)
register, names, describe = registry.register, registry.names, registry.describe


def build(name: str, model: nn.Module | Split, target: str | int | None = None, **options: Any) -> ClassActivationMap:
    """Build a heat map method for a model; call the result as a :class:`ClassActivationMap`.

    Parameters
    ----------
    name : str
        Name of the method, one of :func:`names`.
    model : nn.Module or Split
        With ``forward_features`` and ``forward_head``, like the library's and timm's models; or any network, if
        `target` names a layer.
    target : str or int, optional
        Dotted name of the layer whose output is explained (:class:`Split`), or the index of a map if the model has
        several; default the map that the head gets, the last one of several.
    **options
        Options of the method; see :func:`describe`.

    Raises
    ------
    UnknownNameError, OptionError
        See :class:`thoraxlib.registry.Registry`.
    TypeError, ValueError
        A model without the two methods and no `target`; no such layer.
    """
    return registry.build(name, model=model, target=target, **options)
