"""A 1x1 convolution, then pooling: logits for every location first."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from thoraxlib.heads import register
from thoraxlib.heads.base import Head, one_map
from thoraxlib.layers import pooling
from thoraxlib.layers.pooling import expansion
from thoraxlib.registry import Spec


@register("map")
class MapHead(Head):
    """``pool(W features + b)``: a logit map for every label, pooled to one logit, (N, C, h, w) -> (N, K).

    Parameters
    ----------
    in_channels : int
        C.
    num_labels : int
        K.
    pool : str, mapping or nn.Module
        From :mod:`thoraxlib.layers.pooling`, or any module (N, K, h, w) -> (N, K). With "pcam" the head is that of
        PCAM.
    dropout : float
        On whole channels of the features, in training.

    Raises
    ------
    ValueError
        Several maps, of a fusion; a pooling that gives more than one number for each map ("avg_max").
    """

    def __init__(
        self, in_channels: int, num_labels: int, *, pool: Spec | nn.Module = "lse", dropout: float = 0.0
    ) -> None:
        super().__init__()
        one_map("map", in_channels)
        self.dropout = nn.Dropout2d(dropout)
        self.conv = nn.Conv2d(in_channels, num_labels, 1)
        self.pool = pooling.registry.resolve(pool)
        if expansion(self.pool) != 1:
            raise ValueError(
                f"pool {type(self.pool).__name__} gives {expansion(self.pool)} numbers for each map, and the head "
                "'map' needs one logit; use the head 'linear'"
            )

    def forward(self, features: Tensor) -> Tensor:
        """Logits (N, K)."""
        logits: Tensor = self.pool(self.logit_maps(self.dropout(features)))
        return logits

    def logit_maps(self, features: Tensor, *, bias: bool = True) -> Tensor:
        """Per-location logits (N, K, h, w)."""
        return F.conv2d(features, self.conv.weight, self.conv.bias if bias else None)
