"""Heat maps and masks as arrays of pixels: scaling, thresholds, connected components.

What :mod:`thoraxlib.cams`, :mod:`thoraxlib.cropping`, :mod:`thoraxlib.localization` and :mod:`thoraxlib.viz` share. It
knows nothing of models or boxes' meaning.
"""

from __future__ import annotations

from thoraxlib.maps.components import Components, Runs, find_components, find_runs, join_runs
from thoraxlib.maps.masks import above_otsu, above_percentile, otsu
from thoraxlib.maps.scaling import normalize, upsample

__all__ = [
    "Components",
    "Runs",
    "above_otsu",
    "above_percentile",
    "find_components",
    "find_runs",
    "join_runs",
    "normalize",
    "otsu",
    "upsample",
]
