"""AlexNet and GoogLeNet of torchvision, which timm does not have."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn

from thoraxlib.backbones import register
from thoraxlib.backbones.base import Backbone
from thoraxlib.backbones.timm import FeatureInfoBackbone
from thoraxlib.input_spec import IMAGENET_MEAN, IMAGENET_STD

_ALEXNET = {"features.1": (64, 4), "features.4": (192, 8), "features.11": (256, 16), "features.12": (256, 32)}
_GOOGLENET = {
    **{"conv1": (64, 2), "conv3": (192, 4)},
    **{"inception3b": (480, 8), "inception4e": (832, 16), "inception5b": (1024, 32)},
}


class _HalfNormalize(nn.Module):
    """Convert ImageNet-normalised pixels to (pixel - 0.5) / 0.5, the input of torchvision's GoogLeNet weights."""

    scale: Tensor
    shift: Tensor

    def __init__(self) -> None:
        super().__init__()
        mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
        self.register_buffer("scale", (std / 0.5).view(-1, 1, 1), persistent=False)
        self.register_buffer("shift", ((mean - 0.5) / 0.5).view(-1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.shift


@register("alexnet")
def alexnet(*, in_chans: int = 3, pretrained: bool = False) -> Backbone:
    """AlexNet in torchvision's version (one column); its last two maps are before and after the last max pool.

    Parameters
    ----------
    in_chans : int
        Channels of the images; the first layer's weights are adapted to them.
    pretrained : bool
        Load ImageNet weights.
    """
    net = _network("alexnet", pretrained)
    adapt_first_conv(net.features, "0", in_chans)
    return _backbone(net, _ALEXNET, in_chans)


@register("googlenet")
def googlenet(*, in_chans: int = 3, pretrained: bool = False) -> Backbone:
    """GoogLeNet in torchvision's version, with batch norm and without auxiliary heads.

    Parameters
    ----------
    in_chans : int
        Channels of the images.
    pretrained : bool
        Load ImageNet weights, for images of 3 channels.

    Raises
    ------
    ValueError
        `pretrained`, and a number of channels other than 3.
    """
    if pretrained and in_chans != 3:
        raise ValueError(f"googlenet: pretrained=True needs in_chans=3, got {in_chans}")
    net = _network("googlenet", pretrained, **({} if pretrained else {"init_weights": True, "aux_logits": False}))
    adapt_first_conv(net.conv1, "conv", in_chans)
    if pretrained:
        net = nn.Sequential(OrderedDict(affine=_HalfNormalize(), **dict(net.named_children())))
    return _backbone(net, _GOOGLENET, in_chans)


def _network(name: str, pretrained: bool, **options: Any) -> Any:
    from torchvision import models

    try:
        return models.get_model(name, weights="DEFAULT" if pretrained else None, **options)
    except OSError as error:  # urllib's errors are OSErrors
        raise RuntimeError(
            f"backbones: pretrained weights of torchvision's {name} could not be downloaded ({error}); "
            "build with pretrained=False to do without"
        ) from error


def _backbone(net: Any, maps: dict[str, tuple[int, int]], in_chans: int) -> Backbone:
    """Take the outputs of some modules, run in turn, as maps: module's name -> (channels, stride)."""
    from timm.models import FeatureListNet

    net.feature_info = [{"module": name, "num_chs": c, "reduction": stride} for name, (c, stride) in maps.items()]
    return FeatureInfoBackbone(FeatureListNet(net, tuple(range(len(maps))), flatten_sequential=True), in_chans)


def adapt_first_conv(parent: nn.Module, name: str, in_chans: int) -> None:
    """Change the first convolution to `in_chans` input channels; timm's rule adapts its weights.

    Raises
    ------
    ValueError
        `in_chans` is no positive int.
    """
    from timm.models import adapt_input_conv

    if not isinstance(in_chans, int) or in_chans < 1:
        raise ValueError(f"in_chans must be a positive int, got {in_chans!r}")
    conv = parent.get_submodule(name)
    assert isinstance(conv, nn.Conv2d)
    if in_chans != conv.in_channels:
        conv.weight = nn.Parameter(adapt_input_conv(in_chans, conv.weight.detach()))
        conv.in_channels = in_chans
