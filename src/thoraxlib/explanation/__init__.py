"""What a model finds on images, and where: :func:`explain`, its results, and the ways to see."""

from __future__ import annotations

from thoraxlib.explanation.images import check_model, explain, explain_each, look_of, thresholds
from thoraxlib.explanation.localized import Localized, localize, tune
from thoraxlib.explanation.look import Seen
from thoraxlib.explanation.result import Explanation, Finding

__all__ = [
    "Explanation",
    "Finding",
    "Localized",
    "Seen",
    "check_model",
    "explain",
    "explain_each",
    "localize",
    "look_of",
    "thresholds",
    "tune",
]
