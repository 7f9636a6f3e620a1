"""Composable building blocks and documented models for chest X-ray AI.

``build``, ``describe``, ``names`` and ``register`` at this level speak of whole models; every subpackage with
components (``thoraxlib.backbones``, ``thoraxlib.pooling``, ...) has the same four verbs for them. Modules are imported
on first use (PEP 562), so that ``import thoraxlib`` stays light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from thoraxlib import (
        backbones,
        blocks,
        cams,
        checkpoints,
        cropping,
        datasets,
        detection,
        explanation,
        fusion,
        graphs,
        heads,
        image_level,
        images,
        inference,
        labels,
        localization,
        losses,
        maps,
        metrics,
        models,
        persistence,
        plots,
        pooling,
        registry,
        reproduce,
        scoring,
        segmentation,
        text_tables,
        training,
        viz,
    )
    from thoraxlib.checkpoints import load_checkpoint
    from thoraxlib.explanation import explain
    from thoraxlib.images import preprocess_for
    from thoraxlib.inference import optimize_for_inference
    from thoraxlib.input_spec import InputSpec
    from thoraxlib.models import build, describe, names, register
    from thoraxlib.models.loading import load_pretrained
    from thoraxlib.persistence import save_pretrained

# the module of each name that is none itself
_FROM = {
    "InputSpec": "input_spec",
    "build": "models",
    "describe": "models",
    "explain": "explanation",
    "load_checkpoint": "checkpoints",
    "load_pretrained": "models.loading",
    "names": "models",
    "optimize_for_inference": "inference",
    "preprocess_for": "images",
    "register": "models",
    "save_pretrained": "persistence",
}

__all__ = [
    "InputSpec",
    "__version__",
    "backbones",
    "blocks",
    "build",
    "cams",
    "checkpoints",
    "cropping",
    "datasets",
    "describe",
    "detection",
    "explain",
    "explanation",
    "fusion",
    "graphs",
    "heads",
    "image_level",
    "images",
    "inference",
    "labels",
    "load_checkpoint",
    "load_pretrained",
    "localization",
    "losses",
    "maps",
    "metrics",
    "models",
    "names",
    "optimize_for_inference",
    "persistence",
    "plots",
    "pooling",
    "preprocess_for",
    "register",
    "registry",
    "reproduce",
    "save_pretrained",
    "scoring",
    "segmentation",
    "text_tables",
    "training",
    "viz",
]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'thoraxlib' has no attribute {name!r}")
    module = import_module(f"thoraxlib.{_FROM.get(name, name)}")
    return getattr(module, name) if name in _FROM else module


def __dir__() -> list[str]:
    return __all__
