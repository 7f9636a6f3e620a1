"""Work on the images of an archive part by part, in any number of processes; scoring and embedding share it."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterable, Sequence
from importlib import metadata
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from thoraxlib.archives.listing import Batch
from thoraxlib.archives.output import Output
from thoraxlib.input_spec import InputSpec


class Parts:
    """Share of this process in the parts of a run.

    Parameters
    ----------
    output : path
        The output folder.
    shard : (int, int) or None
        (i, n): this process is the i-th of n; by default ``RANK`` and ``WORLD_SIZE`` of the environment, else (0, 1).
    part_size, batch_size, num_workers : int
        Images in a part and in a batch, and processes that read images.
    overwrite : bool
        Remove an earlier run.
    progress : bool
        Show a progress bar.

    Raises
    ------
    ValueError
        A number out of range, `overwrite` with several processes, or an output that is no local folder.
    """

    def __init__(
        self,
        output: str | os.PathLike[str],
        shard: tuple[int, int] | None,
        part_size: int,
        batch_size: int,
        num_workers: int,
        overwrite: bool,
        progress: bool,
    ) -> None:
        shard = shard or (int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)))
        if not 0 <= shard[0] < shard[1]:
            raise ValueError(f"shard={shard}: (i, n) with 0 <= i < n is needed")
        if part_size < 1 or batch_size < 1 or num_workers < 0:
            raise ValueError(
                f"part_size={part_size}, batch_size={batch_size}, num_workers={num_workers}: 1, 1, 0 or more"
            )
        if overwrite and shard[1] > 1:
            raise ValueError(f"overwrite with {shard[1]} processes would remove their work: delete {output} first")
        if "://" in os.fspath(output):
            raise ValueError(f"output={output}: a local folder is needed")
        self.folder, self.shard, self.part_size, self.progress = Path(output), shard, part_size, progress

    def run(
        self,
        name: str,
        out: Output,
        images: int,
        read: Callable[[list[int]], Iterable[Batch]],
        write: Callable[[int, Iterable[Batch], Any], int],
    ) -> tuple[int, bool]:
        """Do the missing parts of this process; return the number of failed images, and True if all parts are done.

        Parameters
        ----------
        name : str
            Name of the work, for the progress bar.
        out : Output
            A run that has begun.
        images : int
            Number of images in all.
        read : callable
            From numbers of parts to their batches, in order.
        write : callable
            Writes a part, given its number, its batches and the progress bar; returns the number of failed images.
        """
        from tqdm.auto import tqdm

        rank, processes = self.shard
        own = range(rank, out.parts, processes)
        missing = out.missing(own)
        lengths = {number: min(self.part_size, images - number * self.part_size) for number in own}
        done = sum(length for number, length in lengths.items() if number not in missing)
        shown = name if processes == 1 else f"{name} {rank}/{processes}"
        total, failed = sum(lengths.values()), 0
        off = not self.progress
        with tqdm(None, shown, total, initial=done, unit=" images", position=rank, disable=off) as bar:
            for number, group in groupby(read(missing) if missing else (), key=lambda batch: batch.part):
                failed += write(number, group, bar)
        all_failed = out.finish()
        return failed if all_failed is None else all_failed, all_failed is not None


def source_list(source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[str]:
    """Return one or several sources as a list of texts."""
    return [os.fspath(each) for each in ([source] if isinstance(source, (str, os.PathLike)) else source)]


def check_copy(source: str, copied: InputSpec | None, **reading: object) -> None:
    """Raise ValueError if the source is a training copy, and options say how to read images."""
    if copied is not None and any(option is not None for option in reading.values()):
        raise ValueError(f"{source} is a training copy of images read before: bits, window and pattern say nothing")


def process_device(device: str | torch.device | None) -> torch.device:
    """Return `device`, by default the GPU of this process if there is one."""
    chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if chosen.type == "cuda" and chosen.index is None:
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)) % max(torch.cuda.device_count(), 1))
    return chosen


def versions() -> dict[str, dict[str, str]]:
    """Return the versions of the packages that decide on numbers, for a manifest."""
    from thoraxlib import __version__

    found = {name: metadata.version(name) for name in ("torch", "torchvision", "timm", "numpy", "pillow")}
    return {"versions": {"thoraxlib": __version__, "python": platform.python_version(), **found}}
