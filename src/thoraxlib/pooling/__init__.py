"""Pooling: feature map -> vector, (N, C, h, w) -> (N, C)."""

from torch import nn

from thoraxlib.pooling.base import Pool
from thoraxlib.registry import Registry

__all__ = ["Pool", "build", "describe", "names", "register", "registry"]

registry: Registry[nn.Module] = Registry(
    "pooling",
    modules=[f"thoraxlib.pooling.{name}" for name in ("basic", "lse", "pcam", "weighted", "concat")],
)
build, register, names, describe = registry.build, registry.register, registry.names, registry.describe
