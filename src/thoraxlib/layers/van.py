"""Blocks and stages of the Visual Attention Network."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from thoraxlib.layers import register
from thoraxlib.layers.lka import DepthwiseConv2d, LKAAttention
from thoraxlib.layers.pointwise import MapGELU, PointwiseConv2d
from thoraxlib.registry import Spec

_CACHE = 4 * 2**20  # bytes; three maps of this size fit into a CPU core's caches


class ConvMLP(nn.Module):
    """``conv1x1(gelu(depthwise 3x3(conv1x1(x))))``, (N, C, h, w) -> (N, C, h, w).

    Parameters
    ----------
    channels, hidden : int
        C, and the channels after the first convolution.
    dropout : float
        Rate after the activation and at the end, in training.
    """

    def __init__(self, channels: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.fc1 = PointwiseConv2d(channels, hidden)
        # published checkpoints have the extra level in their names
        self.dwconv = nn.Sequential(OrderedDict(dwconv=DepthwiseConv2d(hidden, 3)))
        self.act = MapGELU()
        self.fc2 = PointwiseConv2d(hidden, channels)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, C, h, w)."""
        out: Tensor = self.drop(self.fc2(self.drop(self.act(self.dwconv(self.fc1(x))))))
        return out


@register("van_block")
class VANBlock(nn.Module):
    """``x + s1 attention(norm(x))``, then ``x + s2 mlp(norm(x))``, (N, C, h, w) -> (N, C, h, w).

    Guo et al. 2022 (arXiv 2202.09741), figure 3, with batch norms, layer scales s1 and s2 that start at 0.01, and
    stochastic depth.

    Parameters
    ----------
    in_channels : int
        C.
    mlp_ratio : float
        Hidden channels of the MLP, divided by C.
    gate : str, mapping or module
        See :class:`thoraxlib.layers.lka.LKAAttention`.
    dropout : float
        Rate in the MLP, in training.
    drop_path : float
        Fraction of the samples that skip a branch, in training.
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

    def fuse(self) -> nn.Module:
        """Return the block for inference: norms and layer scales are folded into this block's convolutions, in place.

        Raises
        ------
        ValueError
            The block is in training mode.
        """
        if self.training:
            raise ValueError("fuse needs a block in eval mode")
        return _FusedVANBlock(self)


class _FusedVANBlock(nn.Module):
    """``kept x + attended(x)``, then ``x + mlp(x)``: (N, C, h, w) -> (N, C, h, w).

    The attention's own shortcut starts after the norm n(x) = a x + b. With the layer scale s,
    ``x + s (n(x) + proj_2(...)) = (1 + s a) x + (s proj_2(...) + s b)``.
    """

    kept: Tensor

    @torch.no_grad()
    def __init__(self, block: VANBlock) -> None:
        super().__init__()
        (scale, shift), first = _affine(block.norm1), block.layer_scale_1
        self.register_buffer("kept", (1 + first * scale)[:, None, None])
        attention, self.mlp = block.attn, block.mlp
        _fold_before(attention.proj_1, scale, shift)
        _fold_after(attention.proj_2, first, first * shift)
        self.attended = nn.Sequential(
            attention.proj_1, attention.activation, attention.spatial_gating_unit, attention.proj_2
        )
        _fold_before(self.mlp.fc1, *_affine(block.norm2))
        _fold_after(self.mlp.fc2, block.layer_scale_2, torch.zeros_like(shift))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, C, h, w)."""
        x = torch.addcmul(self.attended(x), x, self.kept)
        if torch.compiler.is_compiling() or x.device.type != "cpu":
            out: Tensor = x + self.mlp(x)
            return out
        # few enough images at a time for the MLP's hidden map to stay in the cache
        hidden = self.mlp.fc1.out_channels * x.shape[2] * x.shape[3] * x.element_size()
        return torch.cat([part + self.mlp(part) for part in torch.split(x, max(_CACHE // hidden, 1))])


def _affine(norm: Any) -> tuple[Tensor, Tensor]:
    """Return a and b of ``a x + b``, which a batch norm computes in eval mode."""
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    return scale, norm.bias - norm.running_mean * scale


def _fold_before(conv: nn.Conv2d, scale: Tensor, shift: Tensor) -> None:
    """Change a 1x1 convolution to compute ``conv(scale x + shift)``."""
    assert conv.bias is not None
    conv.bias = nn.Parameter(conv.bias + conv.weight[:, :, 0, 0] @ shift)
    conv.weight = nn.Parameter(conv.weight * scale[:, None, None])


def _fold_after(conv: nn.Conv2d, scale: Tensor, shift: Tensor) -> None:
    """Change a convolution to compute ``scale conv(x) + shift``."""
    assert conv.bias is not None
    conv.bias = nn.Parameter(conv.bias * scale + shift)
    conv.weight = nn.Parameter(conv.weight * scale[:, None, None, None])


@register("van_stage")
class VANStage(nn.Sequential):
    """Embedding, blocks, layer norm, (N, C, h, w) -> (N, D, h / stride, w / stride), rounded up.

    A stage of the Visual Attention Network (Guo et al. 2022, arXiv 2202.09741, figure 3): a convolution and a batch
    norm, `depth` blocks, and a layer norm over the channels. The defaults are those of DenseAndVAN
    (QUST-SmartData/CXRClassification), which has one stage after a DenseNet. Weights of convolutions start at
    N(0, 2 / fan out).

    Parameters
    ----------
    in_channels : int
        C.
    out_channels : int, optional
        D; default C.
    depth : int
        Number of blocks.
    kernel_size, stride : int
        Kernel (odd) and stride of the first convolution.
    mlp_ratio, gate, dropout
        Options of the blocks; see :class:`VANBlock`.
    drop_path : float or sequence of float
        Fraction of the samples that skip a block's branch, in training: one rate for all blocks, or one for each.
    eps : float
        Added to the variance in the layer norm.

    Raises
    ------
    ValueError
        A `depth` below 1, an even kernel, or a number of rates that differs from `depth`.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        out_channels: int | None = None,
        depth: int = 5,
        kernel_size: int = 3,
        stride: int = 2,
        mlp_ratio: float = 4.0,
        gate: Spec | nn.Module = "lka",
        dropout: float = 0.0,
        drop_path: float | Sequence[float] = 0.0,
        eps: float = 1e-5,
    ) -> None:
        from timm.layers import LayerNorm2d

        rates = [drop_path] * depth if isinstance(drop_path, (int, float)) else list(drop_path)
        if depth < 1 or len(rates) != depth:
            raise ValueError(f"depth must be at least 1 and drop_path one rate or {depth}, got {depth} and {drop_path}")
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, got {kernel_size}")
        width = out_channels or in_channels
        embed = nn.Conv2d(in_channels, width, kernel_size, stride, kernel_size // 2)
        blocks = (VANBlock(width, mlp_ratio=mlp_ratio, gate=gate, dropout=dropout, drop_path=rate) for rate in rates)
        super().__init__(
            OrderedDict(
                patch_embed=nn.Sequential(OrderedDict(proj=embed, norm=nn.BatchNorm2d(width))),
                block=nn.Sequential(*blocks),
                norm=LayerNorm2d(width, eps=eps),
            )
        )
        self.out_channels = width
        self.apply(initialise)


def initialise(module: nn.Module) -> None:
    """Initialise a convolution as the published network does: weights N(0, 2 / fan out), bias 0."""
    if isinstance(module, nn.Conv2d):
        fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
