"""Detection of anatomical regions: from an image to a box and a feature vector for each region."""

from thoraxlib.detection.base import RegionDetector, Regions
from thoraxlib.detection.evaluate import RegionReport, average_precision, evaluate
from thoraxlib.detection.store import FeatureStore, extract
from thoraxlib.registry import Registry

__all__ = [
    "FeatureStore",
    "RegionDetector",
    "RegionReport",
    "Regions",
    "average_precision",
    "build",
    "describe",
    "evaluate",
    "extract",
    "names",
    "register",
    "registry",
]

registry: Registry[RegionDetector] = Registry(
    "detection", modules=[f"thoraxlib.detection.{name}" for name in ("torchvision", "faster_rcnn", "template")]
)
build, register, names, describe = registry.build, registry.register, registry.names, registry.describe
