"""Heat maps to boxes, and boxes against true boxes."""

from collections.abc import Callable

from thoraxlib.localization.boxes import Boxes
from thoraxlib.localization.metrics import acc_afp, box_iobb, box_iou, pointing_game
from thoraxlib.localization.table import WangTable, wang_table
from thoraxlib.registry import Registry

__all__ = [
    "Boxes",
    "WangTable",
    "acc_afp",
    "box_iobb",
    "box_iou",
    "build",
    "describe",
    "names",
    "pointing_game",
    "register",
    "registry",
    "wang_table",
]

registry: Registry[Callable[..., Boxes]] = Registry("localization", modules=["thoraxlib.localization.threshold"])
build, register, names, describe = registry.build, registry.register, registry.names, registry.describe
