"""``.. weights::``: the catalogue of published weights as tables, one for each kind."""

from __future__ import annotations

from typing import Any

from rst import Rendered, plain, table
from sphinx.application import Sphinx

from thoraxlib import weights

KINDS = {
    "model": "Models",
    "backbone": "Backbones",
    "segmenter": "Segmentation networks",
    "by hand": "By hand only",
}


class Weights(Rendered):
    """Tables of names, contents, training data, licences and digests."""

    def lines(self) -> list[str]:
        lines = []
        for kind, title in KINDS.items():
            cards = [card for name in weights.names() if (card := weights.describe(name)).kind == kind]
            if kind == "by hand":
                rows = [
                    [f"``{card.name}``", plain(card.summary), _link(card.source), card.weights_licence]
                    for card in cards
                ]
                body = table(["Name", "Contents", "Where to ask", "Licence"], rows, [20, 40, 25, 15])
            else:
                rows = [
                    [f"``{card.name}``", plain(card.summary), card.trained_on, _licence(card), _digest(card)]
                    for card in cards
                ]
                body = table(
                    ["Name", "Contents", "Trained on", "Licence: code; weights", "Digest"], rows, [20, 34, 18, 16, 12]
                )
            lines += [f".. rubric:: {title}", "", *body, ""]
        return lines


def _link(source: str) -> str:
    return f"`page <{source}>`__" if source.startswith("https://") else plain(source)


def _licence(card: weights.WeightsCard) -> str:
    return plain(f"{card.code_licence}; {card.weights_licence}")


def _digest(card: weights.WeightsCard) -> str:
    pickled = ", pickled" if card.pickled else ""
    return ("SHA-256" if card.sha256 else "git blob id" if card.git_blob else "unverified") + pickled


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("weights", Weights)
    return {"parallel_read_safe": True, "version": "1"}
