"""Composable building blocks and documented models for chest X-ray AI.

``build``, ``describe``, ``names`` and ``register`` at this level speak of whole models; every room
(``thoraxlib.backbones``, ``thoraxlib.pooling``, ...) has the same four verbs for its parts. Rooms are imported on first
use (PEP 562), so that ``import thoraxlib`` stays light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

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
        fusion,
        graphs,
        heads,
        images,
        labels,
        localization,
        losses,
        maps,
        metrics,
        models,
        pooling,
        scoring,
        segmentation,
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

_ROOMS = (
    *("backbones", "blocks", "cams", "checkpoints", "cropping", "datasets", "detection", "fusion", "graphs", "heads"),
    *("images", "labels", "localization", "losses", "maps", "metrics", "models", "pooling", "scoring", "segmentation"),
    *("training", "viz"),
)
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
    "fusion",
    "graphs",
    "heads",
    "images",
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
    "pooling",
    "preprocess_for",
    "register",
    "save_pretrained",
    "scoring",
    "segmentation",
    "training",
    "viz",
]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"thoraxlib.{name}")
    if name in _FROM:
        value = getattr(importlib.import_module(f"thoraxlib.{_FROM[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'thoraxlib' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
