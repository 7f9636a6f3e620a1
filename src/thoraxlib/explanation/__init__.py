"""Explain images: :func:`explain`, its results, and boxes of a whole data set."""

from __future__ import annotations

from thoraxlib.explanation.findings import Findings, explainer_for
from thoraxlib.explanation.images import check_model, explain, explain_each, thresholds
from thoraxlib.explanation.localized import Localized, localize, tune
from thoraxlib.explanation.result import Explanation, Finding

__all__ = [
    "Explanation",
    "Finding",
    "Findings",
    "Localized",
    "check_model",
    "explain",
    "explain_each",
    "explainer_for",
    "localize",
    "thresholds",
    "tune",
]
