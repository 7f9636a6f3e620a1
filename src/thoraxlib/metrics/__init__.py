"""Scores of multi-label classification with unknown labels, their intervals, curves, and tables.

Targets are (N, K): 1, 0, or NaN for unknown; scores are (N, K), probabilities or logits. Both may be tensors or
arrays. Scores come from scikit-learn; a label without both classes has the score NaN, is left out of the mean, and is
named in a warning. In float32 a probability is exactly 1 from a logit of 17 on, and AUROC then counts such images as
equal: give logits, or probabilities in float64, as :func:`thoraxlib.training.predict` returns them. The scores of organ
masks are in :mod:`thoraxlib.segmentation`, those of boxes in :mod:`thoraxlib.localization`.
"""

from __future__ import annotations

from thoraxlib.metrics.calibration import Calibration, fit_calibration
from thoraxlib.metrics.comparison import Comparison, ComparisonRow, DeLong, compare, delong, holm
from thoraxlib.metrics.curves import (
    CHEXPERT_RADIOLOGISTS,
    Curve,
    macro_roc,
    micro_roc,
    precision_recall_curves,
    radiologists_under_curve,
    roc_curves,
)
from thoraxlib.metrics.groups import AGE_BANDS, Gap, SubgroupRow, Subgroups, subgroups
from thoraxlib.metrics.intervals import Difference, Interval, bootstrap, bootstrap_difference, bootstrap_mean
from thoraxlib.metrics.regions import RegionScores, evaluate_regions
from thoraxlib.metrics.reliability import (
    BrierParts,
    CalibrationReport,
    CalibrationRow,
    Reliability,
    brier_parts,
    brier_score,
    evaluate_calibration,
    expected_calibration_error,
    reliability_curves,
)
from thoraxlib.metrics.report import Report, Row, evaluate
from thoraxlib.metrics.scores import auroc, average_precision
from thoraxlib.metrics.studies import JF_RULES, aggregate, image_level
from thoraxlib.metrics.thresholds import best_thresholds, confusion

__all__ = [
    "AGE_BANDS",
    "CHEXPERT_RADIOLOGISTS",
    "JF_RULES",
    "BrierParts",
    "Calibration",
    "CalibrationReport",
    "CalibrationRow",
    "Comparison",
    "ComparisonRow",
    "Curve",
    "DeLong",
    "Difference",
    "Gap",
    "Interval",
    "RegionScores",
    "Reliability",
    "Report",
    "Row",
    "SubgroupRow",
    "Subgroups",
    "aggregate",
    "auroc",
    "average_precision",
    "best_thresholds",
    "bootstrap",
    "bootstrap_difference",
    "bootstrap_mean",
    "brier_parts",
    "brier_score",
    "compare",
    "confusion",
    "delong",
    "evaluate",
    "evaluate_calibration",
    "evaluate_regions",
    "expected_calibration_error",
    "fit_calibration",
    "holm",
    "image_level",
    "macro_roc",
    "micro_roc",
    "precision_recall_curves",
    "radiologists_under_curve",
    "reliability_curves",
    "roc_curves",
    "subgroups",
]
