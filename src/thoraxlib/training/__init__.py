"""Training and prediction with Lightning, for images with many labels, some of them unknown.

Needs the extra: ``pip install "thoraxlib[train]"``.
"""

try:
    import lightning.pytorch  # noqa: F401
except ImportError as error:
    raise ImportError('thoraxlib.training needs Lightning: pip install "thoraxlib[train]"') from error

from thoraxlib.training.data import DataModule
from thoraxlib.training.fit import FitResult, fit
from thoraxlib.training.predict import Predictions, predict
from thoraxlib.training.probe import ProbeResult, probe
from thoraxlib.training.processes import first_process, is_first_process
from thoraxlib.training.recipes import ANAXNET_DETECTOR, ag_cnn_stages, jaydurant_stage
from thoraxlib.training.stages import Stage, fit_stages
from thoraxlib.training.task import Task
from thoraxlib.training.tasks import DetectionTask, MultiLabelTask, RegionTask, SegmentationTask

__all__ = [
    "ANAXNET_DETECTOR",
    "DataModule",
    "DetectionTask",
    "FitResult",
    "MultiLabelTask",
    "Predictions",
    "ProbeResult",
    "RegionTask",
    "SegmentationTask",
    "Stage",
    "Task",
    "ag_cnn_stages",
    "first_process",
    "fit",
    "fit_stages",
    "is_first_process",
    "jaydurant_stage",
    "predict",
    "probe",
]
