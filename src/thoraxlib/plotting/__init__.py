"""Draw heat maps over images, boxes, panels, curves and graphs, in colours for colour-blind readers.

Images and heat maps are drawn by Pillow; curves and graphs need the extra ``plot``.
"""

from __future__ import annotations

from thoraxlib.plotting.curves import plot_graph, plot_precision_recall, plot_roc
from thoraxlib.plotting.images import ImageLike, draw_boxes, fit, outline, overlay, panel, save

__all__ = [
    "ImageLike",
    "draw_boxes",
    "fit",
    "outline",
    "overlay",
    "panel",
    "plot_graph",
    "plot_precision_recall",
    "plot_roc",
    "save",
]
