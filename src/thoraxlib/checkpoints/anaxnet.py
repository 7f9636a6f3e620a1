"""Checkpoints of Nkechinyere-Agu/AnaXNet: the region graph, without its detector."""

from __future__ import annotations

import re

from torch import Tensor

from thoraxlib.checkpoints import register
from thoraxlib.checkpoints.layout import Layout, having, renaming

_ADJACENCY = "anatomy_inp_tensor"
_RULES = {
    rf"^{_ADJACENCY}$": "head.operator.matrix",
    r"^anatomy_gc1\.": "head.convolutions.0.",
    r"^anatomy_gc2\.": "head.convolutions.1.",
    r"^fc\.0\.": "head.norm.",
    r"^fc\.2\.": "head.classifier.",
}


@register("anaxnet")
def anaxnet() -> Layout:
    """Nkechinyere-Agu/AnaXNet: region graph, attention and classifier, with the adjacency they were trained with.

    The detector is another file there, of detectron2; a model's own stays.
    """
    return Layout(
        having(r"anatomy_gc1\.weight$"),
        renaming(_RULES, _checked),
        kept=re.compile(r"detector\.").match,
        names={"region_names": ("regions18",), "labels": ("imagenome9",)},
    )


def _checked(key: str, value: Tensor) -> Tensor:
    """Return the value unless it is an adjacency that AnaXNet's code cannot have made."""
    if key == "head.operator.matrix" and not (
        value.ndim == 2
        and bool(((value == 0) | (value == 1)).all())
        and value.equal(value.mT)
        and bool((value.diagonal() == 1).all())
    ):
        raise ValueError(
            f"{_ADJACENCY} is no adjacency matrix of AnaXNet: zeros and ones, symmetric, ones on the diagonal"
        )
    return value
