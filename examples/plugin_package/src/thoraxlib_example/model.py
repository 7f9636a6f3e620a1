"""A whole model, with a card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

import thoraxlib
from thoraxlib.models import ChestModel, ModelCard, Preset
from thoraxlib.registry import Spec

_CARD = ModelCard(
    paper="(no paper: an example of a plug-in)",
    label_sets=("nih14", "chexpert5", "mimic14"),
    presets={"dense": Preset("Every co-occurrence is an edge.", {"adjacency": {"name": "ochiai", "threshold": 0}})},
)


# the decorator is for the card; without one, the entry point is enough
@thoraxlib.register("shallow_graph", card=_CARD)
def shallow_graph(
    *,
    labels: str | Sequence[str] = "nih14",
    backbone: Spec | nn.Module = "shallow_convnet",
    pool: Spec | nn.Module = "avg",
    adjacency: Spec = "ochiai",
    in_chans: int = 1,
    pretrained: bool = False,
    input_spec: Mapping[str, Any] | thoraxlib.InputSpec | None = None,
) -> ChestModel:
    """Shallow network with a label graph head, for small images and quick trials.

    Parameters
    ----------
    labels : str or sequence of str
        A label set's name, or the labels.
    backbone, pool, adjacency : str, mapping or module
        Components by name, from this package or any other.
    in_chans : int
        Channels of the images.
    pretrained : bool
        Passed to a backbone that has published weights; the default one has none.
    input_spec : mapping or InputSpec, optional
        Changes to the default input (224 x 224, ImageNet statistics).
    """
    return thoraxlib.build(
        "classifier",
        labels=labels,
        backbone=backbone,
        pool=pool,
        head={"name": "label_graph", "adjacency": adjacency, "hidden": [64]},
        in_chans=in_chans,
        pretrained=pretrained,
        input_spec=input_spec,
    )
