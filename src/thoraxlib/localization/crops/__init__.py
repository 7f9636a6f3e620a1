"""Crop the region of an image that a feature map attends to.

``build(name)(images, features)`` returns a :class:`Crop`: the map's heat, the mask of its hot pixels, the largest
connected component of the mask, the component's bounding box, and the image inside it. It works on whole batches and on
any device.
"""

from thoraxlib.localization.crops.base import Crop, CropRule
from thoraxlib.localization.crops.components import largest_component
from thoraxlib.localization.crops.resample import crop_and_resize, paste
from thoraxlib.registry import Registry

__all__ = [
    "Crop",
    "CropRule",
    "build",
    "crop_and_resize",
    "describe",
    "largest_component",
    "names",
    "paste",
    "register",
    "registry",
]

registry: Registry[CropRule] = Registry(
    "localization.crops", modules=["thoraxlib.localization.crops.rules", "thoraxlib.reproduce.ien001"]
)
build, register, names, describe = registry.build, registry.register, registry.names, registry.describe
