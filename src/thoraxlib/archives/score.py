"""Score all images of an archive into files: probabilities and boxes, in any number of processes, resumable."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import nn

from thoraxlib.archives import tables
from thoraxlib.archives.listing import copy_spec, images_of, write_listing
from thoraxlib.archives.network import BoxSettings, Network, device_of
from thoraxlib.archives.output import LISTING, Output
from thoraxlib.archives.reading import Batch, batches
from thoraxlib.archives.tables import Row
from thoraxlib.checkpoints.saving import fingerprint
from thoraxlib.explanation.images import check_model
from thoraxlib.images.reading import check_greys
from thoraxlib.images.windows import Window
from thoraxlib.input_spec import InputSpec
from thoraxlib.localization import Boxes, to_coco, to_original
from thoraxlib.registry import Spec
from thoraxlib.utils.files import printable


class Scored(NamedTuple):
    """What is known when a call of :func:`score_archive` ends.

    Attributes
    ----------
    folder : Path
        The output.
    images : int
        In the archive.
    failed : int
        How many of them have an error; while other processes are still at work, of those of this call.
    complete : bool
        Every image has its row.
    """

    folder: Path
    images: int
    failed: int
    complete: bool


def score_archive(
    model: nn.Module,
    source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    format: Literal["parquet", "csv"] = "parquet",
    boxes: bool = False,
    method: Spec | None = None,
    rule: Spec | None = None,
    threshold: float | Sequence[float] | Mapping[str, float] = 0.5,
    pattern: str | None = None,
    bits: int | None = None,
    window: Window | None = None,
    shard: tuple[int, int] | None = None,
    part_size: int = 4096,
    batch_size: int = 32,
    num_workers: int = 0,
    device: str | torch.device | None = None,
    precision: str = "32-true",
    overwrite: bool = False,
    progress: bool = True,
) -> Scored:
    r"""Score all images of an archive, and write a row for each.

    `output` receives ``scores/000000.parquet`` (or ``.csv``), ... of `part_size` images each, with the columns ``id``
    (path below the source), ``path``, ``height``, ``width``, ``error``, and the probability of every label by its name.
    An image that cannot be read, or for which the model gives NaN, has a row with the ``error``. ``listing.jsonl`` has
    the images, ``manifest.json`` the model, its fingerprint, labels and input, the settings, versions, a digest of each
    part, and in the end how many images failed. With `boxes`, ``boxes/000000.json``, ... and in the end ``boxes.json``,
    as COCO JSON, in each image's own pixels. Bytes of a name that are no text in UTF-8 are written as ``\udcff``.

    Each file is whole or absent, and on the disk before it counts. After an interruption at any moment the same call
    scores the parts that are missing: no row is lost or doubled. Parts that are not as they were written are scored
    again. Errors of the machine (no memory or disk space, a disk or bucket that fails) are the fault of no image: they
    end the call, and the same call goes on later. Several processes, on several machines with one file system, can work
    on one output, each on its `shard`; the number of processes may be another one afterwards. Memory does not grow with
    the number of images, but for what it takes at the start to list one folder, zip archive or bucket, or the manifest
    of a copy.

    Files in `output` that no run wrote stay as they are; where one is in the way, that is an error. Links in the way of
    files are replaced, not followed.

    Parameters
    ----------
    model : Classifier
        With ``input_spec`` and ``labels``; a copy of it in eval mode is used.
    source : path, or a sequence of them
        Folders of PNG, JPEG and DICOM files, zip archives of them, folders of such archives, or patterns of all these
        (``"images/*/p1*"``); local, or in buckets (``gs://...``, ``s3://...``: with the extra ``cloud``). Or a training
        copy that :func:`thoraxlib.archives.prepare` wrote. Or a table ``.csv`` with a column ``path`` and perhaps
        ``id``; ``archive.zip/image.png`` is within an archive. A table may come from anybody, so its paths are below
        its folder or objects in buckets (s3, s3a, gs, gcs, az, abfs, abfss); a table on this machine may name other
        files of it by absolute paths, with or without ``file://``. `source` itself may be whatever fsspec opens: name
        only those that you trust.
    output : path
        A local folder.
    format : {"parquet", "csv"}
        ``"parquet"`` needs the extra ``archive``.
    boxes : bool
        Draw boxes of the findings. Costs a good deal more than the probabilities alone.
    method, rule, threshold
        Heat maps, what makes boxes of them, and from which probability on: see :func:`thoraxlib.explain`.
    pattern, bits, window
        As for :func:`thoraxlib.archives.prepare`; a training copy takes none of them.
    shard : (int, int), optional
        (i, n): this process is the i-th of n, from 0. By default ``RANK`` and ``WORLD_SIZE`` of the environment, where
        torchrun sets them, and else (0, 1), all of it.
    part_size : int
        Images in a file: what an interruption can cost each process.
    batch_size, num_workers : int
        Images at a time, and processes that read them. A script that uses some must be importable
        (``if __name__ == "__main__":``).
    device : str or torch.device, optional
        By default the GPU where there is one, that of ``LOCAL_RANK`` if this is set.
    precision : {"32-true", "16-mixed", "bf16-mixed"}
        Precision of the forward pass, as :func:`thoraxlib.training.fit` takes it.
    overwrite : bool
        Remove what an earlier run wrote to `output`, as its manifest lists it. For one process at a time.
    progress : bool
        Show a bar.

    Raises
    ------
    FileNotFoundError
        A source is absent or holds no image.
    ImportError
        Something is not installed that reading or writing needs.
    TypeError
        The model has no ``input_spec`` or no ``labels``.
    OSError, MemoryError, RuntimeError
        The machine failed.
    ValueError
        The output was begun with another model, other images or settings, or holds files that no run wrote; a table
        names an address that it may not; boxes are wanted of a model that gives NaN; a wrong argument.

    Examples
    --------
    >>> import csv, tempfile, thoraxlib
    >>> from PIL import Image
    >>> images, output = Path(tempfile.mkdtemp()), Path(tempfile.mkdtemp())
    >>> for name in ("a", "b"):
    ...     Image.new("L", (80, 60)).save(images / f"{name}.png")
    >>> model = thoraxlib.build("chexnet", backbone="resnet10t", labels=["Mass", "Edema"], input_spec={"size": 64})
    >>> scored = score_archive(model, images, output, format="csv", progress=False)
    >>> scored.images, scored.failed, scored.complete
    (2, 0, True)
    >>> with (output / "scores" / "000000.csv").open(newline="") as file:
    ...     [(row["id"], row["width"], 0 < float(row["Mass"]) < 1) for row in csv.DictReader(file)]
    [('a.png', '80', True), ('b.png', '80', True)]
    """
    sources = [os.fspath(each) for each in ([source] if isinstance(source, (str, os.PathLike)) else source)]
    check_model(model)
    labels = tuple(model.labels)  # type: ignore[arg-type]
    tables.check_format(format, labels)
    check_greys(bits, window)
    shard = _shard(shard)
    if part_size < 1 or batch_size < 1 or num_workers < 0:
        raise ValueError(f"part_size={part_size}, batch_size={batch_size}, num_workers={num_workers}: 1, 1, 0 or more")
    if overwrite and shard[1] > 1:
        raise ValueError(
            f"overwrite with {shard[1]} processes would remove what the others write: delete {output} first"
        )
    copied = copy_spec(sources)
    if copied is not None and (bits, window, pattern) != (None, None, None):
        raise ValueError(
            f"{sources[0]} is a training copy, of images read before: bits, window and pattern say nothing"
        )
    asked = BoxSettings(method, rule, threshold) if boxes else None
    network = Network(model, device_of(device), precision, asked)
    run = {
        "labels": list(labels),
        "input_spec": model.input_spec.to_json(),  # type: ignore[operator, union-attr]
        "fingerprint": fingerprint(model),
        "boxes": None if asked is None else {**asked._asdict(), "threshold": network.limits.tolist()},
        "precision": precision,
        "bits": bits,
        "window": window,
        "format": format,
        "part_size": part_size,
    }
    about = {
        "model": getattr(model, "config", type(model).__qualname__),
        "sources": sources,
        "versions": _versions(),
    }
    if "://" in os.fspath(output):
        raise ValueError(f"output={output}: a local folder is needed")
    out = Output(Path(output), format, boxes)
    images = out.begin(run, about, lambda path: write_listing(images_of(sources, pattern), path), overwrite=overwrite)
    own = range(shard[0], out.parts, shard[1])
    missing = out.missing(own)
    failed = 0
    loader = batches(
        out.folder / LISTING,
        part_size,
        missing,
        model.input_spec,  # type: ignore[arg-type]
        batch_size=batch_size,
        num_workers=num_workers,
        bits=bits,
        window=window,
    )
    lengths = {number: min(part_size, images - number * part_size) for number in own}
    bar = _bar(sum(lengths.values()), sum(lengths[number] for number in missing), shard, progress)
    with bar:
        for number, group in groupby(loader if missing else (), key=lambda batch: batch.part):
            part = _Part(labels, model.input_spec, copied)  # type: ignore[arg-type]
            for batch in group:
                part.add(batch, network)
                bar.update(len(batch.images))
            out.write(number, labels, part.rows, part.coco() if boxes else {})
            failed += sum(row.error is not None for row in part.rows)
    of_all = out.finish()
    return Scored(out.folder, images, failed if of_all is None else of_all, of_all is not None)


def _shard(shard: tuple[int, int] | None) -> tuple[int, int]:
    if shard is None:
        shard = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if not 0 <= shard[0] < shard[1]:
        raise ValueError(f"shard={shard}: (i, n) with 0 <= i < n is needed")
    return shard


def _versions() -> dict[str, str]:
    from thoraxlib import __version__

    packages = {name: metadata.version(name) for name in ("torch", "torchvision", "timm", "numpy", "pillow")}
    return {"thoraxlib": __version__, "python": platform.python_version(), **packages}


def _bar(total: int, todo: int, shard: tuple[int, int], shown: bool) -> Any:
    from tqdm.auto import tqdm

    name = "score" if shard[1] == 1 else f"score {shard[0]}/{shard[1]}"
    return tqdm(total=total, initial=total - todo, desc=name, unit=" images", position=shard[0], disable=not shown)


class _Part:
    """The images of one file, as they are scored."""

    def __init__(self, labels: Sequence[str], spec: InputSpec, copied: InputSpec | None) -> None:
        self.labels, self.spec, self.copied = labels, spec, copied
        self.rows: list[Row] = []
        self.found: list[Boxes] = []
        self.names: list[str] = []
        self.sizes: list[tuple[int, int]] = []

    def add(self, batch: Batch, network: Network) -> None:
        """Score a batch."""
        probabilities, boxes = network(batch.x) if len(batch.x) else (batch.x, Boxes.from_lists([], []))
        whole = [image for image, error in zip(batch.images, batch.errors, strict=True) if error is None]
        sizes = [image.size or size for image, size in zip(whole, batch.sizes, strict=True)]
        boxes = to_original(boxes, self.spec, batch.sizes)
        if self.copied is not None:
            boxes = to_original(boxes, self.copied, sizes)
        self.found.append(boxes._replace(image=boxes.image + len(self.names)))
        self.names += [printable(image.stored.name) for image in whole]
        self.sizes += sizes
        scored = zip(sizes, probabilities.tolist(), strict=True)
        for image, error in zip(batch.images, batch.errors, strict=True):
            name, path = printable(image.stored.name), printable(image.stored.origin.removeprefix("file://"))
            if error is not None:
                height, width = image.size or (None, None)
                self.rows.append(Row(name, path, height, width, printable(error)))
                continue
            size, values = next(scored)
            if any(value != value for value in values):
                self.rows.append(Row(name, path, *size, network.why_nan))
            else:
                self.rows.append(Row(name, path, *size, None, values))

    def coco(self) -> dict[str, Any]:
        """The boxes, as the content of a COCO file."""
        return to_coco(Boxes.concatenate(self.found), self.labels, self.names, self.sizes)
