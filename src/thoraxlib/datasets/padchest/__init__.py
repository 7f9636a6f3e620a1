"""PadChest: the reader, its tree of terms, and how label lists become targets."""

from thoraxlib.datasets.padchest.dataset import PadChest
from thoraxlib.datasets.padchest.targets import ListedTargets, listed_targets, parse_labels
from thoraxlib.datasets.padchest.terms import TermTree

__all__ = ["ListedTargets", "PadChest", "TermTree", "listed_targets", "parse_labels"]
