"""Heads: feature map -> logits."""

from thoraxlib.heads.base import Features, Head
from thoraxlib.registry import Registry

__all__ = ["Features", "Head", "build", "describe", "names", "register", "registry"]

registry: Registry[Head] = Registry(
    "heads",
    modules=[
        f"thoraxlib.heads.{name}" for name in ("linear", "map", "classwise", "label_graph", "vanilla", "query_decoder")
    ],
)
build, register, names, describe = registry.build, registry.register, registry.names, registry.describe
