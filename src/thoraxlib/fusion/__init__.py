"""Fusion: a pyramid of maps, and masks -> the maps that a head sees."""

from thoraxlib.fusion.base import Fusion
from thoraxlib.registry import Registry

__all__ = ["Fusion", "build", "describe", "names", "register", "registry"]

registry: Registry[Fusion] = Registry(
    "fusion", modules=[f"thoraxlib.fusion.{name}" for name in ("pyramid", "seg_input", "seg_pyramid")]
)
build, register, names, describe = registry.build, registry.register, registry.names, registry.describe
