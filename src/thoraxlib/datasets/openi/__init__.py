"""The Indiana University collection (Open-i): images, reports, and the CheXpert labeller's table of the reports."""

from thoraxlib.datasets.openi.dataset import OpenI
from thoraxlib.datasets.openi.labeler import MAPPINGS, OBSERVATIONS, LabelerTable
from thoraxlib.datasets.openi.reports import Report, export_reports, read_report, read_reports

__all__ = [
    "MAPPINGS",
    "OBSERVATIONS",
    "LabelerTable",
    "OpenI",
    "Report",
    "export_reports",
    "read_report",
    "read_reports",
]
