"""From the organ masks of a data set to the classes of a segmenter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

#: Which masks of a data set make up an organ, unless others are named; any other class is the mask of its own name.
ORGAN_PARTS: Mapping[str, Sequence[str]] = {"lungs": ("lungs", "lung", "right lung", "left lung")}


def organ_masks(
    masks: Tensor,
    mask_names: Sequence[str],
    classes: Sequence[str],
    parts: Mapping[str, Sequence[str]] = ORGAN_PARTS,
) -> Tensor:
    """Masks of the classes, of which every place has exactly one: uint8 (..., M, H, W).

    Where organs overlap, the later class counts; the first class, the background, is what none of them has.

    Parameters
    ----------
    masks : Tensor
        (..., P, H, W), 0 or 1: of a data set's sample.
    mask_names : sequence of str
        What the P masks are.
    classes : sequence of str
        M names, the background first.
    parts : mapping of str to sequence of str
        For a class, the masks that it is put together from.

    Raises
    ------
    ValueError
        A class for which there is no mask; another number of masks than names.

    Examples
    --------
    >>> masks = torch.tensor([[[1, 0, 0]], [[0, 1, 1]], [[0, 0, 1]]])
    >>> organ_masks(masks, ["right lung", "left lung", "heart"], ["background", "lungs", "heart"])[:, 0].tolist()
    [[0, 0, 0], [1, 1, 0], [0, 0, 1]]
    """
    if masks.shape[-3] != len(mask_names):
        raise ValueError(f"masks are {masks.shape[-3]} and mask_names {len(mask_names)}: they must be as many")
    index = torch.zeros_like(masks[..., 0, :, :], dtype=torch.long)
    for number, organ in enumerate(classes[1:], start=1):
        wanted = parts.get(organ, (organ,))
        at = [position for position, name in enumerate(mask_names) if name in wanted]
        if not at:
            raise ValueError(
                f"no mask makes up the class {organ!r}: the data set has {list(mask_names)}; name them with parts="
            )
        index[masks[..., at, :, :].bool().any(dim=-3)] = number
    return torch.nn.functional.one_hot(index, len(classes)).movedim(-1, -3).to(torch.uint8)
