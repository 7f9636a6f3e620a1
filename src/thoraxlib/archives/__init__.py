"""Archives of any size: training copies prepared, and every image scored, in several processes, interrupted or not."""

from thoraxlib.archives.preparation import prepare
from thoraxlib.archives.score import Scored, score_archive

__all__ = ["Scored", "prepare", "score_archive"]
