"""Large-kernel attention: a map times what a large kernel makes of it, the kernel taken apart."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from thoraxlib.layers import register
from thoraxlib.layers.depthwise import DepthwiseConv2d
from thoraxlib.layers.pointwise import MapGELU, PointwiseConv2d
from thoraxlib.registry import Spec


def split_kernel(kernel_size: int, dilation: int) -> tuple[int, int]:
    """The two depthwise kernels that stand for one of `kernel_size`: 2 d - 1, and ceil(K / d) with dilation d.

    Guo et al. 2022, arXiv 2202.09741, section 3.1.

    >>> split_kernel(21, 3)
    (5, 7)

    Raises
    ------
    ValueError
        A kernel that is not odd and positive, a dilation below 1, or a dilated kernel that would be even.
    """
    if kernel_size < 1 or kernel_size % 2 == 0 or dilation < 1:
        raise ValueError(f"kernel_size must be odd and dilation at least 1, got {kernel_size} and {dilation}")
    dense, dilated = 2 * dilation - 1, -(-kernel_size // dilation)
    if dilated % 2 == 0:
        raise ValueError(
            f"kernel_size={kernel_size} with dilation={dilation} needs a dilated kernel of {dilated}, which is even: "
            "choose one for which ceil(kernel_size / dilation) is odd"
        )
    return dense, dilated


@register("lka")
class LKA(nn.Module):
    """``x * conv1x1(dilated depthwise(depthwise(x)))``: (N, C, h, w) -> (N, C, h, w).

    Guo et al. 2022 (Visual Attention Network, arXiv 2202.09741), equations 2 and 3. No sigmoid: the gate is linear.

    Parameters
    ----------
    in_channels : int
        C.
    kernel_size : int
        Of the kernel that the two depthwise ones stand for; see :func:`split_kernel`.
    dilation : int
        Of the second.

    Raises
    ------
    ValueError
        Sizes that cannot be split.
    """

    def __init__(self, in_channels: int, *, kernel_size: int = 21, dilation: int = 3) -> None:
        super().__init__()
        self.out_channels = in_channels
        dense, dilated = split_kernel(kernel_size, dilation)
        self.conv0 = DepthwiseConv2d(in_channels, dense)
        self.conv_spatial = DepthwiseConv2d(in_channels, dilated, dilation)
        self.conv1 = PointwiseConv2d(in_channels, in_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, C, h, w)."""
        gate: Tensor = self.conv1(self.conv_spatial(self.conv0(x)))
        return x * gate


@register("lka_multiscale")
class MultiScaleLKA(nn.Module):
    """Large-kernel attention with a gate from several kernels: (N, C, h, w) -> (N, C, h, w).

    Each branch is a depthwise, a dilated depthwise and a 1x1 convolution; a last 1x1 convolution joins them.
    QUST-SmartData/CXRClassification, MultiScaleVAN.

    Parameters
    ----------
    in_channels : int
        C.
    kernels : sequence of (int, int)
        For each branch, the kernel and the dilated kernel.
    dilation : int
        Of the second kernels.
    used : sequence of int, optional
        Which branch's result is taken at each place; default each its own. The original takes (0, 1, 2, 2, 2): its last
        two branches hold parameters that nothing uses.

    Raises
    ------
    ValueError
        `used` does not have a branch for each place.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        kernels: Sequence[tuple[int, int]] = ((3, 5), (5, 7), (7, 9), (9, 11), (11, 13)),
        dilation: int = 3,
        used: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.out_channels = c = in_channels
        self.used = tuple(range(len(kernels)) if used is None else used)
        if len(self.used) != len(kernels) or not all(0 <= branch < len(kernels) for branch in self.used):
            raise ValueError(f"used must be {len(kernels)} positions of branches, got {self.used}")
        self.branches = nn.ModuleList(
            nn.Sequential(DepthwiseConv2d(c, dense), DepthwiseConv2d(c, dilated, dilation), PointwiseConv2d(c, c))
            for dense, dilated in kernels
        )
        self.conv = PointwiseConv2d(len(kernels) * c, c)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, C, h, w)."""
        made = {branch: self.branches[branch](x) for branch in sorted(set(self.used))}
        gate: Tensor = self.conv(torch.cat([made[branch] for branch in self.used], dim=1))
        return x * gate


@register("lka_dilated")
class DilatedLKA(nn.Module):
    """Large-kernel attention with a gate from a sum of dilated 3x3 kernels: (N, C, h, w) -> (N, C, h, w).

    QUST-SmartData/CXRClassification, DilationVAN: a 1x1 depthwise convolution and one 3x3 for each dilation, added, and
    then a 1x1 convolution.

    Parameters
    ----------
    in_channels : int
        C.
    dilations : sequence of int
        Of the 3x3 kernels.
    """

    def __init__(self, in_channels: int, *, dilations: Sequence[int] = (1, 3, 5, 7, 9)) -> None:
        super().__init__()
        self.out_channels = in_channels
        kernels = [DepthwiseConv2d(in_channels, 1), *(DepthwiseConv2d(in_channels, 3, d) for d in dilations)]
        self.kernels = nn.ModuleList(kernels)
        self.conv1x1 = PointwiseConv2d(in_channels, in_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, C, h, w)."""
        total = self.kernels[0](x)
        for kernel in self.kernels[1:]:
            total = total + kernel(x)
        gate: Tensor = self.conv1x1(total)
        return x * gate


@register("lka_attention")
class LKAAttention(nn.Module):
    """``x + conv1x1(gate(gelu(conv1x1(x))))``: (N, C, h, w) -> (N, C, h, w).

    The attention of a VAN block (Guo et al. 2022, arXiv 2202.09741, figure 3).

    Parameters
    ----------
    in_channels : int
        C.
    gate : str, mapping or module
        "lka", "lka_multiscale", "lka_dilated" or another block of :mod:`thoraxlib.layers`.
    """

    def __init__(self, in_channels: int, *, gate: Spec | nn.Module = "lka") -> None:
        from thoraxlib.layers import registry

        super().__init__()
        self.out_channels = in_channels
        self.proj_1 = PointwiseConv2d(in_channels, in_channels)
        self.activation = MapGELU()
        self.spatial_gating_unit = registry.resolve(gate, in_channels=in_channels)
        self.proj_2 = PointwiseConv2d(in_channels, in_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, C, h, w)."""
        attended: Tensor = self.proj_2(self.spatial_gating_unit(self.activation(self.proj_1(x))))
        return x + attended
