"""Rarer networks of QUST-SmartData/CXRClassification: VTNet, DenseAndVAN, DenseVan, VanillaNet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from torch import nn

from thoraxlib.backbones import Backbone
from thoraxlib.input_spec import InputSpec
from thoraxlib.models import register
from thoraxlib.models.base import Classifier
from thoraxlib.models.classifier import classifier
from thoraxlib.models.registry import ModelCard
from thoraxlib.registry import Spec

__all__ = ["dense_and_van", "densevan", "vanillanet", "vtnet"]

_REPOSITORY = (
    "QUST-SmartData/CXRClassification, the code of Multi-label Chest X-ray Image Classification Based on Long-range "
    "Dependencies Capture and Label Relationships Learning, Biomedical Signal Processing and Control 100, 2024"
)
_UNNORMALISED = {"mean": [0.0], "std": [1.0]}
_NARROW_VAN = MappingProxyType({"name": "van_b0", "widths": (32, 64, 128, 256)})


def _card(paper: str, parity: Mapping[str, str], *notes: str) -> ModelCard:
    return ModelCard(
        paper=paper,
        label_sets=("nih14", "chexpert5"),
        input_spec=InputSpec(mean=(0.0,), std=(1.0,)),
        parity=parity,
        notes=(
            *notes,
            "Pixels in [0, 1], neither mean nor deviation taken out, as there.",
            "Its labels are in alphabetical order: give them so (labels=[...]) with its weights.",
            "No results and no weights of it are published.",
        ),
    )


def _input(in_chans: int, changes: Mapping[str, Any] | InputSpec | None) -> InputSpec:
    return InputSpec.imagenet(in_chans).updated(_UNNORMALISED).updated(changes)


_VTNET = _card(
    f"{_REPOSITORY}; Query2Label: Liu et al., arXiv 2107.10834, 2021",
    {"cxr_vtnet": "logits, both branches, stages, position code, every recorded layer of the transformer"},
    "VAN-B0 with 128 channels instead of 160 in stage 3: the ImageNet weights of VAN-B0 do not fit.",
    "The position code follows the map, so that any image size will do; there it is stored for one.",
)


@register("vtnet", card=_VTNET)
def vtnet(
    *,
    labels: str | Sequence[str] = "nih14",
    backbone: Spec | Backbone = _NARROW_VAN,
    head: Spec = "query_decoder",
    pool: Spec | nn.Module = "avg",
    in_chans: int = 3,
    pretrained: bool = False,
    input_spec: Mapping[str, Any] | InputSpec | None = None,
) -> Classifier:
    """VTNet: VAN, and beside its linear layer the transformer of Query2Label.

    QUST-SmartData/CXRClassification. 31,750,854 parameters with 14 labels.

    Parameters
    ----------
    labels : str or sequence of str
        A label set's name, or the labels.
    backbone, pool : str, mapping or module
        Parts, from :mod:`thoraxlib.backbones` and :mod:`thoraxlib.pooling`; the linear layer alone pools.
    head : str or mapping
        With other sizes, ``{"name": "query_decoder", "channels": 256, "encoder_layers": 1, ...}``.
    in_chans : int
        Channels of the images.
    pretrained : bool
        ImageNet weights for the backbone; the default one has none.
    input_spec : mapping or InputSpec, optional
        Changes to the default input (224 x 224 stretched, pixels in [0, 1]).
    """
    return classifier(
        labels=labels,
        backbone=backbone,
        head=head,
        pool=pool,
        in_chans=in_chans,
        pretrained=pretrained,
        input_spec=_input(in_chans, input_spec),
    )


_DENSE_AND_VAN = _card(
    _REPOSITORY,
    {"cxr_dense_and_van": "logits, DenseNet's map, embedding and blocks of the stage"},
)


@register("dense_and_van", card=_DENSE_AND_VAN)
def dense_and_van(
    *,
    labels: str | Sequence[str] = "nih14",
    backbone: Spec | Backbone = "densenet121",
    neck: Spec | nn.Module = "van_stage",
    pool: Spec | nn.Module = "avg",
    in_chans: int = 3,
    pretrained: bool = False,
    input_spec: Mapping[str, Any] | InputSpec | None = None,
) -> Classifier:
    """DenseAndVAN: DenseNet-121, one stage of VAN blocks, average pooling, linear layer.

    QUST-SmartData/CXRClassification. 74,747,790 parameters with 14 labels.

    Parameters
    ----------
    labels : str or sequence of str
        A label set's name, or the labels.
    backbone, pool : str, mapping or module
        Parts, from :mod:`thoraxlib.backbones` and :mod:`thoraxlib.pooling`.
    neck : str, mapping or module
        With other sizes, ``{"name": "van_stage", "out_channels": 256, "depth": 2, ...}``.
    in_chans : int
        Channels of the images.
    pretrained : bool
        ImageNet weights for the backbone.
    input_spec : mapping or InputSpec, optional
        Changes to the default input (224 x 224 stretched, pixels in [0, 1]).
    """
    return classifier(
        labels=labels,
        backbone=backbone,
        neck=neck,
        pool=pool,
        in_chans=in_chans,
        pretrained=pretrained,
        input_spec=_input(in_chans, input_spec),
    )


_DENSEVAN = _card(
    _REPOSITORY,
    {"cxr_densevan": "logits, convolutions, dense blocks, VAN blocks"},
    "No stride anywhere: about 870 GMAC at 224 x 224. A curiosity, for small images.",
)


@register("densevan", card=_DENSEVAN)
def densevan(
    *,
    labels: str | Sequence[str] = "nih14",
    backbone: Spec | Backbone = "dense_van",
    pool: Spec | nn.Module = "avg",
    in_chans: int = 3,
    pretrained: bool = False,
    input_spec: Mapping[str, Any] | InputSpec | None = None,
) -> Classifier:
    """DenseVan: dense blocks and VAN blocks at full resolution, average pooling, linear layer.

    QUST-SmartData/CXRClassification. 17,489,006 parameters with 14 labels.

    Parameters
    ----------
    labels : str or sequence of str
        A label set's name, or the labels.
    backbone, pool : str, mapping or module
        Parts, from :mod:`thoraxlib.backbones` and :mod:`thoraxlib.pooling`.
    in_chans : int
        Channels of the images.
    pretrained : bool
        ImageNet weights for the backbone; the default one has none.
    input_spec : mapping or InputSpec, optional
        Changes to the default input (224 x 224 stretched, pixels in [0, 1]).
    """
    return classifier(
        labels=labels,
        backbone=backbone,
        pool=pool,
        in_chans=in_chans,
        pretrained=pretrained,
        input_spec=_input(in_chans, input_spec),
    )


_VANILLANET = _card(
    f"Chen, Wang, Guo, Tao, VanillaNet: the Power of Minimalism in Deep Learning, arXiv 2305.12972, 2023; as in "
    f"{_REPOSITORY}",
    {"cxr_vanillanet5": "logits before and after fusing, stem, stages, hidden units of the classifier"},
    "model.backbone.fuse() and model.head.fuse() make a network for inference: the same logits, a third fewer weights.",
    "activation_slope is meant to rise from 0 to 1 in training; the repository leaves it at 1, as here by default.",
)


@register("vanillanet", card=_VANILLANET)
def vanillanet(
    *,
    labels: str | Sequence[str] = "nih14",
    backbone: Spec | Backbone = "vanillanet_5",
    head: Spec = "vanilla",
    pool: Spec | nn.Module = "avg",
    in_chans: int = 3,
    pretrained: bool = False,
    input_spec: Mapping[str, Any] | InputSpec | None = None,
) -> Classifier:
    """VanillaNet: convolutions and poolings in a chain, and a classifier of two layers.

    Chen et al. 2023, arXiv 2305.12972; in QUST-SmartData/CXRClassification. 17,286,396 parameters with 14 labels.

    Parameters
    ----------
    labels : str or sequence of str
        A label set's name, or the labels.
    backbone, pool : str, mapping or module
        Parts, from :mod:`thoraxlib.backbones` and :mod:`thoraxlib.pooling`: "vanillanet_5" to "vanillanet_13",
        "vanillanet_13_x1_5" and "vanillanet_13_x1_5_ada_pool".
    head : str or mapping
        From :mod:`thoraxlib.heads`.
    in_chans : int
        Channels of the images.
    pretrained : bool
        ImageNet weights for the backbone; VanillaNet's are not downloaded.
    input_spec : mapping or InputSpec, optional
        Changes to the default input (224 x 224 stretched, pixels in [0, 1]).
    """
    return classifier(
        labels=labels,
        backbone=backbone,
        head=head,
        pool=pool,
        in_chans=in_chans,
        pretrained=pretrained,
        input_spec=_input(in_chans, input_spec),
    )
