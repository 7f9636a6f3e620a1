"""Backbones: image -> list of feature maps, fine to coarse.

Every timm model that yields feature maps is a backbone under its timm name; torchvision's AlexNet and
GoogLeNet, which timm lacks, are registered here.
"""

from thoraxlib.backbones.base import Backbone, check_backbone
from thoraxlib.backbones.timm import TimmBackbone, TimmSource
from thoraxlib.registry import Registry

__all__ = ["Backbone", "TimmBackbone", "build", "check_backbone", "describe", "names", "register", "registry"]

registry: Registry[Backbone] = Registry(
    "backbones",
    sources=[TimmSource()],
    modules=[f"thoraxlib.backbones.{name}" for name in ("torchvision", "x_ray", "van", "dense_van", "vanillanet")],
)
build, register, names, describe = registry.build, registry.register, registry.names, registry.describe
