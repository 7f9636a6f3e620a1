"""Pooling: feature map -> vector, (N, C, h, w) -> (N, C)."""

from torch import nn

from thoraxlib.registry import Registry

__all__ = ["build", "describe", "names", "register", "registry"]

registry: Registry[nn.Module] = Registry("pooling", modules=["thoraxlib.pooling.basic", "thoraxlib.pooling.lse"])
build, register, names, describe = registry.build, registry.register, registry.names, registry.describe
