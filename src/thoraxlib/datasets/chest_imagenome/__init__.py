"""Chest ImaGenome: regions of MIMIC-CXR's frontal images, with their findings from the reports.

`scene_graphs` (silver) and `gold` read the release into the tables of `annotations`; `dataset` has the reader and its
splits.
"""

from thoraxlib.datasets.chest_imagenome.dataset import ChestImaGenome

__all__ = ["ChestImaGenome"]
