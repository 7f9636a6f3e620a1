"""From a listing to batches that a model takes: read in worker processes, a few batches ahead."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from thoraxlib.archives.listing import Listed, parts
from thoraxlib.archives.sources import told
from thoraxlib.images import transform_for
from thoraxlib.images.windows import Window
from thoraxlib.input_spec import InputSpec
from thoraxlib.utils.files import is_environment_error
from thoraxlib.utils.workers import context, in_batches, read_batches


class _Row(NamedTuple):
    """An image as the model takes it, (C, h, w), and (H, W) of the pixels that were read; or why there is none."""

    part: int
    image: Listed
    x: Tensor | None = None
    size: tuple[int, int] = (0, 0)
    error: str | None = None


@dataclass
class Batch:
    """Images of one part of the listing.

    Attributes
    ----------
    part : int
        Its number.
    images : list of Image
        N.
    errors : list of str or None
        N: why an image could not be read.
    x : Tensor
        (M, C, h, w): those M that could.
    sizes : list of (int, int)
        M: (H, W) of their pixels as they were read.
    """

    part: int
    images: list[Listed]
    errors: list[str | None]
    x: Tensor
    sizes: list[tuple[int, int]]

    def pin_memory(self) -> Batch:
        """In memory from which a GPU copies faster; the loader calls it."""
        self.x = self.x.pin_memory()
        return self


def batches(
    listing: Path,
    part_size: int,
    wanted: Collection[int],
    spec: InputSpec,
    *,
    batch_size: int,
    num_workers: int,
    bits: int | None = None,
    window: Window | None = None,
) -> DataLoader[Any]:
    """The images of the wanted parts, in order; a batch has those of one part."""
    order = (
        [(number, image) for image in images]
        for number, part in parts(listing, part_size, wanted)
        for images in in_batches(part, batch_size)
    )
    return read_batches(
        partial(_read, transform=transform_for(spec), bits=bits, window=window),
        order,
        _joined,
        num_workers=num_workers,
        pin_memory=torch.cuda.is_available(),
        multiprocessing_context=context(__name__) if num_workers else None,
    )


def _read(
    key: tuple[int, Listed], *, transform: Callable[[Tensor], Tensor], bits: int | None, window: Window | None
) -> _Row:
    part, picture = key
    try:
        image = picture.image(bits, window)
        x = transform(image).as_subclass(Tensor)
        return _Row(part, picture, x, (int(image.shape[-2]), int(image.shape[-1])))
    except Exception as error:  # whatever a file, its decoder or its bucket comes up with
        if isinstance(error, ImportError) or is_environment_error(error):  # no fault of this image
            raise
        return _Row(part, picture, error=told(error))


def _joined(rows: Sequence[_Row]) -> Batch:
    whole = [row for row in rows if row.x is not None]
    x = torch.stack([row.x for row in whole if row.x is not None]) if whole else torch.zeros(0)
    images, errors = [row.image for row in rows], [row.error for row in rows]
    return Batch(rows[0].part, images, errors, x, [row.size for row in whole])
