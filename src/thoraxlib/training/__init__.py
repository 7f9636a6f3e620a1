"""Training and prediction: the loop is Lightning's; here is what is special to images with many, partly unknown labels.

Needs the extra: ``pip install "thoraxlib[train]"``.
"""

try:
    import lightning.pytorch  # noqa: F401
except ImportError as error:
    raise ImportError('thoraxlib.training needs Lightning: pip install "thoraxlib[train]"') from error

from thoraxlib.training.ag_cnn import ag_cnn_stages
from thoraxlib.training.data import DataModule
from thoraxlib.training.detection import ANAXNET_DETECTOR, DetectionTask
from thoraxlib.training.fit import FitResult, fit
from thoraxlib.training.jaydurant import jaydurant_stage
from thoraxlib.training.predict import Predictions, predict
from thoraxlib.training.processes import first_process, is_first_process
from thoraxlib.training.regions import RegionTask
from thoraxlib.training.segmentation import SegmentationTask
from thoraxlib.training.stages import Stage, fit_stages
from thoraxlib.training.task import MultiLabelTask, Task

__all__ = [
    "ANAXNET_DETECTOR",
    "DataModule",
    "DetectionTask",
    "FitResult",
    "MultiLabelTask",
    "Predictions",
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
]
