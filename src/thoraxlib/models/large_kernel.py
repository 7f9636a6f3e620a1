"""What the networks of QUST-SmartData/CXRClassification have in common: one composition with different defaults."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

from torch import nn

from thoraxlib import backbones, graphs
from thoraxlib import fusion as fusions
from thoraxlib.graphs.adjacency import Builder
from thoraxlib.input_spec import InputSpec
from thoraxlib.models import register
from thoraxlib.models.base import Classifier
from thoraxlib.models.classifier import classifier
from thoraxlib.models.registry import ModelCard
from thoraxlib.models.variant import variant
from thoraxlib.registry import Spec

__all__ = ["family_card", "large_kernel", "member"]

#: Pixels in [0, 1] as they are, also under ImageNet weights: what the published code feeds.
_INPUT = InputSpec(mean=(0.0,), std=(1.0,))


def large_kernel(
    *,
    labels: str | Sequence[str] = "nih14",
    backbone: Spec | backbones.Backbone = "van_b0",
    fusion: Spec | fusions.Fusion | None = None,
    segmenter: Spec | nn.Module | None = None,
    mask: Literal["hard", "soft"] = "hard",
    train_segmenter: bool = False,
    neck: Spec | nn.Module | None = None,
    head: Spec = "linear",
    pool: Spec | nn.Module = "avg",
    adjacency: Spec | graphs.Graph | Builder | None = None,
    counts: Spec | graphs.LabelCounts | None = None,
    embeddings: Spec | graphs.embeddings.Embedding | None = None,
    convolution: Spec | None = None,
    in_chans: int = 3,
    pretrained: bool = False,
    input_spec: Mapping[str, Any] | InputSpec | None = None,
) -> Classifier:
    """A network of the repository.

    Parameters
    ----------
    adjacency, counts, embeddings, convolution
        Of a label graph, with the head "label_graph": see :class:`thoraxlib.heads.label_graph.LabelGraphHead`, whose
        defaults act where nothing is given.
    segmenter : str, mapping or module, optional
        From :mod:`thoraxlib.segmentation`; None: masks are given, ``model(x, masks)``. It is built with random weights:
        load or train them first.
    labels, backbone, fusion, mask, train_segmenter, neck, head, pool, in_chans
        See :func:`~thoraxlib.models.classifier.classifier`.
    pretrained : bool
        ImageNet weights for the backbone. VAN's were trained on pixels with mean and deviation 0.5:
        ``input_spec={"mean": [0.5], "std": [0.5]}``.
    input_spec : mapping or InputSpec, optional
        Changes to the default input (224 x 224, pixels in [0, 1]).
    """
    graph = {"adjacency": adjacency, "counts": counts, "embeddings": embeddings, "convolution": convolution}
    given = {key: value for key, value in graph.items() if value is not None}
    form = {"name": head} if isinstance(head, str) else head
    return classifier(
        labels=labels,
        backbone=backbone,
        fusion=fusion,
        segmenter=segmenter,
        mask=mask,
        train_segmenter=train_segmenter,
        neck=neck,
        head={**given, **form} if given else head,
        pool=pool,
        pretrained=pretrained,
        input_spec=_INPUT.with_channels(in_chans).updated(input_spec),
    )


#: A card with the repository's data sets and input.
family_card = partial(ModelCard, label_sets=("nih14", "chexpert5", "mimic14"), input_spec=_INPUT)


def member(name: str, summary: str, card: ModelCard, **defaults: Any) -> None:
    """Register a network of the repository: :func:`large_kernel` with other defaults.

    Parameters
    ----------
    name : str
        Of the model.
    summary : str
        First line of its description.
    card : ModelCard
        See :data:`family_card`.
    **defaults
        Options of :func:`large_kernel` that differ.
    """
    register(name, card=card)(variant(large_kernel, summary, **defaults))
