"""What a model finds on films, and where: :func:`explain`, its results, and the ways to see."""

from __future__ import annotations

from thoraxlib.explanation.films import check_model, explain, explain_each, look_of, thresholds
from thoraxlib.explanation.look import Look, Seen
from thoraxlib.explanation.result import Explanation, Finding

__all__ = [
    "Explanation",
    "Finding",
    "Look",
    "Seen",
    "check_model",
    "explain",
    "explain_each",
    "look_of",
    "thresholds",
]
