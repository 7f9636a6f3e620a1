"""Norms as blocks."""

from __future__ import annotations

from torch import nn

from thoraxlib.layers import register


@register("layer_norm")
def layer_norm(in_channels: int, *, eps: float = 1e-5) -> nn.Module:
    """Layer norm over the channels of every place, (N, C, h, w) -> (N, C, h, w): timm's ``LayerNorm2d``.

    Transformers end in one that their feature maps (timm's ``features_only``) leave out.

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
