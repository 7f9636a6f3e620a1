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

_PARTS = (
    "classifier",
    "chexnet",
    "unified_dcnn",
    "unified_dcnn_padchest",
    "pcam",
    "jf_top1",
    "x_ray",
    "segfusion",
    "ag_cnn",
    "anaxnet",
    "torchxrayvision",
)

registry = ModelRegistry("models", modules=[f"thoraxlib.models.{name}" for name in _PARTS])
build, register, names, describe = registry.build, registry.register, registry.names, registry.describe
