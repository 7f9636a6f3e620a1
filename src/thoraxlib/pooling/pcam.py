"""PCAM pooling: locations weighted by a label's probability there."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid

from thoraxlib.pooling import register
from thoraxlib.pooling.base import Pool

__all__ = ["PCAMPool"]


@register("pcam")
class PCAMPool(Pool):
    """Probabilistic-CAM pooling (Ye et al. 2020, arXiv 2005.14480): every label has its own weights over locations.

    ``x_k = sum_ij a_k(i, j) x(i, j)`` with ``a_k = p_k / sum_ij p_k``, and ``p_k`` the sigmoid of the label's logit
    map. The weights are not detached. They are a softmax of the log-probabilities: the same, and no 0 / 0 where all
    probabilities underflow.

    The layer that makes the logit maps, applied to ``x_k``, gives the label's logit; as that layer is linear and the
    weights add up to 1, it is also the weighted mean of the logit map itself: ``forward(logit_maps)``.
    """

    per_label = True

    def forward(self, x: Tensor, logits: Tensor | None = None) -> Tensor:
        """Pool `x`.

        Parameters
        ----------
        x : Tensor
            (N, C, h, w).
        logits : Tensor, optional
            (N, K, h, w); None: `x` itself, each channel with its own weights.

        Returns
        -------
        Tensor
            (N, K, C); (N, C) without `logits`.
        """
        weights = self.weights(x if logits is None else logits).flatten(2)
        if logits is None:
            return (weights * x.flatten(2)).sum(dim=2).to(x.dtype)
        return weights.to(x.dtype) @ x.flatten(2).transpose(1, 2)

    @staticmethod
    def weights(logits: Tensor) -> Tensor:
        """The weights of locations, float32 at least, adding up to 1: (N, K, h, w) of logit maps (N, K, h, w)."""
        wide = logits if logits.dtype.itemsize >= 4 else logits.float()
        return logsigmoid(wide).flatten(2).softmax(dim=2).view_as(logits)
