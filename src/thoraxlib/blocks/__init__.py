"""Blocks: feature map -> feature map."""

from torch import nn

from thoraxlib.registry import Registry

__all__ = ["build", "describe", "names", "register", "registry"]

registry: Registry[nn.Module] = Registry(
    "blocks", modules=[f"thoraxlib.blocks.{name}" for name in ("attention", "lka", "norm", "transition", "van")]
)
build, register, names, describe = registry.build, registry.register, registry.names, registry.describe
