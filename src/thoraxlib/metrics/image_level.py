"""From findings in regions to findings in images."""

from __future__ import annotations

import torch
from torch import Tensor

from thoraxlib.utils.arguments import one_of

_RULES = ("max", "mean", "noisy_or")


def image_level(values: Tensor, rule: str = "max") -> Tensor:
    """Labels or probabilities (..., K) of images from those of their regions, NaN where nothing is known.

    Parameters
    ----------
    values : Tensor
        (..., R, K): NaN where a region is absent or its label unknown; for "max" of any scale, else from 0 to 1.
    rule : {"max", "mean", "noisy_or"}
        Over the regions that are known. "noisy_or" is 1 less the product of (1 - p).

    Raises
    ------
    ValueError
        Another rule.

    Examples
    --------
    >>> nan = float("nan")
    >>> image_level(torch.tensor([[[0.0, nan, 0.0], [1.0, nan, nan]]]))
    tensor([[1., nan, 0.]])
    """
    one_of("rule", rule, _RULES)
    known = ~values.isnan()
    if rule == "max":
        result = torch.where(known, values, -torch.inf).amax(dim=-2)
    elif rule == "mean":
        result = torch.where(known, values, 0.0).sum(dim=-2) / known.sum(dim=-2).clamp(min=1)
    else:
        result = 1 - torch.where(known, 1 - values, 1.0).prod(dim=-2)
    return torch.where(known.any(dim=-2), result, torch.nan)
