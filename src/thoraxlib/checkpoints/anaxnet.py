"""Checkpoints of Nkechinyere-Agu/AnaXNet: the region graph, without its detector."""

from __future__ import annotations

from torch import Tensor

from thoraxlib.checkpoints import register
from thoraxlib.checkpoints.layout import Layout, StateDict, bare

_ADJACENCY = "anatomy_inp_tensor"
_OWN = {
    _ADJACENCY: "head.operator.matrix",
    "anatomy_gc1.weight": "head.convolutions.0.weight",
    "anatomy_gc2.weight": "head.convolutions.1.weight",
    "fc.0.weight": "head.norm.weight",
    "fc.0.bias": "head.norm.bias",
    "fc.2.weight": "head.classifier.weight",
    "fc.2.bias": "head.classifier.bias",
}


@register("anaxnet")
def anaxnet() -> Layout:
    """Nkechinyere-Agu/AnaXNet: region graph, attention and classifier, with the adjacency they were trained with.

    The detector is another file there, of detectron2; a model's own stays.
    """
    return Layout(
        recognises=lambda state: "anatomy_gc1.weight" in bare(state),
        translate=_translate,
        kept=lambda key: key.startswith("detector."),
        names={"region_names": "regions18", "labels": "imagenome9"},
    )


def _translate(state: StateDict) -> dict[str, Tensor]:
    entries = bare(state)
    graph = entries.get(_ADJACENCY)
    if graph is not None and not (
        graph.ndim == 2
        and bool(((graph == 0) | (graph == 1)).all())
        and graph.equal(graph.mT)
        and bool((graph.diagonal() == 1).all())
    ):
        raise ValueError(
            f"{_ADJACENCY} is no adjacency as AnaXNet makes it: zeros and ones, symmetric, ones on the diagonal"
        )
    return {_OWN.get(key, key): value for key, value in entries.items()}
