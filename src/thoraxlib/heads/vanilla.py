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

    The classifier of VanillaNet (Chen et al. 2023, arXiv 2305.12972): a linear layer to the K labels, batch norm, leaky
    ReLU, and a layer from K to K. With `activation_slope` 1 it is one linear map in eval mode, so that per-location
    logits exist and :meth:`fuse` makes it one layer.

    Parameters
    ----------
    in_channels, num_labels, pool, dropout
        See :class:`~thoraxlib.heads.linear.LinearHead`.
    activation_slope : float
        Of the leaky ReLU for negative values; see :class:`thoraxlib.backbones.vanillanet.VanillaNet`.

    Attributes
    ----------
    activation_slope : float
        As given; may be set at any time.

    Raises
    ------
    ValueError
        A pooling that weighs locations for each label ("pcam"): the hidden units are no labels.
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
                f"pool {type(self.pool).__name__} weighs places for each label, and the head 'vanilla' has hidden "
                "units before the labels; use 'avg', 'max' or 'lse'"
            )
        self.activation_slope = activation_slope
        self.norm = nn.BatchNorm1d(num_labels, eps=1e-6)
        self.out = nn.Linear(num_labels, num_labels)

    def forward(self, features: Any) -> Tensor:
        """Logits (N, K)."""
        hidden = self.norm(self.fc(self.dropout(self.vector(features))))
        logits: Tensor = self.out(hidden if self.activation_slope == 1 else F.leaky_relu(hidden, self.activation_slope))
        return logits

    def classifier(self) -> tuple[Tensor, Tensor]:
        """W and b of the one linear layer that the head is in eval mode.

        Raises
        ------
        NotImplementedError
            It is none: `activation_slope` is not 1.
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
        """Make both layers and the norm one layer, in place: the same outputs, for inference.

        The state dict changes with it: load and save before.

        Returns
        -------
        VanillaHead
            Itself.

        Raises
        ------
        ValueError
            In training mode, or with an `activation_slope` other than 1.
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
