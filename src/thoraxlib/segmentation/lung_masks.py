"""Masks of the lungs in images of any size: the share of heat inside them, and crops around them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from thoraxlib import segmentation
from thoraxlib.registry import Spec
from thoraxlib.segmentation.base import Segmenter
from thoraxlib.utils.modes import eval_view


class LungMasks:
    """Masks of both lungs, at the size of the images.

    Parameters
    ----------
    segmenter : str, mapping or Segmenter
        From :mod:`thoraxlib.segmentation`, with classes whose names contain "lung".
    device : torch.device
        Where the segmenter computes.

    Raises
    ------
    TypeError
        `segmenter` is none of these.
    ValueError
        It has no class of the lungs.
    """

    def __init__(self, segmenter: Spec | Segmenter, device: torch.device | str = "cpu") -> None:
        from thoraxlib.images import transform_for  # torchvision, which names of segmenters need not

        network = segmentation.registry.resolve(segmenter)
        if not isinstance(network, Segmenter):
            kind = type(network).__name__
            raise TypeError(f"segmenter must be a name, a mapping with 'name', or a Segmenter, got {kind}")
        self.classes = [k for k, name in enumerate(network.classes) if "lung" in name.lower()]
        if not self.classes:
            raise ValueError(f"segmenter: none of its classes is a lung: {network.classes}")
        self.device, self.spec = torch.device(device), network.input_spec
        self.network = eval_view(network, self.device)
        self.transform = transform_for(self.spec)

    @torch.inference_mode()
    def __call__(self, images: Sequence[Tensor]) -> list[Tensor]:
        """Return the mask, bool (H, W), of each image (1, H, W)."""
        from thoraxlib.localization.frames import in_original

        x = self.transform.normalize.batch([self.transform.place(image) for image in images]).to(self.device)
        chosen = self.network(x).argmax(dim=1).cpu()
        masks = torch.isin(chosen, torch.tensor(self.classes)).float()
        sizes = [(int(image.shape[-2]), int(image.shape[-1])) for image in images]
        return [in_original(mask[None], self.spec, size)[0] >= 0.5 for mask, size in zip(masks, sizes, strict=True)]


def share_inside(heat: Tensor, mask: Tensor) -> float | None:
    """Compute the share of a heat map's sum that lies in a mask, 0 to 1; None if there is no heat or no mask.

    Heat is the part of the map above zero and above the map's minimum, so that a constant adds nothing. Pixels outside
    the model's input (NaN) do not count. Uniform heat has the mask's share of the image.

    Parameters
    ----------
    heat : Tensor
        float (H, W).
    mask : Tensor
        bool (H, W).

    Examples
    --------
    >>> heat = torch.tensor([[0.0, 3.0], [1.0, -5.0]])
    >>> share_inside(heat, torch.tensor([[False, True], [False, True]]))
    0.75
    """
    known = heat.isfinite()
    if not known.any() or not mask.any():
        return None
    floor = heat[known].min().clamp(min=0)
    values = torch.where(known, heat - floor, 0).clamp(min=0).double()
    total = float(values.sum())
    return float(values[mask].sum()) / total if total > 0 else None


def crop_to_lungs(
    images: Sequence[Tensor], segmenter: Spec | Segmenter | LungMasks = "lungs-small", *, margin: float = 0.05
) -> list[tuple[Tensor, tuple[int, int, int, int]]]:
    """Crop images around both lungs.

    Parameters
    ----------
    images : sequence of Tensor
        (1, H, W), uint8 or float in [0, 1], as :func:`thoraxlib.images.read` returns them, of any sizes.
    segmenter : str, mapping, Segmenter or LungMasks
        As for :class:`LungMasks`.
    margin : float
        Added on each side, as a share of the box's longer side; 0 or more. The box ends at the image.

    Returns
    -------
    list of (Tensor, (int, int, int, int))
        The crop (1, h, w), a view of the image, and its edges x1, y1, x2, y2 in the image's pixels.

    Raises
    ------
    ValueError
        `margin` below 0.

    Warns
    -----
    UserWarning
        No lungs were found in some images: these stay whole.

    Examples
    --------
    >>> from thoraxlib import datasets
    >>> image = datasets.build("synthetic", num_images=1, size=128)[0]["image"]
    >>> crop, (x1, y1, x2, y2) = crop_to_lungs([image])[0]
    >>> crop.shape == (1, y2 - y1, x2 - x1)
    True
    """
    if not margin >= 0:
        raise ValueError(f"margin={margin}: 0 or more")
    find = segmenter if isinstance(segmenter, LungMasks) else LungMasks(segmenter)
    crops, without = [], []
    for position, (image, mask) in enumerate(zip(images, find(images), strict=True)):
        height, width = mask.shape
        rows, columns = mask.any(dim=1).nonzero().flatten(), mask.any(dim=0).nonzero().flatten()
        x1, y1, x2, y2 = 0, 0, width, height
        if len(rows):
            x1, y1, x2, y2 = int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
            more = round(margin * max(x2 - x1, y2 - y1))
            x1, y1, x2, y2 = max(x1 - more, 0), max(y1 - more, 0), min(x2 + more, width), min(y2 + more, height)
        else:
            without.append(position)
        crops.append((image[..., y1:y2, x1:x2], (x1, y1, x2, y2)))
    if without:
        warnings.warn(
            f"no lungs found in {len(without)} of {len(crops)} images, positions {without[:10]}", stacklevel=2
        )
    return crops
