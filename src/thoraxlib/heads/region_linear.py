"""A linear layer on the vector of each region."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from thoraxlib import labels as label_sets
from thoraxlib.heads.regions import RegionHead, RegionLogits, register
from thoraxlib.utils.arguments import one_of


@register("region_linear")
class RegionLinearHead(RegionHead):
    """``x W^T + b`` for the vector x of each region: (N, R, D) -> (N, R, K); AnaXNet's baseline without graph.

    Parameters
    ----------
    in_features : int
        D.
    num_labels : int
        K.
    regions : str or sequence of str
        The R regions, of which "per_region" has a layer each.
    classifier : {"shared", "per_region"}
        One layer for all regions, or one for each, as AnaXNet's figure has it.

    Raises
    ------
    ValueError
        Another `classifier`.
    """

    def __init__(
        self,
        in_features: int,
        num_labels: int,
        *,
        regions: str | Sequence[str] = "regions18",
        classifier: str = "shared",
    ) -> None:
        super().__init__()
        one_of("classifier", classifier, ("shared", "per_region"))
        copies = () if classifier == "shared" else (len(label_sets.resolve(regions)),)
        bound = 1 / math.sqrt(in_features)  # as torch's linear layer has it
        self.weight = nn.Parameter(torch.empty(*copies, num_labels, in_features).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(*copies, num_labels).uniform_(-bound, bound))

    def forward_all(self, features: Tensor, present: Tensor | None = None) -> RegionLogits:
        """The logits; there is no attention."""
        if self.weight.ndim == 2:
            return RegionLogits(nn.functional.linear(features, self.weight, self.bias), None)
        return RegionLogits(torch.einsum("nrd,rkd->nrk", features, self.weight) + self.bias, None)
