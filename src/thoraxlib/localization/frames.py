"""Move maps from the frame of a model's input to that of the original image."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from thoraxlib.images import placement
from thoraxlib.input_spec import InputSpec
from thoraxlib.localization.maps import upsample


def in_original(maps: Tensor, spec: InputSpec, size: tuple[int, int]) -> Tensor:
    """Resize maps (M, h, w) of the input to the original image, (M, H, W); NaN outside the input."""
    placed = placement(spec, *size)
    inside = upsample(maps[:, None], spec.size)
    (rows, columns), (y, x) = placed.shared(spec.size)
    values = inside.amin(dim=(2, 3), keepdim=True).repeat(1, 1, placed.height, placed.width)
    values[..., rows, columns] = inside[..., y, x]
    unknown = torch.ones(1, 1, placed.height, placed.width)
    unknown[..., rows, columns] = 0
    unknown = F.interpolate(unknown, size=size, mode="nearest-exact")
    return upsample(values, size).masked_fill_(unknown > 0, torch.nan)[:, 0]
