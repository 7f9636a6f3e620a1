"""Layers between a backbone and a head: the transition layer of the Unified DCNN, and layer norm."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from thoraxlib.layers import register
from thoraxlib.utils.arguments import one_of

_KERNELS = {"conv1x1": 1, "conv3x3": 3, "none": 0}


@register("layer_norm")
def layer_norm(in_channels: int, *, eps: float = 1e-5) -> nn.Module:
    """Layer norm over the channels of each location, (N, C, h, w) -> (N, C, h, w): timm's ``LayerNorm2d``.

    Transformers end in a layer norm, which the feature maps of timm's ``features_only`` do not include.

    Parameters
    ----------
    in_channels : int
        C.
    eps : float
        Added to the variance.
    """
    from timm.layers import LayerNorm2d

    norm: nn.Module = LayerNorm2d(in_channels, eps=eps)
    return norm


@register("transition")
class Transition(nn.Module):
    """Map a backbone's feature map to a given depth and size, (N, C, h, w) -> (N, D, S, S).

    Wang et al. 2017 (arXiv 1705.02315), section 3.2, do not state kernel, norm or activation. The convolution without
    bias, the batch norm and the ReLU (the map stays non-negative, like those of ImageNet backbones) are our choice.

    Parameters
    ----------
    in_channels : int
        C.
    kind : {"conv1x1", "conv3x3", "none"}
        The convolution; "none" only resizes the map, if `size` is given.
    out_channels : int, optional
        D; default C.
    size : int, optional
        S: a map of another size is resized to (S, S), bilinear.

    Attributes
    ----------
    out_channels : int
        D.

    Raises
    ------
    ValueError
        An unknown `kind`, a size below 1, or other `out_channels` than C with "none".
    """

    def __init__(
        self,
        in_channels: int,
        *,
        kind: Literal["conv1x1", "conv3x3", "none"] = "conv1x1",
        out_channels: int | None = None,
        size: int | None = None,
    ) -> None:
        super().__init__()
        one_of("kind", kind, _KERNELS)
        if kind == "none" and out_channels not in (None, in_channels):
            raise ValueError(f"kind 'none' keeps the {in_channels} channels, but out_channels={out_channels} was given")
        if size is not None and size < 1:
            raise ValueError(f"size must be a positive int or None, got {size!r}")
        self.out_channels = width = out_channels or in_channels
        self.size = size
        self.layers: nn.Module = nn.Identity()
        if kernel := _KERNELS[kind]:
            conv = nn.Conv2d(in_channels, width, kernel, padding=kernel // 2, bias=False)
            self.layers = nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, D, S, S), or (N, D, h, w) without `size`."""
        x = self.layers(x)
        if self.size is not None and x.shape[-2:] != (self.size, self.size):
            x = F.interpolate(x, size=(self.size, self.size), mode="bilinear", align_corners=False)
        return x
