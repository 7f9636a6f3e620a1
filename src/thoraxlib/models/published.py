"""Models with published weights, by their names in the catalogue."""

from __future__ import annotations

from thoraxlib import models, weights
from thoraxlib.checkpoints import load_checkpoint, read
from thoraxlib.models.base import ChestModel

_BUILT_BY = {
    "backbone": "thoraxlib.backbones.build({name!r}, pretrained=True)",
    "segmenter": "thoraxlib.segmentation.build({name!r}, pretrained=True)",
}


def published(name: str, *, allow_pickle: bool = False) -> ChestModel:
    """Build the model that published weights belong to, and load them.

    Parameters
    ----------
    name : str
        One of :func:`thoraxlib.weights.names`.
    allow_pickle : bool
        Load a whole pickled module, which runs the code that it names.

    Returns
    -------
    ChestModel
        In eval mode.

    Raises
    ------
    UnknownNameError
        No such name.
    ValueError
        A pickled module without `allow_pickle`; a file that is not the published one; weights of a backbone or a
        segmenter.
    OSError
        The file cannot be had; see :func:`thoraxlib.weights.fetch`.
    """
    card = weights.describe(name)
    if card.kind in _BUILT_BY:
        raise ValueError(f"{name} holds a {card.kind}, not a model: " + _BUILT_BY[card.kind].format(**card.build))
    if card.pickled and not allow_pickle:
        raise ValueError(
            f"{name}: the file is a whole pickled module, and loading it runs the code that it names. If you trust "
            f"{card.source}, pass allow_pickle=True once, then thoraxlib.save_pretrained(model, folder)"
        )
    path = weights.fetch(name)
    model = models.build(card.build["name"], preset=card.build.get("preset"), **card.build.get("options", {}))
    if card.layout is None:
        from thoraxlib.models.torchxrayvision import load_state

        load_state(model, read(path, allow_pickle=allow_pickle))  # type: ignore[arg-type]
    else:
        load_checkpoint(model, path, layout=card.layout, labels=card.labels, allow_pickle=allow_pickle)
    return model.eval()
