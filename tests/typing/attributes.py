"""Attributes and results of the public API, with the types that both checkers must find: none is Any."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from typing_extensions import assert_type

import thoraxlib
from thoraxlib import cams, datasets, segmentation, training
from thoraxlib.explanation import Finding
from thoraxlib.heads import Head
from thoraxlib.models import ChestModel, Classifier, ModelCard
from thoraxlib.models.ag_cnn import ag_cnn
from thoraxlib.models.anaxnet import anaxnet
from thoraxlib.models.chexnet import chexnet


def of_models(images: Tensor, data: training.DataModule) -> None:
    model = thoraxlib.build("chexnet", labels="nih14")
    assert_type(model, ChestModel)
    assert_type(model.eval(), ChestModel)
    assert_type(model.labels, tuple[str, ...])
    assert_type(model.input_spec.size, tuple[int, int])
    assert_type(model.config, dict[str, Any])
    assert_type(model(images), Tensor)
    assert_type(model.predict_proba(images), Tensor)
    assert_type(thoraxlib.models.build("ag_cnn").labels, tuple[str, ...])
    assert_type(thoraxlib.load_checkpoint(model, "model.pth.tar"), str)
    assert_type(thoraxlib.load_pretrained("folder"), ChestModel)
    assert_type(thoraxlib.load_pretrained("folder", segmentation.Segmenter).classes, tuple[str, ...])
    assert_type(training.fit(model, data, output="folder").model, ChestModel)


def of_factories(images: Tensor) -> None:
    assert_type(chexnet(labels="nih8"), Classifier)
    assert_type(chexnet(labels="nih8").head, Head)
    assert_type(ag_cnn().global_branch.labels, tuple[str, ...])
    assert_type(ag_cnn().forward_all(images).local_logits, Tensor)
    assert_type(anaxnet().region_names, tuple[str, ...])
    assert_type(anaxnet().predict_proba(images), Tensor)


def of_cards() -> None:
    card = thoraxlib.describe("chexnet")
    assert_type(card, ModelCard)
    assert_type(card.paper, str)
    assert_type(card.presets["arnoweng"].summary, str)
    assert_type(card.published, Mapping[str, Mapping[str, float]])
    assert_type(card.input_spec, thoraxlib.InputSpec | None)
    assert_type(thoraxlib.names(), list[str])


def of_images() -> None:
    model = thoraxlib.build("chexnet")
    x = thoraxlib.preprocess_for(model)("cxr.png")
    assert_type(x, Tensor)
    assert_type(cams.build("gradcam", model)(x), Tensor)
    explanation = thoraxlib.explain(model, "cxr.png")[0]
    assert_type(explanation.image, Tensor)
    assert_type(explanation.findings, tuple[Finding, ...])
    assert_type(explanation.findings[0].label, str)
    assert_type(explanation.findings[0].probability, float)
    assert_type(explanation.findings[0].boxes, tuple[tuple[float, float, float, float], ...])


def of_data() -> None:
    images = datasets.build("synthetic", size=128)
    assert_type(images.labels, tuple[str, ...])
    assert_type(images.targets, torch.Tensor)
    assert_type(images[0], dict[str, Any])
