"""The documented models: each a short composition of the rooms.

``build(name, preset=None, **options)`` records what it was given in ``model.config``, which is what
:func:`thoraxlib.save_pretrained` writes.
"""

from thoraxlib.models.base import Classifier, ClassifierOutput
from thoraxlib.models.registry import ModelCard, ModelRegistry, Preset

__all__ = [
    "Classifier",
    "ClassifierOutput",
    "ModelCard",
    "Preset",
    "build",
    "describe",
    "names",
    "register",
    "registry",
]

registry = ModelRegistry(
    "models",
    modules=[
        f"thoraxlib.models.{name}"
        for name in ("classifier", "chexnet", "unified_dcnn", "pcam", "jf_top1", "x_ray", "cxr_family")
    ],
)
build, register, names, describe = registry.build, registry.register, registry.names, registry.describe
