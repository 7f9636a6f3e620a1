"""Explain images: :func:`explain`, its results, and boxes of a whole data set."""

from __future__ import annotations

from thoraxlib.explanation.images import explain, explain_each
from thoraxlib.explanation.localized import Localized, localize, tune
from thoraxlib.explanation.result import Explanation, Finding
from thoraxlib.explanation.view import View, ViewCheck

__all__ = ["Explanation", "Finding", "Localized", "View", "ViewCheck", "explain", "explain_each", "localize", "tune"]
