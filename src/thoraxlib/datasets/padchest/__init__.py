"""PadChest: the reader, its tree of terms, and the targets of its label lists."""

from thoraxlib.datasets.padchest.dataset import PadChest
from thoraxlib.datasets.padchest.terms import ListedTargets, TermTree, listed_targets, parse_labels

__all__ = ["ListedTargets", "PadChest", "TermTree", "listed_targets", "parse_labels"]
