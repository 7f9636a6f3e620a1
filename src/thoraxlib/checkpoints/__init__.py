"""Published checkpoints: recognise their layouts, translate them, and load them whole or not at all."""

from thoraxlib.checkpoints.files import read, read_ag_cnn
from thoraxlib.checkpoints.layout import Layout
from thoraxlib.registry import Registry

__all__ = [
    "CheckpointError",
    "Layout",
    "build",
    "describe",
    "load_checkpoint",
    "names",
    "read",
    "read_ag_cnn",
    "register",
    "registry",
]

_FILES = (
    "ag_cnn",
    "anaxnet",
    "biovil",
    "chexnet",
    "cxr",
    "efficientnet",
    "jaydurant",
    "jfhealthcare",
    "plain",
    "transformers",
    "x_ray",
)

registry: Registry[Layout] = Registry("checkpoints", modules=[f"thoraxlib.checkpoints.{name}" for name in _FILES])
build, register, names, describe = registry.build, registry.register, registry.names, registry.describe

from thoraxlib.checkpoints.load import CheckpointError, load_checkpoint  # noqa: E402  (needs the registry above)
