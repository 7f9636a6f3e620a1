"""Lungs of explained images, and the share of each heat map that lies inside them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from thoraxlib import segmentation
from thoraxlib.registry import Spec
from thoraxlib.segmentation import Segmenter, find_organs
from thoraxlib.utils.modes import eval_view


def segmenter_for(spec: Spec | nn.Module | None, device: torch.device) -> Segmenter | None:
    """Build the segmenter of :func:`thoraxlib.explain` from a name, a mapping or a module, in eval mode on a device.

    Raises
    ------
    TypeError
        No segmenter.
    ValueError
        A segmenter without the class "lungs".
    """
    if spec is None:
        return None
    net: object = segmentation.registry.resolve(spec)  # type: ignore[arg-type]
    if not isinstance(net, Segmenter):
        raise TypeError(f"segmenter must be a name, a mapping with 'name', or a Segmenter, got {type(net).__name__}")
    if "lungs" not in net.classes:
        raise ValueError(f"segmenter must have the class 'lungs'; it has {list(net.classes)}")
    return eval_view(net, device)


def find_lungs(segmenter: Segmenter, images: Sequence[Tensor], names: Sequence[str]) -> list[Tensor]:
    """Find the lungs of images of any sizes in one forward pass: bool (H, W) for each, at its size.

    Warns
    -----
    UserWarning
        No lungs were found in an image.
    """
    masks = find_organs(segmenter, images, ["lungs"])
    empty = [name for name, mask in zip(names, masks, strict=True) if not bool(mask.any())]
    if empty:
        warnings.warn(
            f"no lungs found in {', '.join(empty)}: in_lungs is None; is it an upright frontal chest radiograph?",
            UserWarning,
            stacklevel=3,
        )
    return masks


def share_inside(heat: Tensor, mask: Tensor) -> float | None:
    """Compute the share of a heat map's sum that lies inside a mask: from 0 to 1, or None where it is not defined.

    The map's lowest value is subtracted first, so that the share does not depend on an added constant. Pixels with NaN,
    which the model has not seen, are left out of the sums. The share is None for an empty mask, and for a map that is
    constant, or nowhere finite. The share of a map that is even across the image is near the lungs' share of its area.

    Parameters
    ----------
    heat : Tensor
        (H, W), a finding's map; NaN outside the model's input.
    mask : Tensor
        bool (H, W).

    Examples
    --------
    >>> heat = torch.tensor([[1.0, 3.0], [2.0, torch.nan]])
    >>> share_inside(heat, torch.tensor([[False, True], [False, True]]))    # 2 of 2 + 1
    0.6666666666666666
    >>> share_inside(torch.ones(2, 2), torch.ones(2, 2, dtype=torch.bool)) is None
    True
    """
    seen = heat.isfinite()
    if not bool(seen.any()) or not bool(mask.any()):
        return None
    above = torch.where(seen, heat.double() - heat[seen].min().double(), 0.0)
    total = float(above.sum())
    return float(above[mask].sum()) / total if total > 0 else None
