"""Cropping: images and a feature map -> the box that the map attends to, cut out and enlarged.

``build(name)(images, features)`` is a :class:`Crop`: the map's heat, its mask, the mask's largest connected component,
that one's box, and what the image shows there. All for the whole batch at once, on any device.
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
