"""torchvision's Faster R-CNNs, with its weights for COCO or ImageNet."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
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
_SUMMARIES = {
    "fasterrcnn_resnet50_fpn": (
        "Faster R-CNN on ResNet-50 with a feature pyramid: the detector of AnaXNet, in torchvision's version."
    ),
    "fasterrcnn_resnet50_fpn_v2": (
        "The same with norms in the pyramid and four convolutions in the box head (Li et al. 2021, arXiv 2111.11429)."
    ),
    "fasterrcnn_mobilenet_v3_large_fpn": (
        "Faster R-CNN on MobileNetV3-Large: a tenth of the work. Use large inputs: its finest map has a stride of 32."
    ),
}


def _detector(
    name: str,
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
    """The weights have torchvision's names. Weights of detectron2 do not fit: it strides and pools differently.

    Parameters
    ----------
    regions : str or sequence of str
        A set of region names, or the names.
    pretrained : bool or {"coco", "imagenet"}
        Initial weights, downloaded by torchvision. True or "coco": all layers but the last ones, which predict the
        regions. "imagenet": the backbone alone.
    trainable_layers : int, optional
        Number of the backbone's layers that are trained, counted from its end (ResNet has 5, MobileNet 6); by default
        all. AnaXNet begins with COCO's weights and trains 3: it freezes the stem and the first stage.
    freeze_norm : bool
        Keep the batch norms fixed, as AnaXNet does. Recommended with COCO's weights and small batches.
    score_threshold : float
        A region is present if its probability is higher.
    anchor_sizes : sequence of sequence of float, optional
        For each map, the sides of its anchors in pixels. By default torchvision's for 800 pixels, scaled with the short
        side of the input.
    rois : int
        Boxes of an image that train the box head; each takes time, and 64 are enough for small inputs.
    proposals : int
        Proposals of an image that are kept; twice as many in training.
    in_chans : int
        Channels of the images; the first layer of pretrained weights is adapted.
    input_spec : mapping or InputSpec, optional
        Changes to the default input: 800 x 800 pixels, the image padded to a square, ImageNet's mean and standard
        deviation.

    Raises
    ------
    ValueError
        An option is out of its range.
    RuntimeError
        The weights could not be downloaded.
    """
    from torchvision.models.detection import backbone_utils
    from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, TwoMLPHead
    from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

    one_of("pretrained", pretrained, ("coco", "imagenet", True, False))
    mobile, v2 = "mobilenet" in name, name.endswith("_v2")
    most = 6 if mobile else 5
    layers = most if trainable_layers is None else trainable_layers
    if not 0 <= layers <= most:
        raise ValueError(f"trainable_layers={trainable_layers}: the backbone has {most}")
    spec = default_spec(in_chans, input_spec)
    common: dict[str, Any] = {
        "weights": "IMAGENET1K_V1" if pretrained == "imagenet" else None,
        "norm_layer": nn.BatchNorm2d,
        "trainable_layers": layers,
    }
    more: dict[str, Any] = {"rpn_depth": 2} if v2 else {}
    make: Callable[..., Any] = partial(backbone_utils.resnet_fpn_backbone, backbone_name="resnet50")
    strides, anchors = [4, 8, 16, 32, 64], [[32], [64], [128], [256], [512]]
    if mobile:
        make = partial(backbone_utils.mobilenet_backbone, backbone_name="mobilenet_v3_large", fpn=True)
        strides, anchors, more = [32, 32, 64], [[32, 64, 128, 256, 512]] * 3, {"proposal_threshold": 0.05}
    pyramid: Any = _downloaded(lambda: make(**common))
    head: nn.Module
    if v2:
        pyramid.fpn = FeaturePyramidNetwork([256, 512, 1024, 2048], _WIDTH, LastLevelMaxPool(), nn.BatchNorm2d)
        head = FastRCNNConvFCHead((_WIDTH, 7, 7), [_WIDTH] * 4, [_DIM], norm_layer=nn.BatchNorm2d)
    else:
        head = TwoMLPHead(_WIDTH * 49, _DIM)
    detector = FasterRCNN(
        pyramid,
        strides,
        regions=regions,
        input_spec=spec,
        anchor_sizes=anchor_sizes or scaled(anchors, spec),
        box_head=head,
        feature_dim=_DIM,
        score_threshold=score_threshold,
        rois=rois,
        proposals=proposals,
        freeze_norm=freeze_norm,
        **more,
    )
    if pretrained in (True, "coco"):
        _load_coco(detector, name)
    first = (pyramid.body["0"], "0") if mobile else (pyramid.body, "conv1")
    adapt_first_conv(*first, spec.channels)
    return detector


def _downloaded(get: Callable[[], Any]) -> Any:
    try:
        return get()
    except OSError as error:  # urllib's errors are OSErrors
        raise RuntimeError(
            f"detection: weights could not be downloaded ({error}); build with pretrained=False to do without"
        ) from error


def _load_coco(detector: FasterRCNN, name: str) -> None:
    """Load COCO's weights, except for the layers that predict its objects."""
    from torchvision.models import get_model_weights

    weights: Any = get_model_weights(name).COCO_V1  # type: ignore[attr-defined]
    state: dict[str, Tensor] = _downloaded(lambda: weights.get_state_dict(progress=True, check_hash=True))
    last = "roi_heads.box_predictor."
    missing, unexpected = detector.load_state_dict(
        {key: value for key, value in state.items() if not key.startswith(last)}, strict=False
    )
    lost = [key for key in missing if not key.startswith(last) and not key.endswith("num_batches_tracked")]
    if lost or unexpected:
        raise RuntimeError(f"detection: {weights} lack {lost[:5]} or hold {unexpected[:5]}: another model's")
    # the first version was trained with norms that add nothing to the variance
    for norm in detector.modules() if name == "fasterrcnn_resnet50_fpn" else ():
        if isinstance(norm, nn.BatchNorm2d) and norm.running_var is not None:
            variance = norm.running_var.clamp(min=torch.finfo(torch.float32).tiny)
            norm.weight.data *= ((variance + norm.eps) / variance).sqrt()


for _name, _summary in _SUMMARIES.items():
    _factory = partial(_detector, _name)
    _factory.__doc__ = f"{_summary}\n\n{inspect.getdoc(_detector)}"
    _factory.__module__ = __name__  # type: ignore[attr-defined]
    register(_name)(_factory)
