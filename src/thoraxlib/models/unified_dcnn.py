"""The Unified DCNN of ChestX-ray8: backbone, transition layer, global pooling, prediction layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from thoraxlib import backbones
from thoraxlib.input_spec import InputSpec
from thoraxlib.models import register
from thoraxlib.models.base import Classifier
from thoraxlib.models.classifier import classifier
from thoraxlib.models.registry import ModelCard
from thoraxlib.registry import Spec

_INPUT = InputSpec(size=(512, 512))


@register("unified_dcnn", card=ModelCard.read("unified_dcnn", input_spec=_INPUT))
def unified_dcnn(
    *,
    labels: str | Sequence[str] = "nih14",
    backbone: Spec | backbones.Backbone = "resnet50",
    transition: Spec | nn.Module = "conv1x1",
    pool: Spec | nn.Module = "lse",
    last_pool: bool = True,
    in_chans: int = 3,
    pretrained: bool = False,
    input_spec: Mapping[str, Any] | InputSpec | None = None,
) -> Classifier:
    """The Unified DCNN: backbone -> transition -> pooling -> prediction layer.

    Wang et al. 2017, arXiv 1705.02315, section 3.2.

    Parameters
    ----------
    backbone : str, mapping or module
        The paper's backbones are "alexnet", "googlenet", "vgg16" and "resnet50".
    transition : str, mapping or module
        A kind of :class:`thoraxlib.layers.transition.Transition` ("conv1x1", "conv3x3", "none"), its options as a
        mapping (``{"kind": "conv1x1", "out_channels": 1024, "size": 16}``); or any other block, by its ``name`` in the
        mapping or as a module.
    pool : str, mapping or module
        "avg", "max", "lse" (r = 10) or ``{"name": "lse", "r": ...}``.
    last_pool : bool
        Keep the last max pool of AlexNet and VGG; without it, the stride of their maps is half.
    labels, in_chans, pretrained, input_spec
        See :func:`~thoraxlib.models.classifier.classifier`. The default input is 512 x 512 pixels; the paper trains
        from ImageNet weights.

    Raises
    ------
    ValueError
        ``last_pool=False``, but the backbone does not end in a max pool.
    """
    spec = _INPUT.with_channels(in_chans).updated(input_spec)
    network = backbones.for_input(backbone, spec, pretrained=pretrained)
    stage = -1 if last_pool else _before_last_pool(network)
    if not isinstance(transition, nn.Module):
        options = {"kind": transition} if isinstance(transition, str) else transition
        transition = {"name": "transition", **options}
    return classifier(labels=labels, backbone=network, pool=pool, neck=transition, stage=stage, input_spec=spec)


def _before_last_pool(backbone: backbones.Backbone) -> int:
    """Index of the feature map before the last max pool, for backbones that end in one."""
    if (
        len(backbone.channels) < 2
        or backbone.channels[-1] != backbone.channels[-2]
        or backbone.strides[-1] != 2 * backbone.strides[-2]
    ):
        raise ValueError(
            "last_pool=False needs a backbone that ends in a max pool (alexnet, vgg...), "
            f"got one with channels {backbone.channels} and strides {backbone.strides}"
        )
    return -2
