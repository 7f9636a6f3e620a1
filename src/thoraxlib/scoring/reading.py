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

from thoraxlib.files import is_environment_error
from thoraxlib.images import transform_for
from thoraxlib.images.archives import told
from thoraxlib.images.windows import Window
from thoraxlib.input_spec import InputSpec
from thoraxlib.scoring.listing import Film, parts
from thoraxlib.workers import context, in_batches, read_batches

__all__ = ["Batch", "batches"]


class _Row(NamedTuple):
    """A film as the model takes it, (C, h, w), and (H, W) of the pixels that were read; or why there is none."""

    part: int
    film: Film
    x: Tensor | None = None
    size: tuple[int, int] = (0, 0)
    error: str | None = None


@dataclass
class Batch:
    """Films of one part of the listing.

    Attributes
    ----------
    part : int
        Its number.
    films : list of Film
        N.
    errors : list of str or None
        N: why a film could not be read.
    x : Tensor
        (M, C, h, w): those M that could.
    sizes : list of (int, int)
        M: (H, W) of their pixels as they were read.
    """

    part: int
    films: list[Film]
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
    """The films of the wanted parts, in order; a batch has those of one part."""
    order = (
        [(number, film) for film in films]
        for number, part in parts(listing, part_size, wanted)
        for films in in_batches(part, batch_size)
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
    key: tuple[int, Film], *, transform: Callable[[Tensor], Tensor], bits: int | None, window: Window | None
) -> _Row:
    part, film = key
    try:
        image = film.image(bits, window)
        x = transform(image).as_subclass(Tensor)
        return _Row(part, film, x, (int(image.shape[-2]), int(image.shape[-1])))
    except Exception as error:  # whatever a file, its decoder or its bucket comes up with
        if isinstance(error, ImportError) or is_environment_error(error):  # no fault of this image
            raise
        return _Row(part, film, error=told(error))


def _joined(rows: Sequence[_Row]) -> Batch:
    whole = [row for row in rows if row.x is not None]
    x = torch.stack([row.x for row in whole if row.x is not None]) if whole else torch.zeros(0)
    films, errors = [row.film for row in rows], [row.error for row in rows]
    return Batch(rows[0].part, films, errors, x, [row.size for row in whole])
