"""Data sets of dicts of tensors, with labels (NaN = unknown), boxes, regions and masks where they exist.

Every data set has ``labels``, ``targets``, ``patient_ids`` and ``ids`` (see :class:`ChestDataset`), so that class
weights, splits and statistics need no image to be decoded.
"""

from thoraxlib.datasets.anaxnet_features import read_anaxnet_features
from thoraxlib.datasets.base import ChestDataset
from thoraxlib.datasets.coco import save_coco, to_coco, to_detectron2
from thoraxlib.datasets.collate import collate
from thoraxlib.datasets.concat import Concat
from thoraxlib.datasets.organs import WithOrganMasks
from thoraxlib.datasets.prevalence import Prevalence, prevalence
from thoraxlib.datasets.region_statistics import RegionStatistics, region_statistics
from thoraxlib.datasets.regions import RegionTable, read_regions
from thoraxlib.datasets.split_files import load_split, save_split
from thoraxlib.datasets.splits import Subset, oversample, split_by_patient, split_patients
from thoraxlib.datasets.stratify import stratified_split, stratify_patients
from thoraxlib.registry import Registry

__all__ = [
    "ChestDataset",
    "Concat",
    "Prevalence",
    "RegionStatistics",
    "RegionTable",
    "Subset",
    "WithOrganMasks",
    "build",
    "collate",
    "describe",
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
