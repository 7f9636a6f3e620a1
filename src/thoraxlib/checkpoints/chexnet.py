"""The public CheXNet checkpoints: arnoweng/CheXNet, zoogzog/chexnet, jrzech/reproduce-chexnet and their forks."""

from __future__ import annotations

from thoraxlib.checkpoints import register
from thoraxlib.checkpoints.layout import LOGITS, OLD_DENSENET, Layout, having, renaming

_NAMES = {"labels": ("nih14",)}
_RULES = {r"^densenet(121|169|201)\.": "", **OLD_DENSENET, r"^classifier\.0\.": f"{LOGITS}."}


@register("chexnet_arnoweng")
def chexnet_arnoweng() -> Layout:
    """arnoweng/CheXNet ``model.pth.tar`` and forks: a wrapper's ``densenet121``, sigmoid in the classifier."""
    return Layout(having(r"densenet121\."), renaming(_RULES), names=_NAMES)


@register("chexnet_zoogzog")
def chexnet_zoogzog() -> Layout:
    """zoogzog/chexnet: as arnoweng for DenseNet-121, and its DenseNet-169 and -201."""
    return Layout(having(r"densenet(121|169|201)\."), renaming(_RULES), names=_NAMES)


@register("chexnet_jrzech")
def chexnet_jrzech() -> Layout:
    """jrzech/reproduce-chexnet ``checkpoint``: torchvision's net itself, sigmoid in the classifier."""
    return Layout(having(r"features\.conv0\.weight$", r"classifier\.0\.weight$"), renaming(_RULES), names=_NAMES)
