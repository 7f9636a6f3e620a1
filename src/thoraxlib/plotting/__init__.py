"""Draw heat maps over images, boxes, panels, curves, subgroups and graphs, in colours for colour-blind readers.

Images and heat maps are drawn by Pillow; curves and graphs need the extra ``plot``.
"""

from __future__ import annotations

from thoraxlib.plotting.curves import plot_graph, plot_models, plot_precision_recall, plot_reliability, plot_roc
from thoraxlib.plotting.groups import plot_subgroups
from thoraxlib.plotting.images import ImageLike, draw_boxes, fit, outline, overlay, panel, save

__all__ = [
    "ImageLike",
    "draw_boxes",
    "fit",
    "outline",
    "overlay",
    "panel",
    "plot_graph",
    "plot_models",
    "plot_precision_recall",
    "plot_reliability",
    "plot_roc",
    "plot_subgroups",
    "save",
]
