"""Organ segmentation: image -> logits -> organ masks."""

from thoraxlib.registry import Registry
from thoraxlib.segmentation.base import ORGANS, Segmenter, foreground
from thoraxlib.segmentation.evaluate import MaskReport, evaluate, predict_masks
from thoraxlib.segmentation.masks import dice_score, iou_score, organ_masks
from thoraxlib.segmentation.organs import OrganCrop, crop_to_organs, find_organs
from thoraxlib.segmentation.torchvision import TorchvisionSource

__all__ = [
    "ORGANS",
    "MaskReport",
    "OrganCrop",
    "Segmenter",
    "build",
    "crop_to_organs",
    "describe",
    "dice_score",
    "evaluate",
    "find_organs",
    "foreground",
    "iou_score",
    "names",
    "organ_masks",
    "predict_masks",
    "register",
    "registry",
]

registry: Registry[Segmenter] = Registry(
    "segmentation",
    sources=[TorchvisionSource()],
    modules=[f"thoraxlib.segmentation.{name}" for name in ("unet", "lungs", "ovcharenko", "torchxrayvision")],
)
build, register, names, describe = registry.build, registry.register, registry.names, registry.describe
