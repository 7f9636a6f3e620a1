"""Process archives of any size in several processes, resumable: training copies, scores, features of all images."""

from thoraxlib.archives.features import FeatureFolder, Features, features
from thoraxlib.archives.preparation import prepare
from thoraxlib.archives.score import Scored, score_archive

__all__ = ["FeatureFolder", "Features", "Scored", "features", "prepare", "score_archive"]
