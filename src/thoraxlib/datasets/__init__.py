"""Data sets of dicts of tensors, with labels (NaN = unknown), boxes, regions and masks where they exist.

Every data set has ``labels``, ``targets``, ``patient_ids`` and ``ids`` (see :class:`ChestDataset`), so that class
weights, splits and statistics need no image to be decoded.
"""

from thoraxlib.datasets.anaxnet_features import read_anaxnet_features
from thoraxlib.datasets.base import ChestDataset
from thoraxlib.datasets.coco import save_coco, to_coco, to_detectron2
from thoraxlib.datasets.collate import collate
from thoraxlib.datasets.organs import WithOrganMasks
from thoraxlib.datasets.region_statistics import RegionStatistics, region_statistics
from thoraxlib.datasets.regions import RegionTable, read_regions
from thoraxlib.datasets.splits import Subset, oversample, split_by_patient, split_patients
from thoraxlib.registry import Registry

__all__ = [
    "ChestDataset",
    "RegionStatistics",
    "RegionTable",
    "Subset",
    "WithOrganMasks",
    "build",
    "collate",
    "describe",
    "names",
    "oversample",
    "read_anaxnet_features",
    "read_regions",
    "region_statistics",
    "register",
    "registry",
    "save_coco",
    "split_by_patient",
    "split_patients",
    "to_coco",
    "to_detectron2",
]

registry: Registry[ChestDataset] = Registry("datasets", modules=["thoraxlib.datasets.entries"])
build, register, names, describe = registry.build, registry.register, registry.names, registry.describe
