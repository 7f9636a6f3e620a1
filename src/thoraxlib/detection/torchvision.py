"""torchvision's Faster R-CNNs, with its weights for COCO's objects or for ImageNet's."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from thoraxlib.backbones.torchvision import adapt_first_conv
from thoraxlib.detection import register
from thoraxlib.detection.base import default_spec
from thoraxlib.detection.faster_rcnn import FasterRCNN, scaled
from thoraxlib.input_spec import InputSpec
from thoraxlib.utils.arguments import one_of

_WIDTH, _DIM = 256, 1024


@dataclass(frozen=True)
class _Recipe:
    """What one of torchvision's detectors is made of.

    Attributes
    ----------
    backbone : callable
        From ``weights`` and ``trainable_layers`` to a backbone with its pyramid.
    layers : int
        That can be trained.
    first : str
        Name of the module in the backbone that has the first convolution, and the convolution's name in it.
    strides, anchors
        Of the maps, and sides for inputs of 800 pixels.
    box_head : callable
        Makes the box head.
    weights : str
        Those for COCO, in ``torchvision.models.detection``.
    without_eps : bool
        They were trained with norms that add nothing to the variance.
    more : mapping
        Further options of :class:`FasterRCNN`.
    """

    backbone: Callable[..., Any]
    layers: int
    first: tuple[str, str]
    strides: tuple[int, ...]
    anchors: tuple[tuple[int, ...], ...]
    box_head: Callable[[], nn.Module]
    weights: str
    without_eps: bool
    more: Mapping[str, Any]


def torchvision_detector(
    recipe: _Recipe,
    *,
    regions: str | Sequence[str] = "regions18",
    pretrained: bool | str = False,
    trainable_layers: int | None = None,
    freeze_norm: bool = False,
    score_threshold: float = 0.7,
    anchor_sizes: Sequence[Sequence[float]] | None = None,
    rois: int = 512,
    proposals: int = 1000,
    in_chans: int = 3,
    input_spec: Mapping[str, Any] | InputSpec | None = None,
) -> FasterRCNN:
    """The weights have torchvision's names. Those of detectron2, which strides and pools otherwise, are none for it.

    Parameters
    ----------
    regions : str or sequence of str
        A set of names, or the names.
    pretrained : bool or {"coco", "imagenet"}
        Weights to begin with, downloaded by torchvision: True or "coco" for all but the last layers, which name the
        regions; "imagenet" for the backbone alone.
    trainable_layers : int, optional
        How many of the backbone's layers, 5 of ResNet and 6 of MobileNet, are trained, counted from its end; by default
        all. AnaXNet begins with COCO's weights and trains 3, i.e. freezes stem and first stage.
    freeze_norm : bool
        Keep the batch norms as they are; AnaXNet does, and so should you with COCO's weights and small batches.
    score_threshold : float
        A region is present if its probability is above.
    anchor_sizes : sequence of sequence of float, optional
        For each map, sides of its anchors in pixels. By default torchvision's for 800 pixels, scaled with the short
        side of the input.
    rois : int
        Boxes of an image that the box head is trained on; each costs time, and 64 do for small inputs.
    proposals : int
        Boxes of an image that are looked at; twice as many in training.
    in_chans : int
        Channels of the images; pretrained first layers are adapted.
    input_spec : mapping or InputSpec, optional
        Changes to the default input: 800 x 800 pixels, the image padded to a square, ImageNet's mean and deviation.

    Raises
    ------
    ValueError
        An option out of its range.
    RuntimeError
        Weights that could not be had.
    """
    one_of("pretrained", pretrained, ("coco", "imagenet", True, False))
    layers = recipe.layers if trainable_layers is None else trainable_layers
    if not 0 <= layers <= recipe.layers:
        raise ValueError(f"trainable_layers={trainable_layers}: the backbone has {recipe.layers}")
    spec = default_spec(in_chans, input_spec)
    of_backbone = "IMAGENET1K_V1" if pretrained == "imagenet" else None
    detector = FasterRCNN(
        _downloaded(lambda: recipe.backbone(weights=of_backbone, trainable_layers=layers)),
        recipe.strides,
        regions=regions,
        input_spec=spec,
        anchor_sizes=anchor_sizes or scaled(recipe.anchors, spec),
        box_head=recipe.box_head(),
        feature_dim=_DIM,
        score_threshold=score_threshold,
        rois=rois,
        proposals=proposals,
        freeze_norm=freeze_norm,
        **recipe.more,
    )
    if pretrained in (True, "coco"):
        _load_coco(detector, recipe)
    body: nn.Module = detector.backbone.body
    adapt_first_conv(body.get_submodule(recipe.first[0]), recipe.first[1], spec.channels)
    return detector


def _resnet(*, weights: str | None, trainable_layers: int, fpn_norm: type[nn.Module] | None = None) -> Any:
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
    from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

    pyramid = resnet_fpn_backbone(
        backbone_name="resnet50", weights=weights, norm_layer=nn.BatchNorm2d, trainable_layers=trainable_layers
    )
    if fpn_norm is not None:
        pyramid.fpn = FeaturePyramidNetwork([256, 512, 1024, 2048], _WIDTH, LastLevelMaxPool(), fpn_norm)
    return pyramid


def _mobilenet(*, weights: str | None, trainable_layers: int) -> Any:
    from torchvision.models.detection.backbone_utils import mobilenet_backbone

    return mobilenet_backbone(
        backbone_name="mobilenet_v3_large",
        weights=weights,
        fpn=True,
        norm_layer=nn.BatchNorm2d,
        trainable_layers=trainable_layers,
    )


def _two_layers() -> nn.Module:
    from torchvision.models.detection.faster_rcnn import TwoMLPHead

    head: nn.Module = TwoMLPHead(_WIDTH * 49, _DIM)
    return head


def _four_convolutions() -> nn.Module:
    from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead

    head: nn.Module = FastRCNNConvFCHead((_WIDTH, 7, 7), [_WIDTH] * 4, [_DIM], norm_layer=nn.BatchNorm2d)
    return head


def _downloaded(get: Callable[[], Any]) -> Any:
    try:
        return get()
    except OSError as error:  # urllib's errors are OSErrors
        raise RuntimeError(
            f"detection: weights could not be downloaded ({error}); build with pretrained=False to do without"
        ) from error


def _load_coco(detector: FasterRCNN, recipe: _Recipe) -> None:
    """COCO's weights, except for the layers that name its objects."""
    from torchvision.models import detection

    weights = getattr(detection, recipe.weights).COCO_V1
    state: dict[str, Tensor] = _downloaded(lambda: weights.get_state_dict(progress=True, check_hash=True))
    named = "roi_heads.box_predictor."
    missing, unexpected = detector.load_state_dict(
        {key: value for key, value in state.items() if not key.startswith(named)}, strict=False
    )
    lost = [key for key in missing if not key.startswith(named) and not key.endswith("num_batches_tracked")]
    if lost or unexpected:
        raise RuntimeError(f"detection: {weights} lack {lost[:5]} or hold {unexpected[:5]}: another model's")
    for norm in detector.modules() if recipe.without_eps else ():
        if isinstance(norm, nn.BatchNorm2d) and norm.running_var is not None:
            variance = norm.running_var.clamp(min=torch.finfo(torch.float32).tiny)
            norm.weight.data *= ((variance + norm.eps) / variance).sqrt()


def _add(name: str, summary: str, recipe: _Recipe) -> None:
    factory = partial(torchvision_detector, recipe)
    factory.__doc__ = f"{summary}\n\n{inspect.getdoc(torchvision_detector)}"
    factory.__module__ = __name__  # type: ignore[attr-defined]
    register(name)(factory)


_add(
    "fasterrcnn_resnet50_fpn",
    "Faster R-CNN on ResNet-50 with a feature pyramid: the detector of AnaXNet, in torchvision's version.",
    _Recipe(
        backbone=_resnet,
        layers=5,
        first=("", "conv1"),
        strides=(4, 8, 16, 32, 64),
        anchors=((32,), (64,), (128,), (256,), (512,)),
        box_head=_two_layers,
        weights="FasterRCNN_ResNet50_FPN_Weights",
        without_eps=True,
        more={},
    ),
)
_add(
    "fasterrcnn_resnet50_fpn_v2",
    "The same with norms in the pyramid and four convolutions in the box head (Li et al. 2021, arXiv 2111.11429).",
    _Recipe(
        backbone=partial(_resnet, fpn_norm=nn.BatchNorm2d),
        layers=5,
        first=("", "conv1"),
        strides=(4, 8, 16, 32, 64),
        anchors=((32,), (64,), (128,), (256,), (512,)),
        box_head=_four_convolutions,
        weights="FasterRCNN_ResNet50_FPN_V2_Weights",
        without_eps=False,
        more={"rpn_depth": 2},
    ),
)
_add(
    "fasterrcnn_mobilenet_v3_large_fpn",
    "Faster R-CNN on MobileNetV3-Large: a tenth of the work, for large inputs, as its finest map has a stride of 32.",
    _Recipe(
        backbone=_mobilenet,
        layers=6,
        first=("0", "0"),
        strides=(32, 32, 64),
        anchors=((32, 64, 128, 256, 512),) * 3,
        box_head=_two_layers,
        weights="FasterRCNN_MobileNet_V3_Large_FPN_Weights",
        without_eps=False,
        more={"proposal_threshold": 0.05},
    ),
)
