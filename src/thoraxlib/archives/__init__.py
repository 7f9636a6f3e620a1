"""Process archives of any size in several processes, resumable: prepare training copies, and score all images."""

from thoraxlib.archives.preparation import prepare
from thoraxlib.archives.score import Scored, score_archive

__all__ = ["Scored", "prepare", "score_archive"]
