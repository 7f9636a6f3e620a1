"""Pooling: feature map -> vector, (N, C, h, w) -> (N, C)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from thoraxlib.registry import Registry

registry: Registry[nn.Module] = Registry("layers.pooling")
build, register, names, describe = registry.build, registry.register, registry.names, registry.describe


class Pool(nn.Module):
    """Base class of poolings, ``forward(x: (N, C, h, w)) -> (N, C)``.

    Any module with this ``forward`` can be used as a pooling; the attributes are optional.

    Attributes
    ----------
    expansion : int
        The result is (N, C * expansion).
    per_label : bool
        If True, ``forward(x, logits)`` with logit maps (N, K, h, w) returns one vector for each label, (N, K, C), and
        ``forward(x)`` uses `x` as the logit maps and returns (N, C).
    """

    expansion: int = 1
    per_label: bool = False

    def forward(self, x: Tensor) -> Tensor:
        """Pool `x`, (N, C, h, w)."""
        raise NotImplementedError


def expansion(pool: nn.Module) -> int:
    """Return a pooling's `expansion`; 1 for a module without the attribute."""
    return int(getattr(pool, "expansion", 1))


def per_label(pool: nn.Module) -> bool:
    """Return True if a pooling computes one vector for each label."""
    return bool(getattr(pool, "per_label", False))


@register("avg")
class AvgPool(Pool):
    """Mean over all locations, (N, C, h, w) -> (N, C)."""

    def forward(self, x: Tensor) -> Tensor:
        """Pool `x`, (N, C, h, w), to (N, C)."""
        if not torch.is_grad_enabled():
            return x.mean(dim=(2, 3))
        # same value, but its gradient is a view of one number per channel: cheap for heat maps of many labels
        total = x.sum(dim=(2, 3), dtype=torch.promote_types(x.dtype, torch.float32))
        return (total / (x.shape[2] * x.shape[3])).to(x.dtype)


@register("max")
class MaxPool(Pool):
    """Maximum over all locations, (N, C, h, w) -> (N, C)."""

    def forward(self, x: Tensor) -> Tensor:
        """Pool `x`, (N, C, h, w), to (N, C)."""
        return x.amax(dim=(2, 3))


@register("lse")
class LSEPool(Pool):
    r"""Log-sum-exp pooling: ``log(mean(exp(r x))) / r``, (N, C, h, w) -> (N, C).

    Between the mean (r -> 0) and the maximum (r -> infinity); Wang et al. 2017 (arXiv 1705.02315), equation 2, after
    Pinheiro & Collobert 2015. The map is shifted by its maximum. The paper's equation 3 shifts by the largest absolute
    value, which underflows on negative maps. Computed in at least float32, also under autocast. The gradient is
    softmax(r x).

    Parameters
    ----------
    r : float
        Sharpness, positive and finite.

    Raises
    ------
    ValueError
        `r` is not positive and finite.
    """

    def __init__(self, r: float = 10.0) -> None:
        super().__init__()
        if not (r > 0 and math.isfinite(r)):
            raise ValueError(
                f"r must be positive and finite (use pooling 'avg' for r -> 0, 'max' for infinity), got {r!r}"
            )
        self.r = float(r)

    def forward(self, x: Tensor) -> Tensor:
        """Pool `x`, (N, C, h, w), to (N, C)."""
        wide = _wide(x)
        # the maximum cancels out, so it is a constant for the gradient
        peak = wide.amax(dim=(2, 3), keepdim=True).detach()
        pooled = ((wide - peak) * self.r).exp().mean(dim=(2, 3)).log() / self.r + peak.flatten(1)
        return pooled.to(x.dtype)

    def extra_repr(self) -> str:
        """Show `r` in ``repr``."""
        return f"r={self.r:g}"


@register("exp")
class ExpPool(Pool):
    """Mean weighted by exp(x), ``sum(x exp(x)) / sum(exp(x))``: (N, C, h, w) -> (N, C).

    EXP of jfhealthcare/Chexpert, written as a softmax, which cannot overflow. The original adds 1e-7 to the
    denominator, which is at least 1 here. Computed in at least float32, also under autocast.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Pool `x`, (N, C, h, w), to (N, C)."""
        flat = _wide(x).flatten(2)
        return (flat.softmax(dim=2) * flat).sum(dim=2).to(x.dtype)


@register("linear")
class LinearPool(Pool):
    """Mean weighted by the values, ``sum(x^2) / (sum(x) + eps)``: (N, C, h, w) -> (N, C).

    LINEAR of jfhealthcare/Chexpert, for maps without negative values. Other maps may have a sum close to 0, and the
    result then grows without bound. Computed in at least float32, also under autocast.

    Parameters
    ----------
    eps : float
        Positive; a map of zeros is pooled to 0.

    Raises
    ------
    ValueError
        `eps` is not positive.
    """

    def __init__(self, eps: float = 1e-7) -> None:
        super().__init__()
        if not eps > 0:
            raise ValueError(f"eps must be positive, got {eps!r}")
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Pool `x`, (N, C, h, w), to (N, C)."""
        wide = _wide(x)
        return (wide.square().sum(dim=(2, 3)) / (wide.sum(dim=(2, 3)) + self.eps)).to(x.dtype)


@register("avg_max")
class AvgMaxPool(Pool):
    """Mean, then maximum, (N, C, h, w) -> (N, 2 C): AVG_MAX of jfhealthcare/Chexpert."""

    expansion = 2

    def forward(self, x: Tensor) -> Tensor:
        """Pool `x`, (N, C, h, w), to (N, 2 C)."""
        return torch.cat([x.mean(dim=(2, 3)), x.amax(dim=(2, 3))], dim=1)


@register("avg_max_lse")
class AvgMaxLSEPool(AvgMaxPool):
    """Mean, maximum, then log-sum-exp, (N, C, h, w) -> (N, 3 C): AVG_MAX_LSE of jfhealthcare/Chexpert.

    Parameters
    ----------
    r : float
        Sharpness of the :class:`LSEPool`; that repository has 0.5.
    """

    expansion = 3

    def __init__(self, r: float = 10.0) -> None:
        super().__init__()
        self.lse = LSEPool(r)

    def forward(self, x: Tensor) -> Tensor:
        """Pool `x`, (N, C, h, w), to (N, 3 C)."""
        return torch.cat([super().forward(x), self.lse(x)], dim=1)


@register("pcam")
class PCAMPool(Pool):
    """Probabilistic-CAM pooling (Ye et al. 2020, arXiv 2005.14480): separate weights for each label.

    ``x_k = sum_ij a_k(i, j) x(i, j)`` with ``a_k = p_k / sum_ij p_k``, where ``p_k`` is the sigmoid of the label's
    logit map. The weights are not detached. They are computed as a softmax of the log-probabilities: equal, but never
    0 / 0 if all probabilities underflow.

    A label's logit is the output for ``x_k`` of the layer that computes the logit maps. That layer is linear and the
    weights add up to 1, so the logit is also the weighted mean of the logit map itself: ``forward(logit_maps)``.
    """

    per_label = True

    def forward(self, x: Tensor, logits: Tensor | None = None) -> Tensor:
        """Pool `x`.

        Parameters
        ----------
        x : Tensor
            (N, C, h, w).
        logits : Tensor, optional
            (N, K, h, w); default `x` itself, with separate weights for each channel.

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
        """Compute the weights of locations (N, K, h, w), which add up to 1, from logit maps (N, K, h, w)."""
        return logsigmoid(_wide(logits)).flatten(2).softmax(dim=2).view_as(logits)


def _wide(x: Tensor) -> Tensor:
    """Convert 16-bit values to float32."""
    return x if x.dtype.itemsize >= 4 else x.float()
