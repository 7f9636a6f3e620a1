"""Boxes from a model's input back to the image's own pixels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from thoraxlib.input_spec import InputSpec
from thoraxlib.localization.boxes import Boxes, area


def to_original(boxes: Boxes, spec: InputSpec, sizes: Sequence[tuple[int, int]]) -> Boxes:
    """Boxes in pixels of a model's input, in pixels of the images that it was made of.

    They are cut off at the image's border; what lay wholly in padding is dropped.

    Parameters
    ----------
    boxes : Boxes
        In pixels of the input, ``spec.size``.
    spec : InputSpec
        How the images were resized, cropped and padded.
    sizes : sequence of (int, int)
        (H, W) of each image, by its position in `boxes`.

    Raises
    ------
    ValueError
        A box of an image that `sizes` does not have.

    Examples
    --------
    >>> boxes = Boxes.from_lists([torch.tensor([[0.0, 0.0, 112.0, 224.0]])], [torch.tensor([0])])
    >>> to_original(boxes, InputSpec(size=224), [(1000, 2000)]).xyxy.tolist()
    [[0.0, 0.0, 1000.0, 1000.0]]
    """
    if len(boxes.image) and int(boxes.image.max()) >= len(sizes):
        raise ValueError(f"a box belongs to image {int(boxes.image.max())}, and sizes has {len(sizes)}")
    if not sizes:
        return boxes
    xyxy = in_originals(boxes.xyxy, boxes.image, spec, sizes)
    return boxes._replace(xyxy=xyxy).where(area(xyxy) > 0)


def in_originals(xyxy: Tensor, image: Tensor, spec: InputSpec, sizes: Sequence[tuple[int, int]]) -> Tensor:
    """Boxes (M, 4) of the images (M,), as :func:`to_original` has them; what lay wholly in padding has no area."""
    from thoraxlib.images import placement

    places = [placement(spec, height, width) for height, width in sizes]
    corner = torch.tensor([[place.left, place.top] * 2 for place in places], dtype=torch.float32)
    scale = torch.tensor([[w / place.width, h / place.height] * 2 for place, (h, w) in zip(places, sizes, strict=True)])
    limit = torch.tensor([[w, h] * 2 for h, w in sizes], dtype=torch.float32)
    return torch.minimum(((xyxy + corner[image]) * scale[image]).clamp(min=0), limit[image])
