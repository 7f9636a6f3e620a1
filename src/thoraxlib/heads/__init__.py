"""Heads: feature map -> logits."""

from thoraxlib.heads.base import Features, Head
from thoraxlib.registry import Registry

__all__ = ["Features", "Head", "build", "describe", "names", "register", "registry"]

_PARTS = ("linear", "classwise", "label_graph", "vit_per_stage", "vanilla", "query_decoder")

registry: Registry[Head] = Registry("heads", modules=[f"thoraxlib.heads.{name}" for name in _PARTS])
build, register, names, describe = registry.build, registry.register, registry.names, registry.describe
