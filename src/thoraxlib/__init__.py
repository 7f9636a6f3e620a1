"""Composable components and documented models for chest X-ray AI.

``build``, ``describe``, ``names`` and ``register`` at this level are those of whole models; every subpackage with
components (``thoraxlib.backbones``, ``thoraxlib.layers.pooling``, ...) has the same four functions for them. Modules
are imported on first use (PEP 562), so that ``import thoraxlib`` stays light.
"""

from __future__ import annotations

import pkgutil
from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from thoraxlib import archives as archives
    from thoraxlib import backbones as backbones
    from thoraxlib import cams as cams
    from thoraxlib import checkpoints as checkpoints
    from thoraxlib import datasets as datasets
    from thoraxlib import detection as detection
    from thoraxlib import explanation as explanation
    from thoraxlib import graphs as graphs
    from thoraxlib import heads as heads
    from thoraxlib import images as images
    from thoraxlib import input_spec as input_spec
    from thoraxlib import labels as labels
    from thoraxlib import layers as layers
    from thoraxlib import localization as localization
    from thoraxlib import losses as losses
    from thoraxlib import metrics as metrics
    from thoraxlib import models as models
    from thoraxlib import plotting as plotting
    from thoraxlib import registry as registry
    from thoraxlib import reproduce as reproduce
    from thoraxlib import segmentation as segmentation
    from thoraxlib import training as training
    from thoraxlib import utils as utils
    from thoraxlib import weights as weights
    from thoraxlib.archives import prepare as prepare
    from thoraxlib.archives import score_archive as score_archive
    from thoraxlib.checkpoints import load_checkpoint as load_checkpoint
    from thoraxlib.checkpoints.saving import save_pretrained as save_pretrained
    from thoraxlib.explanation import explain as explain
    from thoraxlib.images import preprocess_for as preprocess_for
    from thoraxlib.input_spec import InputSpec as InputSpec
    from thoraxlib.models import build as build
    from thoraxlib.models import describe as describe
    from thoraxlib.models import names as names
    from thoraxlib.models import register as register
    from thoraxlib.models.loading import load_pretrained as load_pretrained
    from thoraxlib.models.optimize import optimize_for_inference as optimize_for_inference
    from thoraxlib.models.wrap import wrap as wrap

# the subpackage of each function and class; every other name is a subpackage
_FROM = {
    "InputSpec": "input_spec",
    "build": "models",
    "describe": "models",
    "explain": "explanation",
    "load_checkpoint": "checkpoints",
    "load_pretrained": "models.loading",
    "names": "models",
    "optimize_for_inference": "models.optimize",
    "prepare": "archives",
    "preprocess_for": "images",
    "register": "models",
    "save_pretrained": "checkpoints.saving",
    "score_archive": "archives",
    "wrap": "models.wrap",
}


def __getattr__(name: str) -> object:
    if name in _FROM:
        return getattr(import_module(f"thoraxlib.{_FROM[name]}"), name)
    if name in __dir__():
        return import_module(f"thoraxlib.{name}")
    raise AttributeError(f"module 'thoraxlib' has no attribute {name!r}")


def __dir__() -> list[str]:
    inside = {module.name for module in pkgutil.iter_modules(__path__)} - {"__main__"}
    return sorted({"__version__", *_FROM, *inside})
