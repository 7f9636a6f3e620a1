"""The public CheXNet checkpoints: arnoweng/CheXNet, zoogzog/chexnet, jrzech/reproduce-chexnet and their forks."""

from __future__ import annotations

import re

from torch import Tensor

from thoraxlib.checkpoints import register
from thoraxlib.checkpoints.layout import Layout, StateDict, bare, modern_densenet_keys, rename_head


@register("chexnet_arnoweng")
def chexnet_arnoweng() -> Layout:
    """arnoweng/CheXNet ``model.pth.tar`` and forks: a wrapper's ``densenet121``, sigmoid in the classifier."""
    return Layout(recognises=lambda state: _wrapped(state, "densenet121"), translate=_translate)


@register("chexnet_zoogzog")
def chexnet_zoogzog() -> Layout:
    """zoogzog/chexnet: as arnoweng for DenseNet-121, and its DenseNet-169 and -201."""
    return Layout(
        recognises=lambda state: _wrapped(state, "densenet121", "densenet169", "densenet201"), translate=_translate
    )


@register("chexnet_jrzech")
def chexnet_jrzech() -> Layout:
    """jrzech/reproduce-chexnet ``checkpoint``: torchvision's net itself, sigmoid in the classifier."""
    return Layout(
        recognises=lambda state: {"features.conv0.weight", "classifier.0.weight"} <= set(_stripped(state)),
        translate=_translate,
    )


def _wrapped(state: StateDict, *wrappers: str) -> bool:
    return any(key.startswith(f"{wrapper}.") for wrapper in wrappers for key in bare(state))


def _stripped(state: StateDict) -> dict[str, Tensor]:
    return {re.sub(r"^densenet(121|169|201)\.", "", key): value for key, value in bare(state).items()}


def _translate(state: StateDict) -> dict[str, Tensor]:
    return rename_head(modern_densenet_keys(_stripped(state)), "classifier.0")
