"""Organs in images of any sizes, and crops to them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from thoraxlib.segmentation.base import Segmenter
from thoraxlib.utils.modes import device_of, eval_view


class OrganCrop(NamedTuple):
    """Result of :func:`crop_to_organs`.

    Attributes
    ----------
    image : Tensor
        (C, h, w): the image's own pixels inside the box.
    box : tuple of int
        x1, y1, x2, y2 in the image's pixels, x2 and y2 exclusive.
    found : bool
        False if the segmenter found no organ: the box is then the whole image.
    """

    image: Tensor
    box: tuple[int, int, int, int]
    found: bool


@torch.inference_mode()
def find_organs(segmenter: Segmenter, images: Sequence[Tensor], organs: Sequence[str]) -> list[Tensor]:
    """Find organs in images of any sizes, in one forward pass: bool (H, W) for each image, at its size.

    Parameters
    ----------
    segmenter : Segmenter
        It gets the images by its ``input_spec``. Its mode does not change.
    images : sequence of Tensor
        (1, H, W): uint8, uint16, or floating point in [0, 1].
    organs : sequence of str
        Classes of the segmenter; the mask has the pixels of any of them.

    Raises
    ------
    ValueError
        An organ that the segmenter does not have.
    """
    from thoraxlib.images import transform_for
    from thoraxlib.localization.frames import in_original

    unknown = [organ for organ in organs if organ not in segmenter.classes[1:]]
    if unknown or not organs:
        raise ValueError(f"organs={list(organs)}: one or more of the segmenter's {list(segmenter.classes[1:])} needed")
    if not images:
        return []
    spec, net = segmenter.input_spec, eval_view(segmenter)
    transform = transform_for(spec)
    x = transform.normalize.batch([transform.place(image) for image in images]).to(device_of(net))
    logits = net(x).float().cpu()
    chosen = torch.tensor([name in organs for name in segmenter.classes])
    lead = logits[:, chosen].amax(dim=1) - logits[:, ~chosen].amax(dim=1)  # above 0 in the organs
    return [
        in_original(each[None], spec, (int(image.shape[-2]), int(image.shape[-1])))[0] > 0  # False for NaN
        for each, image in zip(lead, images, strict=True)
    ]


def crop_to_organs(
    segmenter: Segmenter, image: Tensor, *, margin: float = 0.1, organs: Sequence[str] | None = None
) -> OrganCrop:
    """Cut the bounding box of the organs, with a margin, out of an image (C, H, W) of any size.

    The crop keeps the image's own pixels, for :func:`thoraxlib.preprocess_for`. Use the same crop in training and
    prediction. Add ``box[:2]`` to positions in the crop for positions in the image.

    Parameters
    ----------
    segmenter : Segmenter
        E.g. ``segmentation.build("lungs-small")``.
    image : Tensor
        (1, H, W), as :func:`thoraxlib.images.read` returns it: uint8, uint16, or floating point in [0, 1].
    margin : float
        Margin on each side, as a share of the box's own width and height, 0 or more; it ends at the image's border.
    organs : sequence of str, optional
        Classes of the segmenter; default all but the background.

    Raises
    ------
    ValueError
        A negative margin, an image of another shape, or an unknown organ.

    Warns
    -----
    UserWarning
        No organ was found; the crop is the whole image.

    Examples
    --------
    >>> from thoraxlib.segmentation import build
    >>> image = torch.zeros(1, 90, 120)
    >>> crop_to_organs(build("lungs-small"), image).box
    (0, 0, 120, 90)
    """
    if not 0 <= margin < float("inf"):
        raise ValueError(f"margin={margin}: 0 or more")
    if image.ndim != 3:
        raise ValueError(f"image must be (C, H, W), got {tuple(image.shape)}")
    height, width = int(image.shape[-2]), int(image.shape[-1])
    wanted = segmenter.classes[1:] if organs is None else organs
    (mask,) = find_organs(segmenter, [image], wanted)
    if not bool(mask.any()):
        warnings.warn(f"no {', '.join(wanted)} found: the crop is the whole image", UserWarning, stacklevel=2)
        return OrganCrop(image, (0, 0, width, height), False)
    (top, bottom), (left, right) = (_ends(mask.any(dim=axis), margin) for axis in (1, 0))
    return OrganCrop(image[:, top:bottom, left:right], (left, top, right, bottom), True)


def _ends(there: Tensor, margin: float) -> tuple[int, int]:
    """First and last (exclusive) True of a row, moved apart by the margin, inside the row."""
    at = there.nonzero().flatten()
    first, last = int(at[0]), int(at[-1]) + 1
    more = round(margin * (last - first))
    return max(0, first - more), min(len(there), last + more)
