"""VanillaNet, a plain chain of convolutions and poolings."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import accumulate, compress
from operator import mul
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_weights

from thoraxlib.backbones import register
from thoraxlib.backbones.base import Backbone, variant
from thoraxlib.backbones.published import load_published

_EPS = 1e-6


class SeriesActivation(nn.Conv2d):
    """ReLU, depthwise 7x7 convolution, batch norm: (N, C, h, w) -> (N, C, h, w).

    The "series informed activation function" of Chen et al. 2023 (arXiv 2305.12972) with n = 3: a weighted sum of the
    activations around each location.

    Parameters
    ----------
    channels : int
        C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 7, padding=3, groups=channels, bias=False)
        self.bn: nn.Module = nn.BatchNorm2d(channels, eps=_EPS)

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, C, h, w)."""
        out: Tensor = self.bn(super().forward(input.relu()))
        return out


class _Stage(nn.Module):
    """Two 1x1 convolutions with norms and a leaky ReLU between them, then pooling and a series activation."""

    def __init__(self, channels: int, out: int, pool: nn.Module) -> None:
        super().__init__()
        self.conv1 = _conv(channels, channels)
        self.conv2 = _conv(channels, out)
        self.pool = pool
        self.act = SeriesActivation(out)

    def forward(self, x: Tensor, slope: float) -> Tensor:
        out: Tensor = self.act(self.pool(self.conv2(_leaky(self.conv1(x), slope))))
        return out


class VanillaNet(Backbone):
    """A plain chain of convolutions and poolings, without shortcuts (Chen et al. 2023, arXiv 2305.12972).

    The maps are the last of each resolution. With `activation_slope` 1, the two convolutions of each stage are one
    linear map, and :meth:`fuse` replaces them by one convolution. The paper starts training with slope 0 and raises it
    to 1, epoch by epoch ("deep training"): set the attribute.

    Parameters
    ----------
    widths : sequence of int
        Channels of the stem and of each stage.
    strides : sequence of int
        Stride of each stage's pooling; 1 for none.
    pool_sizes : sequence of int, optional
        Fixed sizes of the maps after each pooling with a stride above 1, finest first; by default, the sizes follow
        from the image.
    in_chans : int
        Channels of the image.
    pretrained : bool
        Load ImageNet weights, for `activation_slope` 1: downloaded once.
    published : str, optional
        Their name in the catalogue (:mod:`thoraxlib.weights`).
    activation_slope : float
        Slope of the leaky ReLUs for negative values, 0 to 1.

    Attributes
    ----------
    activation_slope : float
        May be set at any time; the head "vanilla" has the same attribute.

    Raises
    ------
    ValueError
        `pretrained`, and no published weights of these sizes; `widths` that are not one more than `strides`, or
        `pool_sizes` that are not one for each stride above 1.
    RuntimeError
        The weights could not be downloaded.
    """

    stem1: Any
    stem2: Any
    stages: Any

    def __init__(
        self,
        widths: Sequence[int],
        strides: Sequence[int],
        *,
        pool_sizes: Sequence[int] | None = None,
        in_chans: int = 3,
        pretrained: bool = False,
        published: str | None = None,
        activation_slope: float = 1.0,
    ) -> None:
        super().__init__()
        if pretrained and published is None:
            raise ValueError("VanillaNet: pretrained=True needs published=, a name of the catalogue")
        pooling = [index for index, stride in enumerate(strides) if stride > 1]
        if len(widths) != len(strides) + 1:
            raise ValueError(f"widths must be one more than strides, got {widths} and {strides}")
        if pool_sizes is not None and len(pool_sizes) != len(pooling):
            raise ValueError(f"pool_sizes must be {len(pooling)}, one for each stride above 1, got {pool_sizes}")
        self.in_chans = in_chans
        self.activation_slope = activation_slope
        self.stem1 = nn.Sequential(nn.Conv2d(in_chans, widths[0], 4, 4), nn.BatchNorm2d(widths[0], eps=_EPS))
        self.stem2 = nn.Sequential(*_conv(widths[0], widths[0]), SeriesActivation(widths[0]))
        pools: list[nn.Module] = [nn.MaxPool2d(stride) if stride > 1 else nn.Identity() for stride in strides]
        for index, size in zip(pooling, pool_sizes or (), strict=False):
            pools[index] = nn.AdaptiveMaxPool2d(size)
        self.stages = nn.ModuleList(map(_Stage, widths[:-1], widths[1:], pools))
        self._is_map = [*(stride > 1 for stride in strides), True]  # before each pooling, and at the end
        self.channels = tuple(compress(widths, self._is_map))
        self.strides = tuple(compress(accumulate([4, *strides], mul), self._is_map))
        self.apply(_initialise)
        if pretrained and published is not None:
            load_published(self, published)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Compute the feature maps of `x`, finest first, (N, C_i, H_i, W_i)."""
        slope = self.activation_slope
        outputs = [self.stem2(_leaky(self.stem1(x), slope))]
        for stage in self.stages:
            outputs.append(stage(outputs[-1], slope))
        return list(compress(outputs, self._is_map))

    @torch.no_grad()
    def fuse(self) -> VanillaNet:
        """Fold the batch norms and merge each pair of convolutions, in place: same outputs, fewer weights.

        This changes the state dict: load and save before.

        Returns
        -------
        VanillaNet
            This network.

        Raises
        ------
        ValueError
            The network is in training mode or already fused, or its `activation_slope` is not 1.
        """
        fused = isinstance(self.stem1[1], nn.Identity)
        if self.training or self.activation_slope != 1 or fused:
            raise ValueError(
                "fuse needs a network in eval mode, with activation_slope 1, not fused before; got "
                f"training={self.training}, activation_slope={self.activation_slope}, fused={fused}"
            )
        pairs = [(stage.conv1, stage.conv2, stage.act) for stage in self.stages]
        for first, second, activation in [(self.stem1, self.stem2, self.stem2[2]), *pairs]:
            _join(first, second)
            _give(activation, *_folded(activation, activation.bn))
            activation.bn = nn.Identity()
        return self


def _leaky(x: Tensor, slope: float) -> Tensor:
    """Apply a leaky ReLU; with slope 1, return `x` itself."""
    return x if slope == 1 else F.leaky_relu(x, slope)


def _conv(channels: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, out, 1), nn.BatchNorm2d(out, eps=_EPS))


def _folded(conv: Any, norm: Any) -> tuple[Any, Any]:
    """Return weight and bias of one convolution that equals `conv` and then `norm`; in float64, to round only once."""
    conv, norm = (copy.deepcopy(part).to("cpu", torch.float64) for part in (conv, norm))
    return fuse_conv_bn_weights(
        conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )


def _give(conv: Any, weight: Tensor, bias: Tensor) -> None:
    """Set weight and bias of `conv`, in its own precision."""
    conv.weight, conv.bias = (nn.Parameter(tensor.to(conv.weight)) for tensor in (weight, bias))


def _join(first: Any, second: Any) -> None:
    """Merge two pairs of convolution and norm, the second 1x1, into `first`; `second` becomes the identity."""
    (weight, bias), (mixing, shift) = _folded(*first[:2]), _folded(*second[:2])
    mixing = mixing[:, :, 0, 0]
    _give(first[0], torch.einsum("om,mchw->ochw", mixing, weight), mixing @ bias + shift)
    first[0].out_channels = len(shift)
    first[1] = second[0] = second[1] = nn.Identity()


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _register(name: str, version: int, factor: int = 4, pool_sizes: Sequence[int] | None = None) -> None:
    # 5 and 6 begin with a stage that pools; later ones have a stage before it, and more of 512 before the last pooling
    more = max(version - 7, 0)
    first = [128, 128] if version > 6 else [128]
    last = [1024, 1024] if version > 5 else [1024]
    widths = [factor * width for width in (*first, 256, 512, *[512] * more, *last)]
    strides = {5: [2, 2, 2], 6: [2, 2, 2, 1]}.get(version, [1, 2, 2, *[1] * more, 2, 1])
    summary = f"VanillaNet-{version}: widths {widths}, strides {strides}."
    published = f"{name.replace('_', '-')}-imagenet"
    options: Any = {"widths": widths, "strides": strides, "pool_sizes": pool_sizes, "published": published}
    register(name)(variant(summary, VanillaNet, **options))


for _version in range(5, 14):
    _register(f"vanillanet_{_version}", _version)
_register("vanillanet_13_x1_5", 13, factor=6)
_register("vanillanet_13_x1_5_ada_pool", 13, factor=6, pool_sizes=(40, 20, 10))
