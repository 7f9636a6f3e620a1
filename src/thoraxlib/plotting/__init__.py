"""Pictures: heat maps over images, boxes, panels, curves, graphs, in colours that colour-blind readers can tell apart.

Pillow draws images and heat maps; curves and graphs need the extra ``plot``.
"""

from __future__ import annotations

from thoraxlib.plotting.curves import plot_graph, plot_precision_recall, plot_roc
from thoraxlib.plotting.images import ImageLike, draw_boxes, fit, overlay, panel, save

__all__ = [
    "ImageLike",
    "draw_boxes",
    "fit",
    "overlay",
    "panel",
    "plot_graph",
    "plot_precision_recall",
    "plot_roc",
    "save",
]
