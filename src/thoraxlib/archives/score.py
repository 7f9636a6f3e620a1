"""Score all images of an archive into files: probabilities and boxes, in any number of processes, resumable."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from thoraxlib.archives.listing import Batch, batches, copy_spec, images_of, write_listing
from thoraxlib.archives.output import LISTING, Output, Row, check_format, files_of_scores, writers_of_scores
from thoraxlib.archives.parts import Parts, check_copy, process_device, source_list, versions
from thoraxlib.checkpoints.saving import fingerprint
from thoraxlib.explanation.findings import explainer_for
from thoraxlib.explanation.images import check_model, thresholds
from thoraxlib.images.reading import check_greys
from thoraxlib.images.windows import Window
from thoraxlib.input_spec import InputSpec
from thoraxlib.localization import Boxes, to_coco, to_original
from thoraxlib.models.optimize import optimize_for_inference
from thoraxlib.registry import Spec
from thoraxlib.utils.files import printable
from thoraxlib.utils.modes import eval_view
from thoraxlib.utils.precision import autocast


class Scored(NamedTuple):
    """Result of :func:`score_archive`.

    Attributes
    ----------
    folder : Path
        The output folder.
    images : int
        Number of images in the archive.
    failed : int
        Number of images with an error: of all, or of this call's images while other processes are still at work.
    complete : bool
        True if every image has its row.
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
    r"""Score all images of an archive and write a row for each.

    `output` receives tables ``scores/000000.parquet`` (or ``.csv``), ... of `part_size` images each, with the columns
    ``id`` (path below the source), ``path``, ``height``, ``width``, ``error``, and one column of probabilities per
    label. An image that cannot be read, or for which the model returns NaN, has a row with the ``error``.
    ``listing.jsonl`` lists the images. ``manifest.json`` has the model, its fingerprint, labels and input, the
    settings, versions, a digest of each part, and in the end the number of failed images. With `boxes`, there are also
    ``boxes/000000.json``, ... and in the end ``boxes.json``, as COCO JSON, in each image's own pixels. Bytes of a file
    name that are not UTF-8 are written as ``\udcff``.

    Each file is whole or absent, and is on the disk before it counts. After an interruption, the same call scores the
    missing parts: no row is lost or doubled. Parts whose content has changed are scored again. Errors of the machine
    (no memory or disk space, a failing disk or bucket) are not the fault of an image: they end the call, and the same
    call resumes later. Several processes, also on several machines with one file system, can share one output, each
    with its `shard`; a later call may have another number of processes. Memory does not grow with the number of images,
    except at the start: for the list of one folder, zip archive or bucket, or for the manifest of a copy.

    Files in `output` that no run wrote are not changed; an error is raised if one is in the way. Links in the place of
    files are replaced, not followed.

    Parameters
    ----------
    model : Classifier
        Model with ``input_spec`` and ``labels``; a copy of it in eval mode is used.
    source : path, or a sequence of them
        Folders of PNG, JPEG and DICOM files, zip archives of them, folders of such archives, or patterns of all these
        (``"images/*/p1*"``); local, or in buckets (``gs://...``, ``s3://...``: with the extra ``cloud``). Or a training
        copy of :func:`thoraxlib.archives.prepare`. Or a table ``.csv`` with a column ``path`` and optionally ``id``; a
        path may be a member of an archive, ``archive.zip/image.png``. Tables may be untrusted: their paths must be
        below the table's folder, or objects in buckets (s3, s3a, gs, gcs, az, abfs, abfss); a local table may also name
        local files by absolute paths, with or without ``file://``. `source` itself may be any URL of fsspec: pass only
        sources that you trust.
    output : path
        A local folder.
    format : {"parquet", "csv"}
        Format of the tables; ``"parquet"`` needs the extra ``archive``.
    boxes : bool
        Find boxes, too. This takes much longer than probabilities alone.
    method, rule, threshold
        Heat map, rule from heat map to boxes, and lowest probability of a finding: see :func:`thoraxlib.explain`.
    pattern, bits, window
        As for :func:`thoraxlib.archives.prepare`; not allowed for a training copy.
    shard : (int, int), optional
        (i, n): this process is the i-th of n, from 0. The default is ``RANK`` and ``WORLD_SIZE`` of the environment,
        which torchrun sets, else (0, 1): all images.
    part_size : int
        Images in a file; an interruption costs each process at most one part.
    batch_size, num_workers : int
        Images in a batch, and processes that read images. A script that uses workers must be importable
        (``if __name__ == "__main__":``).
    device : str or torch.device, optional
        The default is the GPU if there is one, that of ``LOCAL_RANK`` if this is set.
    precision : {"32-true", "16-mixed", "bf16-mixed"}
        Precision of the forward pass, as in :func:`thoraxlib.training.fit`.
    overwrite : bool
        Remove the files of an earlier run that its manifest lists. Allowed for one process only.
    progress : bool
        Show a progress bar.

    Raises
    ------
    FileNotFoundError
        A source does not exist or has no image.
    ImportError
        A package for reading or writing is not installed.
    TypeError
        The model has no ``input_spec`` or no ``labels``.
    OSError, MemoryError, RuntimeError
        The machine failed.
    ValueError
        The output holds a run with another model, other images or settings, or foreign files; a table has an address
        that is not allowed; boxes are requested of a model that returns NaN; or an argument is wrong.

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
    check_model(model)
    labels: tuple[str, ...] = tuple(model.labels)  # type: ignore[arg-type]
    spec: InputSpec = model.input_spec  # type: ignore[assignment]
    check_format(format, labels)
    check_greys(bits, window)
    work = Parts(output, shard, part_size, batch_size, num_workers, overwrite, progress)
    sources = source_list(source)
    copied = copy_spec(sources)
    check_copy(sources[0], copied, bits=bits, window=window, pattern=pattern)
    limits = thresholds(threshold, labels) if boxes else None
    scorer = _Scorer(model, process_device(device), precision, copied, limits, method, rule)
    run = {
        "labels": list(labels),
        "input_spec": spec.to_json(),
        "fingerprint": fingerprint(model),
        "boxes": None if limits is None else {"method": method, "rule": rule, "threshold": limits.tolist()},
        "precision": precision,
        "bits": bits,
        "window": window,
        "format": format,
        "part_size": part_size,
    }
    about = {"model": getattr(model, "config", type(model).__qualname__), "sources": sources, **versions()}
    out = Output(work.folder, files_of_scores, "scores")
    images = out.begin(run, about, lambda path: write_listing(images_of(sources, pattern), path), overwrite)
    options = {"batch_size": batch_size, "num_workers": num_workers, "bits": bits, "window": window}
    read = partial(batches, out.folder / LISTING, part_size, spec=spec, **options)  # type: ignore[arg-type]

    def write(number: int, group: Iterable[Batch], bar: Any) -> int:
        rows, coco = scorer.part(group, bar)
        failed = sum(row.error is not None for row in rows)
        out.write(number, writers_of_scores(labels, rows, coco), failed)
        return failed

    failed, complete = work.run("score", out, images, read, write)
    return Scored(out.folder, images, failed, complete)


class _Scorer:
    """Scorer of batches by an optimised copy of a model; with `limits`, it finds boxes by `how`: method and rule."""

    def __init__(
        self,
        model: Any,
        device: torch.device,
        precision: str,
        copied: InputSpec | None,
        limits: Tensor | None,
        *how: Any,
    ) -> None:
        self.device, self.precision = device, precision
        self.labels, self.spec, self.copied = tuple(model.labels), model.input_spec, copied
        # without boxes, no probability reaches its limit
        self.limits = torch.full((len(self.labels),), torch.inf) if limits is None else limits
        self.model = optimize_for_inference(eval_view(model)).to(device)
        regional = hasattr(model, "region_names")
        nothing = "the model found no region in the image, or its" if regional else "the model's"
        self.why_nan = f"{nothing} output is NaN: is the precision too low?"
        settings = () if limits is None else how
        self.explainer = None if limits is None and not regional else explainer_for(self.model, *settings)

    def __call__(self, x: Tensor) -> tuple[Tensor, Boxes]:
        """Return probabilities float32 (N, K) of images (N, C, h, w), and boxes in their pixels."""
        if not len(x):
            return x, Boxes.from_lists([], [])
        x = x.to(self.device, memory_format=torch.channels_last, non_blocking=True)
        with autocast(self.device, self.precision):
            if self.explainer is None:
                with torch.inference_mode():
                    return self.model(x).float().sigmoid().cpu(), Boxes.from_lists([], [])
            found = self.explainer(x, self.limits)
        boxes = found.boxes
        return found.probabilities.float(), boxes._replace(xyxy=boxes.xyxy.float(), score=boxes.score.float())

    def part(self, batches: Iterable[Batch], bar: Any) -> tuple[list[Row], dict[str, Any]]:
        """Score the batches of one part; return its rows, and its boxes as the content of a COCO file."""
        rows: list[Row] = []
        found: list[Boxes] = []
        names: list[str] = []
        all_sizes: list[tuple[int, int]] = []
        for batch in batches:
            probabilities, boxes = self(batch.x)
            whole = [image for image, error in zip(batch.images, batch.errors, strict=True) if error is None]
            sizes = [image.size or size for image, size in zip(whole, batch.sizes, strict=True)]
            boxes = to_original(boxes, self.spec, batch.sizes)
            if self.copied is not None:
                boxes = to_original(boxes, self.copied, sizes)
            found.append(boxes._replace(image=boxes.image + len(names)))
            names += [printable(image.stored.name) for image in whole]
            all_sizes += sizes
            scored = zip(sizes, probabilities.tolist(), strict=True)
            for image, error in zip(batch.images, batch.errors, strict=True):
                name, path = printable(image.stored.name), printable(image.stored.origin.removeprefix("file://"))
                if error is not None:
                    height, width = image.size or (None, None)
                    rows.append(Row(name, path, height, width, printable(error)))
                    continue
                size, values = next(scored)
                is_nan = any(value != value for value in values)
                rows.append(Row(name, path, *size, self.why_nan) if is_nan else Row(name, path, *size, None, values))
            bar.update(len(batch.images))
        return rows, to_coco(Boxes.concatenate(found), self.labels, names, all_sizes)
