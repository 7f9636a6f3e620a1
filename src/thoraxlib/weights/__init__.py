"""Catalogue of published weights: names, cards, verified downloads. It needs no torch.

``names()`` lists them, ``describe(name)`` is a :class:`WeightsCard`, ``fetch(name)`` downloads and verifies the file,
and :func:`thoraxlib.load_pretrained` makes the model that holds it.
"""

from __future__ import annotations

from thoraxlib.utils.download import DigestError
from thoraxlib.weights.cards import WeightsCard, describe, names
from thoraxlib.weights.download import fetch

__all__ = ["DigestError", "WeightsCard", "describe", "fetch", "names"]
