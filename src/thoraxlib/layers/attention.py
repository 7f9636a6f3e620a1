"""Attention over channels, over locations, and over a pyramid of scales: (N, C, h, w) -> (N, C, h, w).

alinstein/X_RAY and jfhealthcare/Chexpert have the same three layers and call them CAM, SAM and FPA.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from thoraxlib.layers import register
from thoraxlib.utils.arguments import one_of


class Attention(nn.Module):
    """Base class of the attention layers; the output has the input's shape.

    Attributes
    ----------
    out_channels : int
        C.
    """

    out_channels: int
    _source: str  # its name in published checkpoints
    _renamed: Mapping[str, str]  # own name of a submodule -> its name in published checkpoints

    def checkpoint_keys(self, keys: Iterable[str]) -> dict[str, str]:
        """Map each own state-dict key to its counterpart among a published checkpoint's `keys`, if it has one."""
        available, pairs = set(keys), {}
        for own in self.state_dict():
            part = next((part for part in self._renamed if own.startswith(part)), "")
            theirs = f"{self._source}.{self._renamed.get(part, '')}{own[len(part) :]}"
            if theirs in available:
                pairs[own] = theirs
        return pairs


@register("channel_attention")
class ChannelAttention(Attention):
    """Squeeze and excitation: ``x * sigmoid(W2 relu(W1 mean(x)))`` (Hu et al. 2018, arXiv 1709.01507).

    Parameters
    ----------
    in_channels : int
        C.
    reduction : int
        The hidden layer has C // reduction units.

    Raises
    ------
    ValueError
        `reduction` is below 1 or above C.
    """

    _source, _renamed = "channel_attention", {}

    def __init__(self, in_channels: int, *, reduction: int = 2) -> None:
        super().__init__()
        self.out_channels = in_channels
        hidden = _reduced(in_channels, reduction)
        self.fc1 = nn.Linear(in_channels, hidden)
        self.fc2 = nn.Linear(hidden, in_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, C, h, w)."""
        gate: Tensor = self.fc2(self.fc1(x.mean(dim=(2, 3))).relu()).sigmoid()
        return x * gate[:, :, None, None]


@register("spatial_attention")
class SpatialAttention(Attention):
    """Attention between all locations: ``x + gamma V softmax(Q K)`` (DANet, Fu et al. 2019, arXiv 1809.02983).

    The scores are not scaled. gamma is learned and starts at 0, where the output is the input. The code of the two
    repositories cannot run as released: it calls the softmax with a keyword that does not exist.

    Parameters
    ----------
    in_channels : int
        C.
    reduction : int
        Queries and keys have C // reduction channels.

    Raises
    ------
    ValueError
        `reduction` is below 1 or above C.
    """

    _source, _renamed = "spatial_attention", {"query": "conv1", "key": "conv2", "value": "conv3"}

    def __init__(self, in_channels: int, *, reduction: int = 8) -> None:
        super().__init__()
        self.out_channels = in_channels
        hidden = _reduced(in_channels, reduction)
        self.query = nn.Conv2d(in_channels, hidden, 1)
        self.key = nn.Conv2d(in_channels, hidden, 1)
        self.value = nn.Conv2d(in_channels, in_channels, 1)
        self.gamma = nn.Parameter(self.value.weight.new_zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, C, h, w)."""
        query, key, value = (layer(x).flatten(2) for layer in (self.query, self.key, self.value))
        attention = (query.transpose(1, 2) @ key).softmax(dim=2)
        refined: Tensor = value @ attention.transpose(1, 2)
        return x + self.gamma * refined.view_as(x)


@register("pyramid_attention")
class PyramidAttention(Attention):
    """``x`` through a 1x1 convolution, times a one-channel map from three scales, plus a global branch (FPA).

    Feature pyramid attention (Li et al. 2018, arXiv 1805.10180) in the form of the two repositories: the pyramid's map
    has one channel and no negative values. The repositories upsample by fixed factors, and fail if a side of the map
    is no multiple of 4. Here each scale is upsampled to the size of the next finer one: the same result where the
    repositories' code runs.

    Parameters
    ----------
    in_channels : int
        C.
    norm : {"batch", "group"}
        After each convolution. Batch norm, as in the repositories, needs at least 2 images in a training batch. Group
        norm has 32 groups, or the largest number that divides both 32 and the channels; that of the repositories fails
        on one-channel maps.

    Raises
    ------
    ValueError
        An unknown `norm`.
    """

    _source = "pyramid_attention"

    def __init__(self, in_channels: int, *, norm: Literal["batch", "group"] = "batch") -> None:
        super().__init__()
        one_of("norm", norm, ("batch", "group"))
        self.out_channels = c = in_channels
        self.gap_branch = _conv(c, c, 1, 1, norm)
        self.mid_branch = _conv(c, c, 1, 1, norm)
        self.downsample1 = _conv(c, 1, 7, 2, norm)
        self.downsample2 = _conv(1, 1, 5, 2, norm)
        self.downsample3 = _conv(1, 1, 3, 2, norm)
        self.scale1 = _conv(1, 1, 7, 1, norm)
        self.scale2 = _conv(1, 1, 5, 1, norm)
        self.scale3 = _conv(1, 1, 3, 1, norm)
        renamed = {name: f"{name}.conv" for name, _ in self.named_children()}
        self._renamed = {**renamed, "gap_branch": "gap_branch.1.conv"}

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, C, h, w)."""
        d1 = self.downsample1(x)
        d2 = self.downsample2(d1)
        d3 = self.downsample3(d2)
        u2 = self.scale2(d2) + _resized(self.scale3(d3), d2)
        u1 = self.scale1(d1) + _resized(u2, d1)
        out: Tensor = _resized(u1, x) * self.mid_branch(x) + self.gap_branch(x.mean(dim=(2, 3), keepdim=True))
        return out


def _reduced(channels: int, reduction: int) -> int:
    if not (isinstance(reduction, int) and 1 <= reduction <= channels):
        raise ValueError(f"reduction must be an int from 1 to the {channels} channels, got {reduction!r}")
    return channels // reduction


def _resized(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)


def _conv(channels: int, out: int, kernel: int, stride: int, norm: str) -> nn.Sequential:
    """Build a convolution, a norm and a ReLU."""
    layer = nn.BatchNorm2d(out) if norm == "batch" else nn.GroupNorm(math.gcd(32, out), out)
    return nn.Sequential(nn.Conv2d(channels, out, kernel, stride, kernel // 2), layer, nn.ReLU())
