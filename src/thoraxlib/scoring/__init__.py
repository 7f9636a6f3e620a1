"""Scoring of archives of any size: every film's probabilities and boxes, in several processes, interrupted or not."""

from thoraxlib.scoring.archive import Scored, score_archive

__all__ = ["Scored", "score_archive"]
