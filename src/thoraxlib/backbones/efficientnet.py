"""EfficientNets: timm's, up to the last convolution on request."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from thoraxlib.backbones.timm import TimmBackbone

__all__ = ["EfficientNetBackbone"]


class EfficientNetBackbone(TimmBackbone):
    """A timm EfficientNet.

    Parameters
    ----------
    timm_name : str
        ``"efficientnet_b0"``, ``"tf_efficientnet_b0"``, ...
    conv_head : bool
        The last map is the one that the network's own classifier pools, behind the 1x1 convolution that widens it
        (320 to 1280 channels for B0). False ends the pyramid before it, as timm does.
    **options
        As for :class:`thoraxlib.backbones.TimmBackbone`.
    """

    def __init__(self, timm_name: str, *, conv_head: bool = False, **options: Any) -> None:
        super().__init__(timm_name, **options)
        self.tail = nn.Sequential()
        if conv_head:
            import timm

            options.pop("img_size", None)
            whole: Any = timm.create_model(timm_name, **options)
            self.tail = nn.Sequential(OrderedDict(conv_head=whole.conv_head, bn2=whole.bn2))
            self.channels = (*self.channels[:-1], whole.num_features)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Feature maps of `x`, finest first, (N, C_i, H_i, W_i)."""
        maps = super().forward(x)
        return [*maps[:-1], self.tail(maps[-1])]

    def checkpoint_keys(self, keys: Iterable[str]) -> dict[str, str]:
        """As timm's, with the last convolution and norm."""
        keys = set(keys)
        tail = {f"tail.{name}": name for name in self.tail.state_dict() if name in keys}
        return super().checkpoint_keys(keys) | tail
