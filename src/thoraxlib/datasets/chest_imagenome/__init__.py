"""Chest ImaGenome: regions of MIMIC-CXR's frontal images with the findings that reports tell of each.

Data flow one way: `scene_graphs` (silver) or `gold` read the release into the tables of `annotations`, `cache` keeps
them, `parts` says which images are asked for, and `dataset` is what a user sees.
"""

from thoraxlib.datasets.chest_imagenome.dataset import ChestImaGenome

__all__ = ["ChestImaGenome"]
