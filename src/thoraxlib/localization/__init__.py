"""Find boxes in heat maps, and compare them with true boxes."""

from collections.abc import Callable

from thoraxlib.localization import crops
from thoraxlib.localization.base import BoxRule
from thoraxlib.localization.boxes import Boxes, to_original
from thoraxlib.localization.coco import CocoBoxes, from_coco, read_coco, save_coco, to_coco
from thoraxlib.localization.metrics import (
    WANG_ROWS,
    LocalizationTable,
    acc_afp,
    box_iobb,
    box_iogt,
    box_iou,
    localization_table,
    pointing_game,
)
from thoraxlib.registry import Registry

__all__ = [
    "WANG_ROWS",
    "BoxRule",
    "Boxes",
    "CocoBoxes",
    "LocalizationTable",
    "acc_afp",
    "box_iobb",
    "box_iogt",
    "box_iou",
    "build",
    "crops",
    "describe",
    "from_coco",
    "localization_table",
    "names",
    "pointing_game",
    "read_coco",
    "register",
    "registry",
    "save_coco",
    "to_coco",
    "to_original",
]

registry: Registry[Callable[..., Boxes]] = Registry(
    "localization", modules=["thoraxlib.localization.rules", "thoraxlib.reproduce.x_ray_boxes"]
)
build, register, names, describe = registry.build, registry.register, registry.names, registry.describe
