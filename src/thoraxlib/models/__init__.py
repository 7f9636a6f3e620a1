"""The documented models, each composed of components of the other subpackages.

Every factory records its options in ``model.config``, called by itself or by ``build(name, preset=None, **options)``:
:func:`thoraxlib.save_pretrained` writes that.
"""

import pkgutil

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

# every file is searched for documented models: a new one needs no other line
registry = ModelRegistry("models", modules=[f"{__name__}.{module.name}" for module in pkgutil.iter_modules(__path__)])
build, register, names, describe = registry.build, registry.register, registry.names, registry.describe
