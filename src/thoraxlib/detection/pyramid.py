"""Faster R-CNN on any backbone."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from thoraxlib import backbones
from thoraxlib.detection import register
from thoraxlib.detection.base import default_spec
from thoraxlib.detection.faster_rcnn import FasterRCNN, scaled
from thoraxlib.input_spec import InputSpec
from thoraxlib.registry import Spec

_FINEST = 4  # stride; finer maps cost much and see little


class Pyramid(nn.Module):
    """A backbone with torchvision's feature pyramid: images to maps "0", "1", ..., "pool" of one width, finest first.

    Of the backbone's maps, those of stride 4 and more are used, and of several with one stride the deepest.

    Parameters
    ----------
    backbone : Backbone
        From :mod:`thoraxlib.backbones`.
    out_channels : int
        Width of the maps.

    Attributes
    ----------
    strides : tuple of int
        Of the maps, that of "pool" included.

    Raises
    ------
    ValueError
        The backbone has no map of stride 4 or more.
    """

    def __init__(self, backbone: backbones.Backbone, out_channels: int) -> None:
        from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

        super().__init__()
        backbones.check_backbone(backbone)
        deepest = {stride: place for place, stride in enumerate(backbone.strides) if stride >= _FINEST}
        if not deepest:
            raise ValueError(
                f"backbone {type(backbone).__name__} has no map of stride 4 or more, only {backbone.strides}"
            )
        self.used = tuple(deepest.values())
        self.strides = (*deepest, 2 * max(deepest))
        self.body, self.out_channels = backbone, out_channels
        self.fpn = FeaturePyramidNetwork([backbone.channels[k] for k in self.used], out_channels, LastLevelMaxPool())

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """The maps, by name."""
        maps = self.body(x)
        found: dict[str, Tensor] = self.fpn(OrderedDict((str(name), maps[k]) for name, k in enumerate(self.used)))
        return found


@register("fasterrcnn_fpn")
def fasterrcnn_fpn(
    *,
    regions: str | Sequence[str] = "regions18",
    backbone: Spec | backbones.Backbone = "resnet18",
    pretrained: bool = False,
    freeze_norm: bool = False,
    width: int = 256,
    feature_dim: int = 1024,
    score_threshold: float = 0.7,
    anchor_sizes: Sequence[Sequence[float]] | None = None,
    rois: int = 512,
    proposals: int = 1000,
    in_chans: int = 3,
    input_spec: Mapping[str, Any] | InputSpec | None = None,
) -> FasterRCNN:
    """Faster R-CNN on any backbone of the backbones room, with a feature pyramid.

    Parameters
    ----------
    backbone : str, mapping or Backbone
        From :mod:`thoraxlib.backbones`: any with maps of several strides.
    pretrained : bool
        ImageNet weights for the backbone.
    width : int
        Channels of the pyramid's maps.
    feature_dim : int
        Of a region.
    regions, freeze_norm, score_threshold, anchor_sizes, rois, proposals, in_chans, input_spec
        See ``fasterrcnn_resnet50_fpn``; anchors are by default 8 strides wide in inputs of 800 pixels.

    Raises
    ------
    ValueError
        An option out of its range, or a backbone without a map that serves.
    """
    from torchvision.models.detection.faster_rcnn import TwoMLPHead

    if width < 1 or feature_dim < 1:
        raise ValueError(f"width={width}, feature_dim={feature_dim}: at least 1 of each is needed")
    spec = default_spec(in_chans, input_spec)
    pyramid = Pyramid(backbones.for_input(backbone, spec, pretrained=pretrained), width)
    return FasterRCNN(
        pyramid,
        pyramid.strides,
        regions=regions,
        input_spec=spec,
        anchor_sizes=anchor_sizes or scaled([[8 * stride] for stride in pyramid.strides], spec),
        box_head=TwoMLPHead(width * 49, feature_dim),
        feature_dim=feature_dim,
        score_threshold=score_threshold,
        rois=rois,
        proposals=proposals,
        freeze_norm=freeze_norm,
    )
