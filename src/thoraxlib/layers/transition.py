"""The transition layer of the Unified DCNN."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from thoraxlib.layers import register
from thoraxlib.utils.arguments import one_of


@register("transition")
class Transition(nn.Module):
    """Backbone activation -> activation of uniform depth and size, (N, C, h, w) -> (N, D, S, S).

    Wang et al. 2017 (arXiv 1705.02315), section 3.2, do not state kernel, norm or activation: a convolution without
    bias, batch norm and ReLU (which keeps the map non-negative, as ImageNet backbones have it) are ours.

    Parameters
    ----------
    in_channels : int
        C.
    kind : {"conv1x1", "conv3x3", "none"}
        The convolution; "none" passes the map through, resized if `size` is given.
    out_channels : int, optional
        D; default C.
    size : int, optional
        S: bilinear resize to (S, S) where the map has another size.

    Attributes
    ----------
    out_channels : int
        D.

    Raises
    ------
    ValueError
        Another `kind`, a size below 1, or other channels for "none".
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
        kernels = {"conv1x1": 1, "conv3x3": 3, "none": None}
        one_of("kind", kind, kernels)
        kernel = kernels[kind]
        if kernel is None and out_channels not in (None, in_channels):
            raise ValueError(f"kind 'none' keeps the {in_channels} channels, but out_channels={out_channels} was given")
        if size is not None and size < 1:
            raise ValueError(f"size must be a positive int or None, got {size!r}")
        self.out_channels = out_channels or in_channels
        self.size = size
        self.layers = (
            nn.Identity()
            if kernel is None
            else nn.Sequential(
                nn.Conv2d(in_channels, self.out_channels, kernel, padding=kernel // 2, bias=False),
                nn.BatchNorm2d(self.out_channels),
                nn.ReLU(),
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, D, S, S), or (N, D, h, w) without `size`."""
        x = self.layers(x)
        if self.size is not None and x.shape[-2:] != (self.size, self.size):
            x = F.interpolate(x, size=(self.size, self.size), mode="bilinear", align_corners=False)
        return x
