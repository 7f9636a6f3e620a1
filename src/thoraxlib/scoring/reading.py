"""From a listing to batches that a model takes: read in worker processes, a few batches ahead."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from thoraxlib.files import is_environment_error
from thoraxlib.images import transform_for
from thoraxlib.images.archives import told
from thoraxlib.images.windows import Window
from thoraxlib.input_spec import InputSpec
from thoraxlib.scoring.listing import Film, parts
from thoraxlib.workers import context, follow_parent

__all__ = ["Batch", "batches"]


class _Reading(NamedTuple):
    """A film as the model takes it, (C, h, w), and (H, W) of the pixels that were read; or why there is none."""

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
    return DataLoader(
        _Read(spec, bits, window),
        batch_sampler=_Order(listing, part_size, wanted, batch_size),  # type: ignore[arg-type]
        num_workers=num_workers,
        collate_fn=_joined,
        pin_memory=torch.cuda.is_available(),
        multiprocessing_context=context(__name__) if num_workers else None,
        worker_init_fn=_settle,
    )


def _settle(_: int) -> None:
    """No worker without its parent; those of a fork server are no children of it, which torch takes for granted."""
    follow_parent()


class _Order:
    """Yields batches of (part, film), read from the listing as they are asked for."""

    def __init__(self, listing: Path, part_size: int, wanted: Collection[int], batch_size: int) -> None:
        self.listing, self.part_size, self.wanted, self.batch_size = listing, part_size, wanted, batch_size

    def __iter__(self) -> Iterator[list[tuple[int, Film]]]:
        for number, films in parts(self.listing, self.part_size, self.wanted):
            for start in range(0, len(films), self.batch_size):
                yield [(number, film) for film in films[start : start + self.batch_size]]


class _Read(Dataset[tuple[int, Film, _Reading]]):
    """Reads a film, whose place in the listing is its index."""

    def __init__(self, spec: InputSpec, bits: int | None, window: Window | None) -> None:
        self.transform, self.bits, self.window = transform_for(spec), bits, window

    def __getitem__(self, index: tuple[int, Film]) -> tuple[int, Film, _Reading]:
        return *index, self._reading(index[1])

    def _reading(self, film: Film) -> _Reading:
        try:
            image = film.image(self.bits, self.window)
            x = self.transform(image).as_subclass(Tensor)
            return _Reading(x, (int(image.shape[-2]), int(image.shape[-1])))
        except Exception as error:  # whatever a file, its decoder or its bucket comes up with
            if isinstance(error, ImportError) or is_environment_error(error):  # no fault of this image
                raise
            return _Reading(error=told(error))


def _joined(rows: Sequence[tuple[int, Film, _Reading]]) -> Batch:
    whole = [reading for *_, reading in rows if reading.x is not None]
    x = torch.stack([reading.x for reading in whole if reading.x is not None]) if whole else torch.zeros(0)
    films, errors = [film for _, film, _ in rows], [reading.error for *_, reading in rows]
    return Batch(rows[0][0], films, errors, x, [reading.size for reading in whole])
