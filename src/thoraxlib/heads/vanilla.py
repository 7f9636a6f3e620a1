"""The two-layer classifier of VanillaNet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from thoraxlib.heads import register
from thoraxlib.heads.linear import LinearHead
from thoraxlib.layers.pooling import per_label
from thoraxlib.registry import Spec


@register("vanilla")
class VanillaHead(LinearHead):
    """``V leaky(norm(W pool(features) + b)) + c``: (N, C, h, w) -> (N, K).

    The classifier of VanillaNet (Chen et al. 2023, arXiv 2305.12972): a linear layer with K outputs, batch norm, leaky
    ReLU, and a linear layer from K to K. With `activation_slope` 1, it is one linear map in eval mode: it has
    per-location logits, and :meth:`fuse` replaces it by one layer.

    Parameters
    ----------
    in_channels, num_labels, pool, dropout
        See :class:`~thoraxlib.heads.linear.LinearHead`.
    activation_slope : float
        Slope of the leaky ReLU for negative values; see :class:`thoraxlib.backbones.vanillanet.VanillaNet`.

    Attributes
    ----------
    activation_slope : float
        May be set at any time.

    Raises
    ------
    ValueError
        A pooling with separate weights for each label ("pcam"), as the hidden units are no labels.
    """

    norm: Any
    out: Any

    def __init__(
        self,
        in_channels: int | Sequence[int],
        num_labels: int,
        *,
        pool: Spec | nn.Module = "avg",
        dropout: float = 0.0,
        activation_slope: float = 1.0,
    ) -> None:
        super().__init__(in_channels, num_labels, pool=pool, dropout=dropout)
        if per_label(self.pool):
            raise ValueError(
                f"pool {type(self.pool).__name__} weighs locations for each label, and the head 'vanilla' has hidden "
                "units before the labels; use 'avg', 'max' or 'lse'"
            )
        self.activation_slope = activation_slope
        self.norm = nn.BatchNorm1d(num_labels, eps=1e-6)
        self.out = nn.Linear(num_labels, num_labels)

    def forward(self, features: Any) -> Tensor:
        """Compute the logits (N, K)."""
        hidden = self.norm(self.fc(self.dropout(self.vector(features))))
        logits: Tensor = self.out(hidden if self.activation_slope == 1 else F.leaky_relu(hidden, self.activation_slope))
        return logits

    def classifier(self) -> tuple[Tensor, Tensor]:
        """Return W and b of the single linear layer that equals the head in eval mode.

        Raises
        ------
        NotImplementedError
            The head is not linear, as `activation_slope` is not 1.
        """
        if self.activation_slope != 1:
            raise NotImplementedError(
                f"VanillaHead with activation_slope={self.activation_slope} is not linear: it has no per-location "
                "logits; use a gradient-based CAM"
            )
        if isinstance(self.norm, nn.Identity):
            return self.fc.weight, self.fc.bias
        scale = self.norm.weight * (self.norm.running_var + self.norm.eps).rsqrt()
        shift = self.norm.bias + (self.fc.bias - self.norm.running_mean) * scale
        return (self.out.weight * scale) @ self.fc.weight, self.out(shift)

    @torch.no_grad()
    def fuse(self) -> VanillaHead:
        """Merge both layers and the norm into one layer, in place: same outputs, for inference.

        This changes the state dict: load and save before.

        Returns
        -------
        VanillaHead
            This head.

        Raises
        ------
        ValueError
            The head is in training mode, or its `activation_slope` is not 1.
        """
        if self.training or self.activation_slope != 1:
            raise ValueError(
                "fuse needs a head in eval mode with activation_slope 1; got "
                f"training={self.training}, activation_slope={self.activation_slope}"
            )
        weight, bias = self.classifier()
        self.fc.weight, self.fc.bias = nn.Parameter(weight), nn.Parameter(bias)
        self.norm = self.out = nn.Identity()
        return self
