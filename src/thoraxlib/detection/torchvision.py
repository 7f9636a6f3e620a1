"""torchvision's Faster R-CNNs, with its weights for COCO's objects or for ImageNet's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from thoraxlib.backbones.torchvision import adapt_first_conv
from thoraxlib.detection import register
from thoraxlib.detection.base import default_spec
from thoraxlib.detection.faster_rcnn import FasterRCNN, scaled
from thoraxlib.input_spec import InputSpec

__all__ = ["mobilenet_v3_large_fpn", "resnet50_fpn", "resnet50_fpn_v2"]

_OF_RESNET = ((32,), (64,), (128,), (256,), (512,))
_OF_MOBILENET = ((32, 64, 128, 256, 512),) * 3
_WIDTH, _DIM = 256, 1024


@register("fasterrcnn_resnet50_fpn")
def resnet50_fpn(
    *,
    regions: str | Sequence[str] = "regions18",
    pretrained: bool | str = False,
    trainable_layers: int = 5,
    freeze_norm: bool = False,
    score_threshold: float = 0.7,
    anchor_sizes: Sequence[Sequence[float]] | None = None,
    rois: int = 512,
    proposals: int = 1000,
    in_chans: int = 3,
    input_spec: Mapping[str, Any] | InputSpec | None = None,
) -> FasterRCNN:
    """Faster R-CNN on ResNet-50 with a feature pyramid: AnaXNet's detector, in torchvision's version.

    Its stride is in the 3x3 convolutions, and it pools boxes without the half-pixel shift, so that detectron2's weights
    are none for it.

    Parameters
    ----------
    regions : str or sequence of str
        A set of names, or the names.
    pretrained : bool or {"coco", "imagenet"}
        Weights to begin with, downloaded by torchvision: True or "coco" for all but the last layers, which name the
        regions; "imagenet" for the trunk alone.
    trainable_layers : int
        How many of the trunk's layers are trained, counted from its end: 5 for all. AnaXNet begins with COCO's weights
        and trains 3, i.e. freezes stem and first stage.
    freeze_norm : bool
        Keep the trunk's batch norms as they are; AnaXNet does, and so should you with COCO's weights and small batches.
    score_threshold : float
        A region is present if its probability is above.
    anchor_sizes : sequence of sequence of float, optional
        For each map, sides of its anchors in pixels. By default torchvision's for 800 pixels, scaled with the short
        side of the input.
    rois : int
        Boxes of an image that the box head is trained on; each costs time, and 128 do for small inputs.
    proposals : int
        Boxes of an image that are looked at; twice as many in training.
    in_chans : int
        Channels of the images; pretrained first layers are adapted.
    input_spec : mapping or InputSpec, optional
        Changes to the default input: 800 x 800 pixels, the film padded to a square, ImageNet's mean and deviation.

    Raises
    ------
    ValueError
        An option out of its range.
    RuntimeError
        Weights that could not be had.
    """
    from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights
    from torchvision.models.detection.faster_rcnn import TwoMLPHead

    spec = default_spec(in_chans, input_spec)
    detector = FasterRCNN(
        _resnet(pretrained, trainable_layers),
        (4, 8, 16, 32, 64),
        regions=regions,
        input_spec=spec,
        anchor_sizes=anchor_sizes or scaled(_OF_RESNET, spec),
        box_head=TwoMLPHead(_WIDTH * 49, _DIM),
        feature_dim=_DIM,
        score_threshold=score_threshold,
        rois=rois,
        proposals=proposals,
        freeze_norm=freeze_norm,
    )
    if _coco(pretrained):
        _load(detector, FasterRCNN_ResNet50_FPN_Weights.COCO_V1, without_eps=True)
    adapt_first_conv(detector.backbone.body, "conv1", in_chans)
    return detector


@register("fasterrcnn_resnet50_fpn_v2")
def resnet50_fpn_v2(
    *,
    regions: str | Sequence[str] = "regions18",
    pretrained: bool | str = False,
    trainable_layers: int = 5,
    freeze_norm: bool = False,
    score_threshold: float = 0.7,
    anchor_sizes: Sequence[Sequence[float]] | None = None,
    rois: int = 512,
    proposals: int = 1000,
    in_chans: int = 3,
    input_spec: Mapping[str, Any] | InputSpec | None = None,
) -> FasterRCNN:
    """The same with batch norms in pyramid and box head (Li et al. 2021, arXiv 2111.11429), in torchvision's version.

    The box head has four convolutions and one linear layer. Options: see ``fasterrcnn_resnet50_fpn``.
    """
    from torchvision.models.detection import FasterRCNN_ResNet50_FPN_V2_Weights
    from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead
    from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

    spec = default_spec(in_chans, input_spec)
    pyramid = _resnet(pretrained, trainable_layers)
    pyramid.fpn = FeaturePyramidNetwork([256, 512, 1024, 2048], _WIDTH, LastLevelMaxPool(), nn.BatchNorm2d)
    detector = FasterRCNN(
        pyramid,
        (4, 8, 16, 32, 64),
        regions=regions,
        input_spec=spec,
        anchor_sizes=anchor_sizes or scaled(_OF_RESNET, spec),
        box_head=FastRCNNConvFCHead((_WIDTH, 7, 7), [_WIDTH] * 4, [_DIM], norm_layer=nn.BatchNorm2d),
        feature_dim=_DIM,
        score_threshold=score_threshold,
        rois=rois,
        proposals=proposals,
        rpn_depth=2,
        freeze_norm=freeze_norm,
    )
    if _coco(pretrained):
        _load(detector, FasterRCNN_ResNet50_FPN_V2_Weights.COCO_V1)
    adapt_first_conv(detector.backbone.body, "conv1", in_chans)
    return detector


@register("fasterrcnn_mobilenet_v3_large_fpn")
def mobilenet_v3_large_fpn(
    *,
    regions: str | Sequence[str] = "regions18",
    pretrained: bool | str = False,
    trainable_layers: int = 6,
    freeze_norm: bool = False,
    score_threshold: float = 0.7,
    anchor_sizes: Sequence[Sequence[float]] | None = None,
    rois: int = 512,
    proposals: int = 1000,
    in_chans: int = 3,
    input_spec: Mapping[str, Any] | InputSpec | None = None,
) -> FasterRCNN:
    """Faster R-CNN on MobileNetV3-Large, in torchvision's version: a tenth of the work, for large inputs.

    Its finest map has a stride of 32: small regions are lost in small inputs. Options: see
    ``fasterrcnn_resnet50_fpn``; the trunk has 6 layers.
    """
    from torchvision.models.detection import FasterRCNN_MobileNet_V3_Large_FPN_Weights
    from torchvision.models.detection.backbone_utils import mobilenet_backbone
    from torchvision.models.detection.faster_rcnn import TwoMLPHead

    spec = default_spec(in_chans, input_spec)
    pyramid = _trunk(mobilenet_backbone, "mobilenet_v3_large", pretrained, trainable_layers, fpn=True)
    detector = FasterRCNN(
        pyramid,
        (32, 32, 64),
        regions=regions,
        input_spec=spec,
        anchor_sizes=anchor_sizes or scaled(_OF_MOBILENET, spec),
        box_head=TwoMLPHead(_WIDTH * 49, _DIM),
        feature_dim=_DIM,
        score_threshold=score_threshold,
        rois=rois,
        proposals=proposals,
        proposal_threshold=0.05,
        freeze_norm=freeze_norm,
    )
    if _coco(pretrained):
        _load(detector, FasterRCNN_MobileNet_V3_Large_FPN_Weights.COCO_V1)
    adapt_first_conv(detector.backbone.body["0"], "0", in_chans)
    return detector


def _coco(pretrained: bool | str) -> bool:
    if pretrained not in (True, False, "coco", "imagenet"):
        raise ValueError(f"pretrained={pretrained!r}: allowed are 'coco' (or True), 'imagenet', and False")
    return pretrained in (True, "coco")


def _resnet(pretrained: bool | str, trainable_layers: int) -> Any:
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

    return _trunk(resnet_fpn_backbone, "resnet50", pretrained, trainable_layers)


def _trunk(factory: Any, name: str, pretrained: bool | str, trainable_layers: int, **options: Any) -> Any:
    """A trunk with its pyramid, with ImageNet's weights if they are asked for."""
    _coco(pretrained)
    return _downloaded(
        lambda: factory(
            backbone_name=name,
            weights="IMAGENET1K_V1" if pretrained == "imagenet" else None,
            norm_layer=nn.BatchNorm2d,
            trainable_layers=trainable_layers,
            **options,
        )
    )


def _downloaded(get: Any) -> Any:
    try:
        return get()
    except OSError as error:  # urllib's errors are OSErrors
        raise RuntimeError(
            f"detection: weights could not be downloaded ({error}); build with pretrained=False to do without"
        ) from error


def _load(detector: FasterRCNN, weights: Any, *, without_eps: bool = False) -> None:
    """COCO's weights, except for the layers that name its objects.

    Those of the first ResNet-50 were trained with norms that add nothing to the variance (`without_eps`).
    """
    state: dict[str, Tensor] = _downloaded(lambda: weights.get_state_dict(progress=True, check_hash=True))
    named = "roi_heads.box_predictor."
    missing, unexpected = detector.load_state_dict(
        {key: value for key, value in state.items() if not key.startswith(named)}, strict=False
    )
    lost = [key for key in missing if not key.startswith(named) and not key.endswith("num_batches_tracked")]
    if lost or unexpected:
        raise RuntimeError(f"detection: {weights} lack {lost[:5]} or hold {unexpected[:5]}: another model's")
    for norm in detector.modules() if without_eps else ():
        if isinstance(norm, nn.BatchNorm2d) and norm.running_var is not None:
            variance = norm.running_var.clamp(min=torch.finfo(torch.float32).tiny)
            norm.weight.data *= ((variance + norm.eps) / variance).sqrt()
