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
    """``forward(x: (N, C, h, w)) -> (N, C)``. Any module that does this is a pooling; the attributes are optional.

    Attributes
    ----------
    expansion : int
        The result is (N, C * expansion).
    per_label : bool
        ``forward(x, logits)``, with logit maps (N, K, h, w), gives each label a vector of its own, (N, K, C);
        ``forward(x)`` takes `x` as its own logit maps, (N, C).
    """

    expansion: int = 1
    per_label: bool = False

    def forward(self, x: Tensor) -> Tensor:
        """Pool `x`, (N, C, h, w)."""
        raise NotImplementedError


def expansion(pool: nn.Module) -> int:
    """How many times as wide as its input a pooling's result is; 1 if it does not say."""
    return int(getattr(pool, "expansion", 1))


def per_label(pool: nn.Module) -> bool:
    """Whether a pooling has a vector for each label."""
    return bool(getattr(pool, "per_label", False))


@register("avg")
class AvgPool(Pool):
    """Mean over all locations, (N, C, h, w) -> (N, C)."""

    def forward(self, x: Tensor) -> Tensor:
        """Pool `x`, (N, C, h, w), to (N, C)."""
        if not torch.is_grad_enabled():
            return x.mean(dim=(2, 3))
        # the same, but its gradient is a view of one value per channel: cheap for heat maps of many labels
        total = x.sum(dim=(2, 3), dtype=torch.promote_types(x.dtype, torch.float32))
        return (total / (x.shape[2] * x.shape[3])).to(x.dtype)


@register("max")
class MaxPool(Pool):
    """Maximum over all locations, (N, C, h, w) -> (N, C)."""

    def forward(self, x: Tensor) -> Tensor:
        """Pool `x`, (N, C, h, w), to (N, C)."""
        return x.amax(dim=(2, 3))


def lse_pool(x: Tensor, r: float = 10.0) -> Tensor:
    r"""Log-sum-exp over all locations: ``log(mean(exp(r x))) / r``, (N, C, h, w) -> (N, C).

    Between the mean (r -> 0) and the maximum (r -> infinity); Wang et al. 2017 (arXiv 1705.02315), equation 2, after
    Pinheiro & Collobert 2015. Shifted by the maximum, not by the largest absolute value of their equation 3, which
    underflows on negative maps. Computed in float32 at least, also under autocast. The gradient is softmax(r x).

    Parameters
    ----------
    x : Tensor
        (N, C, h, w).
    r : float
        Sharpness, > 0 and finite.
    """
    wide = x if x.dtype.itemsize >= 4 else x.float()
    # the maximum cancels out, so it is a constant for the gradient
    peak = wide.amax(dim=(2, 3), keepdim=True).detach()
    pooled = ((wide - peak) * r).exp().mean(dim=(2, 3)).log() / r + peak.flatten(1)
    return pooled.to(x.dtype)


@register("lse")
class LSEPool(Pool):
    """Log-sum-exp pooling with sharpness `r`, (N, C, h, w) -> (N, C); see :func:`lse_pool`.

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
        return lse_pool(x, self.r)

    def extra_repr(self) -> str:
        """What ``repr`` shows."""
        return f"r={self.r:g}"


@register("exp")
class ExpPool(Pool):
    """``sum(x exp(x)) / sum(exp(x))``, (N, C, h, w) -> (N, C): a mean that high places dominate.

    EXP of jfhealthcare/Chexpert, as a softmax, which cannot overflow (without its 1e-7 in the denominator, which is at
    least 1). Computed in float32 at least, also under autocast.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Pool `x`, (N, C, h, w), to (N, C)."""
        flat = x.flatten(2) if x.dtype.itemsize >= 4 else x.flatten(2).float()
        return (flat.softmax(dim=2) * flat).sum(dim=2).to(x.dtype)


@register("linear")
class LinearPool(Pool):
    """``sum(x^2) / (sum(x) + eps)``, (N, C, h, w) -> (N, C): a mean weighted by the values themselves.

    LINEAR of jfhealthcare/Chexpert. For maps that are not negative; the sum of a signed one may come close to 0, and
    the result then grows without bound. Computed in float32 at least, also under autocast.

    Parameters
    ----------
    eps : float
        > 0; an empty map has 0.

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
        wide = x if x.dtype.itemsize >= 4 else x.float()
        return (wide.square().sum(dim=(2, 3)) / (wide.sum(dim=(2, 3)) + self.eps)).to(x.dtype)


@register("avg_max")
class AvgMaxPool(Pool):
    """Mean, then maximum, (N, C, h, w) -> (N, 2 C): AVG_MAX of jfhealthcare/Chexpert."""

    expansion = 2

    def forward(self, x: Tensor) -> Tensor:
        """Pool `x`, (N, C, h, w), to (N, 2 C)."""
        return torch.cat([x.mean(dim=(2, 3)), x.amax(dim=(2, 3))], dim=1)


@register("avg_max_lse")
class AvgMaxLSEPool(Pool):
    """Mean, maximum, then log-sum-exp, (N, C, h, w) -> (N, 3 C): AVG_MAX_LSE of jfhealthcare/Chexpert.

    Parameters
    ----------
    r : float
        Of :class:`thoraxlib.layers.pooling.LSEPool`; that repository's is 0.5.
    """

    expansion = 3

    def __init__(self, r: float = 10.0) -> None:
        super().__init__()
        self.lse = LSEPool(r)

    def forward(self, x: Tensor) -> Tensor:
        """Pool `x`, (N, C, h, w), to (N, 3 C)."""
        return torch.cat([x.mean(dim=(2, 3)), x.amax(dim=(2, 3)), self.lse(x)], dim=1)


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
