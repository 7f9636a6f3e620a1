"""Data sets of samples with labels (NaN = unknown) and, if they exist, boxes, regions and masks.

Every data set has ``labels``, ``targets``, ``patient_ids`` and ``ids`` (see :class:`ChestDataset`), so that class
weights, splits and statistics need no image to be decoded.
"""

from thoraxlib.datasets.base import ChestDataset
from thoraxlib.datasets.checks import DataCheck, check
from thoraxlib.datasets.coco import save_coco, to_coco, to_detectron2
from thoraxlib.datasets.concat import Concat
from thoraxlib.datasets.organs import WithOrganMasks
from thoraxlib.datasets.regions import RegionTable, read_anaxnet_features, read_regions
from thoraxlib.datasets.samples import collate
from thoraxlib.datasets.splits import (
    Subset,
    folds,
    load_split,
    oversample,
    save_split,
    split_by_patient,
    split_patients,
    stratified_split,
    stratify_patients,
)
from thoraxlib.datasets.statistics import Prevalence, RegionStatistics, prevalence, region_statistics
from thoraxlib.registry import Registry

__all__ = [
    "ChestDataset",
    "Concat",
    "DataCheck",
    "Prevalence",
    "RegionStatistics",
    "RegionTable",
    "Subset",
    "WithOrganMasks",
    "build",
    "check",
    "collate",
    "describe",
    "folds",
    "load_split",
    "names",
    "oversample",
    "prevalence",
    "read_anaxnet_features",
    "read_regions",
    "region_statistics",
    "register",
    "registry",
    "save_coco",
    "save_split",
    "split_by_patient",
    "split_patients",
    "stratified_split",
    "stratify_patients",
    "to_coco",
    "to_detectron2",
]

registry: Registry[ChestDataset] = Registry("datasets", modules=["thoraxlib.datasets.entries"])
build, register, names, describe = registry.build, registry.register, registry.names, registry.describe
