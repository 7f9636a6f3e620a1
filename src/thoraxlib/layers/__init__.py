"""Layers: feature map -> feature map."""

from torch import nn

from thoraxlib.layers import fusion, pooling
from thoraxlib.registry import Registry

__all__ = ["build", "describe", "fusion", "names", "pooling", "register", "registry"]

registry: Registry[nn.Module] = Registry(
    "layers", modules=[f"thoraxlib.layers.{name}" for name in ("attention", "lka", "transition", "van")]
)
build, register, names, describe = registry.build, registry.register, registry.names, registry.describe
