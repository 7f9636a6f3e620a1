"""Samples to a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

_STACKED = (
    "image",
    "labels",
    "regions",
    "present",
    "region_labels",
    "masks",
    "organ_mask",
    "features",
    "scores",
)


def collate(
    samples: Sequence[dict[str, Any]], *, images: Callable[[list[Tensor]], Tensor] = torch.stack
) -> dict[str, Any]:
    """A batch: images, labels, regions, masks and features stacked, everything else (boxes, ids) as lists.

    Parameters
    ----------
    samples : sequence of dict
        Samples of one data set, transformed to one image size.
    images : callable
        Makes one tensor of the list of images, of one shape; ``transform_for(spec).normalize.batch`` normalises them
        meanwhile, where samples went through ``transform_for(spec).place`` alone.

    Returns
    -------
    dict
        ``image`` (N, C, H, W), ``labels`` (N, K), ``regions`` (N, R, 4), ``present`` (N, R), ``region_labels``
        (N, R, K), ``masks`` (N, M, H, W), ``features`` (N, R, D), ``scores`` (N, R), as plain tensors;
        ``boxes``, ``box_labels``, ``id``: lists of length N.

    Raises
    ------
    ValueError
        No samples, samples with different keys, or shapes that do not stack.

    Examples
    --------
    >>> batch = collate([{"image": torch.zeros(1, 8, 8), "id": "a"}, {"image": torch.ones(1, 8, 8), "id": "b"}])
    >>> batch["image"].shape, batch["id"]
    (torch.Size([2, 1, 8, 8]), ['a', 'b'])
    """
    if not samples:
        raise ValueError("samples is empty")
    keys = list(samples[0])
    for sample in samples:
        if set(sample) != set(keys):
            raise ValueError(f"samples have different keys: {sorted(keys)} and {sorted(sample)}")
    join = dict.fromkeys(_STACKED, torch.stack) | {"image": images}
    return {key: _joined(key, [sample[key] for sample in samples], join.get(key)) for key in keys}


def _joined(key: str, values: list[Any], join: Callable[[list[Tensor]], Tensor] | None) -> Any:
    if join is None:
        return values
    shapes = {tuple(value.shape) for value in values}
    if len(shapes) > 1:
        raise ValueError(
            f"{key!r} of the samples has different shapes {sorted(shapes)}; "
            "bring them to one size with a transform, e.g. images.transform_for(model.input_spec)"
        )
    return join([value.as_subclass(Tensor) for value in values])
