"""Large-kernel attention: a feature map times a gate, which a large kernel, split into parts, computes from it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from thoraxlib.layers import register
from thoraxlib.layers.pointwise import MapGELU, PointwiseConv2d
from thoraxlib.registry import Spec


class DepthwiseConv2d(nn.Conv2d):
    """Depthwise convolution with stride 1 and zero padding to the same size: (N, C, h, w) -> (N, C, h, w).

    On a CPU, a dilated kernel is applied to each phase of the map separately (:func:`by_phases`). This computes the
    same sums many times faster than oneDNN's dilated convolution. On a CPU with gradients enabled, kernels above 3x3
    run in the precision of their weights even under autocast: oneDNN's gradients of these weights are two to eight
    times slower in bfloat16.

    Parameters
    ----------
    channels : int
        C.
    kernel_size : int
        Odd.
    dilation : int
        Distance between the kernel's elements, in pixels of the map.

    Raises
    ------
    ValueError
        An even kernel, for which no padding keeps the size.
    """

    def __init__(self, channels: int, kernel_size: int, dilation: int = 1) -> None:
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, got {kernel_size}")
        padding = dilation * (kernel_size // 2)
        super().__init__(channels, channels, kernel_size, padding=padding, dilation=dilation, groups=channels)

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, C, h, w)."""
        if input.device.type != "cpu":
            return super().forward(input)
        if self.kernel_size[0] > 3 and torch.is_grad_enabled() and torch.is_autocast_enabled("cpu"):
            with torch.autocast("cpu", enabled=False):
                return self._on_cpu(input.to(self.weight.dtype))
        return self._on_cpu(input)

    def _on_cpu(self, x: Tensor) -> Tensor:
        if self.dilation[0] > 1:
            return by_phases(x, self.weight, self.bias, self.dilation[0])
        return super().forward(x)


def by_phases(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int) -> Tensor:
    """Compute a dilated depthwise convolution as an ordinary one on ``dilation ** 2`` smaller maps.

    A kernel with dilation d connects only locations whose coordinates are equal modulo d. All locations with the same
    remainders form a smaller map (a phase), on which the kernel is dense.

    Parameters
    ----------
    x : Tensor
        (N, C, h, w).
    weight : Tensor
        (C, 1, k, k), k odd.
    bias : Tensor, optional
        (C,).
    dilation : int
        d.
    """
    n, c, height, width = x.shape
    rows, columns = -(-height // dilation), -(-width // dilation)
    x = F.pad(x, (0, columns * dilation - width, 0, rows * dilation - height))
    # channels last throughout: the channels of a location are moved as one block
    phases = x.permute(0, 2, 3, 1).reshape(n, rows, dilation, columns, dilation, c).permute(0, 2, 4, 1, 3, 5)
    # a copy, not a reshape: compilers do not know the strides of a 1 x 1 map, and would make a view
    phases = phases.clone(memory_format=torch.contiguous_format)
    dense = phases.view(n * dilation**2, rows, columns, c).permute(0, 3, 1, 2)
    dense = F.conv2d(dense, weight, bias, padding=weight.shape[-1] // 2, groups=c)
    phases = dense.permute(0, 2, 3, 1).reshape(n, dilation, dilation, rows, columns, c).permute(0, 3, 1, 4, 2, 5)
    whole = phases.reshape(n, rows * dilation, columns * dilation, c)
    return whole[:, :height, :width].contiguous().permute(0, 3, 1, 2)


def split_kernel(kernel_size: int, dilation: int) -> tuple[int, int]:
    """Return the two depthwise kernels that replace a kernel of size K: 2 d - 1, and ceil(K / d) with dilation d.

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

    Guo et al. 2022 (Visual Attention Network, arXiv 2202.09741), equations 2 and 3. The gate has no sigmoid.

    Parameters
    ----------
    in_channels : int
        C.
    kernel_size : int
        Size of the kernel that the two depthwise ones replace; see :func:`split_kernel`.
    dilation : int
        Dilation of the second depthwise kernel.

    Raises
    ------
    ValueError
        A kernel that cannot be split.
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

    Each branch is a depthwise, a dilated depthwise and a 1x1 convolution. A last 1x1 convolution joins the branches.
    QUST-SmartData/CXRClassification, MultiScaleVAN.

    Parameters
    ----------
    in_channels : int
        C.
    kernels : sequence of (int, int)
        Size of the kernel and of the dilated kernel, for each branch.
    dilation : int
        Dilation of the dilated kernels.
    used : sequence of int, optional
        The branch whose output enters the last convolution at each position; default: every branch once. The original
        has (0, 1, 2, 2, 2): the parameters of its last two branches are not used.

    Raises
    ------
    ValueError
        `used` does not name a branch for each position.
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
        outputs = {branch: self.branches[branch](x) for branch in sorted(set(self.used))}
        gate: Tensor = self.conv(torch.cat([outputs[branch] for branch in self.used], dim=1))
        return x * gate


@register("lka_dilated")
class DilatedLKA(nn.Module):
    """Large-kernel attention with a gate from a sum of dilated 3x3 kernels: (N, C, h, w) -> (N, C, h, w).

    The gate is the sum of a 1x1 depthwise convolution and of one 3x3 depthwise convolution for each dilation, followed
    by a 1x1 convolution. QUST-SmartData/CXRClassification, DilationVAN.

    Parameters
    ----------
    in_channels : int
        C.
    dilations : sequence of int
        Dilations of the 3x3 kernels.
    """

    def __init__(self, in_channels: int, *, dilations: Sequence[int] = (1, 3, 5, 7, 9)) -> None:
        super().__init__()
        self.out_channels = in_channels
        kernels = [DepthwiseConv2d(in_channels, 1), *(DepthwiseConv2d(in_channels, 3, d) for d in dilations)]
        self.kernels = nn.ModuleList(kernels)
        self.conv1x1 = PointwiseConv2d(in_channels, in_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, C, h, w)."""
        gate: Tensor = self.conv1x1(sum(kernel(x) for kernel in self.kernels))
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
        "lka", "lka_multiscale", "lka_dilated" or another layer of :mod:`thoraxlib.layers`.
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
