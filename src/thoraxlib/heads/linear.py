"""Pooling, then a linear layer."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from thoraxlib import pooling
from thoraxlib.heads import register
from thoraxlib.heads.base import Head
from thoraxlib.registry import Spec

__all__ = ["LinearHead"]


@register("linear")
class LinearHead(Head):
    """``W pool(features) + b``: (N, C, h, w) -> (N, K).

    Parameters
    ----------
    in_channels : int
        C.
    num_labels : int
        K.
    pool : str, mapping or nn.Module
        From :mod:`thoraxlib.pooling`, or any module (N, C, h, w) -> (N, C).
    dropout : float
        Before the linear layer, in training.
    """

    def __init__(
        self, in_channels: int, num_labels: int, *, pool: Spec | nn.Module = "avg", dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.pool = pooling.registry.resolve(pool)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(in_channels, num_labels)

    def forward(self, features: Tensor) -> Tensor:
        """Logits (N, K)."""
        logits: Tensor = self.fc(self.dropout(self.pool(features)))
        return logits

    def logit_maps(self, features: Tensor, *, bias: bool = True) -> Tensor:
        """``W features + b`` at every location, (N, K, h, w); with average pooling its mean is the logit."""
        return F.conv2d(features, self.fc.weight[:, :, None, None], self.fc.bias if bias else None)
