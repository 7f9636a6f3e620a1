"""Pooling, then a linear layer."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from thoraxlib import pooling
from thoraxlib.heads import register
from thoraxlib.heads.base import Head
from thoraxlib.pooling.base import expansion, per_label
from thoraxlib.registry import Spec

__all__ = ["LinearHead"]


@register("linear")
class LinearHead(Head):
    """``W pool(features) + b``: (N, C, h, w) -> (N, K).

    With a pooling that weighs locations for each label ("pcam"), row k of W sees the vector of label k.

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
        self.fc = nn.Linear(in_channels * expansion(self.pool), num_labels)

    def forward(self, features: Tensor) -> Tensor:
        """Logits (N, K)."""
        if per_label(self.pool):
            maps = self.logit_maps(features)
            if self.training and self.dropout.p > 0:
                return self.classify(self.pool(features, maps))
            logits: Tensor = self.pool(maps)  # the same, without vectors
            return logits
        logits = self.fc(self.dropout(self.pool(features)))
        return logits

    def classify(self, vectors: Tensor) -> Tensor:
        """Logits (N, K) of a vector for each label, (N, K, C)."""
        logits: Tensor = (self.dropout(vectors) * self.fc.weight).sum(dim=2) + self.fc.bias
        return logits

    def logit_maps(self, features: Tensor, *, bias: bool = True) -> Tensor:
        """``W features + b`` at every location, (N, K, h, w); with average pooling its mean is the logit.

        Raises
        ------
        NotImplementedError
            The pooling widens its vector ("avg_max"): no location has one that W fits.
        """
        if expansion(self.pool) != 1:
            raise NotImplementedError(
                f"{type(self).__name__} with {type(self.pool).__name__} has no per-location logits: its vector is "
                f"{expansion(self.pool)} times as wide as the map; use a gradient-based CAM"
            )
        return F.conv2d(features, self.fc.weight[:, :, None, None], self.fc.bias if bias else None)
