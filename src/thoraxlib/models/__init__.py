"""The documented models, each composed of components of the other subpackages.

Every factory records its options in ``model.config``, called by itself or by ``build(name, preset=None, **options)``:
:func:`thoraxlib.save_pretrained` writes that.
"""

from thoraxlib.models.base import ChestModel, Classifier, ClassifierOutput
from thoraxlib.models.registry import ModelCard, ModelRegistry, Preset

__all__ = [
    "ChestModel",
    "Classifier",
    "ClassifierOutput",
    "ModelCard",
    "ModelRegistry",
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
