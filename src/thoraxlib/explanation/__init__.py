"""What a model finds on films, and where: :func:`explain`, its results, and the ways to see."""

from __future__ import annotations

from thoraxlib.explanation.films import explain, explain_each
from thoraxlib.explanation.look import Look, Seen
from thoraxlib.explanation.result import Explanation, Finding

__all__ = ["Explanation", "Finding", "Look", "Seen", "explain", "explain_each"]
