"""Published checkpoints: their layouts are recognised, translated and loaded whole or not at all."""

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

registry: Registry[Layout] = Registry(
    "checkpoints",
    modules=[
        "thoraxlib.checkpoints.native",
        "thoraxlib.checkpoints.ag_cnn",
        "thoraxlib.checkpoints.anaxnet",
        "thoraxlib.checkpoints.chexnet",
        "thoraxlib.checkpoints.cxr_family",
        "thoraxlib.checkpoints.jaydurant",
        "thoraxlib.checkpoints.jfhealthcare",
        "thoraxlib.checkpoints.x_ray",
        "thoraxlib.checkpoints.cxr_lka",
        "thoraxlib.checkpoints.plain",
    ],
)
build, register, names, describe = registry.build, registry.register, registry.names, registry.describe

from thoraxlib.checkpoints.load import CheckpointError, load_checkpoint  # noqa: E402  (needs the registry above)
