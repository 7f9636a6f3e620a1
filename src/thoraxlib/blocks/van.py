"""The block of the Visual Attention Network."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from thoraxlib.blocks import register
from thoraxlib.blocks.depthwise import DepthwiseConv2d
from thoraxlib.blocks.lka import LKAAttention
from thoraxlib.registry import Spec

__all__ = ["ConvMLP", "VANBlock"]


class ConvMLP(nn.Module):
    """``conv1x1(gelu(depthwise 3x3(conv1x1(x))))``, (N, C, h, w) -> (N, C, h, w).

    Parameters
    ----------
    channels, hidden : int
        C, and the channels in between.
    dropout : float
        After the activation and at the end, in training.
    """

    def __init__(self, channels: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        # the extra level is that of the published checkpoints
        self.dwconv = nn.Sequential(OrderedDict(dwconv=DepthwiseConv2d(hidden, 3)))
        self.act = nn.GELU()
        self.fc2 = nn.Conv2d(hidden, channels, 1)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, C, h, w)."""
        out: Tensor = self.drop(self.fc2(self.drop(self.act(self.dwconv(self.fc1(x))))))
        return out


@register("van_block")
class VANBlock(nn.Module):
    """``x + s1 attention(norm(x))``, then ``x + s2 mlp(norm(x))``, (N, C, h, w) -> (N, C, h, w).

    Guo et al. 2022 (arXiv 2202.09741), figure 3: batch norms, layer scales that start at 0.01, stochastic depth.

    Parameters
    ----------
    in_channels : int
        C.
    mlp_ratio : float
        Hidden channels of the MLP over C.
    gate : str, mapping or module
        See :class:`thoraxlib.blocks.lka.LKAAttention`.
    dropout : float
        In the MLP, in training.
    drop_path : float
        Share of samples for which a branch is left out, in training.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        mlp_ratio: float = 4.0,
        gate: Spec | nn.Module = "lka",
        dropout: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        from timm.layers import DropPath

        super().__init__()
        self.out_channels = in_channels
        self.layer_scale_1 = nn.Parameter(torch.full((in_channels,), 0.01))
        self.layer_scale_2 = nn.Parameter(torch.full((in_channels,), 0.01))
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.attn = LKAAttention(in_channels, gate=gate)
        self.norm2 = nn.BatchNorm2d(in_channels)
        self.mlp = ConvMLP(in_channels, int(in_channels * mlp_ratio), dropout)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, C, h, w)."""
        x = x + self.drop_path(self.layer_scale_1[:, None, None] * self.attn(self.norm1(x)))
        out: Tensor = x + self.drop_path(self.layer_scale_2[:, None, None] * self.mlp(self.norm2(x)))
        return out
