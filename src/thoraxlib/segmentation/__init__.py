"""Organ segmentation: image -> logits of organ masks -> masks."""

from thoraxlib.registry import Registry
from thoraxlib.segmentation.base import ORGANS, Segmenter
from thoraxlib.segmentation.torchvision import TorchvisionSource

__all__ = ["ORGANS", "Segmenter", "build", "describe", "names", "register", "registry"]

registry: Registry[Segmenter] = Registry(
    "segmentation", sources=[TorchvisionSource()], modules=["thoraxlib.segmentation.unet"]
)
build, register, names, describe = registry.build, registry.register, registry.names, registry.describe
