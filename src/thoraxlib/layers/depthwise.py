"""Depthwise convolution that keeps the size of its map; dilated ones by phases where that is faster."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class DepthwiseConv2d(nn.Conv2d):
    """One kernel for each channel, stride 1, zero padding to the same size: (N, C, h, w) -> (N, C, h, w).

    On a CPU, a dilated kernel runs over each phase of the map by itself (:func:`by_phases`): the same sums, many times
    faster than the dilated convolution of oneDNN. Where gradients may follow, kernels above 3x3 work in the precision
    of their weights there, autocast or not: oneDNN's gradients of these weights are two to eight times slower in
    bfloat16.

    Parameters
    ----------
    channels : int
        C.
    kernel_size : int
        Odd.
    dilation : int
        Distance of the kernel's places.

    Raises
    ------
    ValueError
        An even kernel: no padding keeps the size.
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
    """A dilated depthwise convolution as an ordinary one on ``dilation ** 2`` smaller maps.

    A kernel with dilation d only ever joins places whose coordinates are equal modulo d. Those of one phase, put
    together, form a map of their own, on which the kernel is dense.

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
    # channels last throughout: a place's channels are moved as one piece
    phases = x.permute(0, 2, 3, 1).reshape(n, rows, dilation, columns, dilation, c).permute(0, 2, 4, 1, 3, 5)
    # copied, not reshaped: compilers cannot tell the strides of a map of 1 x 1, and would take a view
    phases = phases.clone(memory_format=torch.contiguous_format)
    dense = phases.view(n * dilation**2, rows, columns, c).permute(0, 3, 1, 2)
    dense = F.conv2d(dense, weight, bias, padding=weight.shape[-1] // 2, groups=c)
    phases = dense.permute(0, 2, 3, 1).reshape(n, dilation, dilation, rows, columns, c).permute(0, 3, 1, 4, 2, 5)
    whole = phases.reshape(n, rows * dilation, columns * dilation, c)
    return whole[:, :height, :width].contiguous().permute(0, 3, 1, 2)
