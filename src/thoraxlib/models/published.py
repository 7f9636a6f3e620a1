"""Models with published weights, by their names in the catalogue."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from thoraxlib import models, segmentation, weights
from thoraxlib.checkpoints import load_checkpoint, read
from thoraxlib.models.base import ChestModel
from thoraxlib.segmentation import Segmenter
from thoraxlib.weights import WeightsCard


def published(card: WeightsCard, *, allow_pickle: bool = False) -> ChestModel | Segmenter:
    """Build the model or segmenter that published weights belong to, and load them.

    Parameters
    ----------
    card : WeightsCard
        From :func:`thoraxlib.weights.describe`.
    allow_pickle : bool
        Load a whole pickled module, which runs the code that it names.

    Returns
    -------
    ChestModel or Segmenter
        In eval mode.

    Raises
    ------
    ValueError
        A pickled module without `allow_pickle`; a file that is not the published one; weights of a backbone.
    OSError
        The file cannot be had; see :func:`thoraxlib.weights.fetch`.
    """
    name, preset = card.build.get("name", ""), card.build.get("preset")
    options: Mapping[str, Any] = card.build.get("options", {})
    if card.kind == "backbone":
        raise ValueError(
            f"{card.name} is a backbone, not a model: thoraxlib.backbones.build({name!r}, pretrained=True), or "
            f'thoraxlib.build("classifier", backbone={name!r}, pretrained=True) with a new head'
        )
    if card.pickled and not allow_pickle:
        raise ValueError(
            f"{card.name}: the file is a whole pickled module, and loading it runs the code that it names. If you "
            f"trust {card.source}, pass allow_pickle=True once, then thoraxlib.save_pretrained(model, folder)"
        )
    if card.kind == "segmenter":
        return segmentation.build(name, pretrained=True, **options).eval()
    path = weights.fetch(card.name)
    model = models.build(name, preset=preset, **options)
    if card.layout is None:
        from thoraxlib.models.torchxrayvision import load_state

        load_state(model, read(path, allow_pickle=allow_pickle))  # type: ignore[arg-type]
    else:
        load_checkpoint(model, path, layout=card.layout, labels=card.labels, allow_pickle=allow_pickle)
    return model.eval()
