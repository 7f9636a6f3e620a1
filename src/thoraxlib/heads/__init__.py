"""Heads: feature map -> logits."""

from thoraxlib.heads.base import Head
from thoraxlib.registry import Registry

__all__ = ["Head", "build", "describe", "names", "register", "registry"]

registry: Registry[Head] = Registry(
    "heads", modules=["thoraxlib.heads.linear", "thoraxlib.heads.map", "thoraxlib.heads.classwise"]
)
build, register, names, describe = registry.build, registry.register, registry.names, registry.describe
