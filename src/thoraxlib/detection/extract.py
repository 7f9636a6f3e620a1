"""The features of a data set's regions, from images to files."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from thoraxlib.detection.base import RegionDetector
from thoraxlib.detection.reading import DetectorBatch, batches, in_image
from thoraxlib.detection.store import INDEX, FeatureStore, Shard, read_index, shard_path
from thoraxlib.utils.arguments import one_of
from thoraxlib.utils.files import check_resumable, discard_scratch, locked, write_json
from thoraxlib.utils.modes import device_of, eval_view
from thoraxlib.utils.precision import autocast

_WHY = {
    "fingerprint": "another detector, or this one with other weights or options",
    "data": "another data set, or other labels of this one",
}


def extract(
    detector: RegionDetector,
    dataset: Any,
    output: str | os.PathLike[str],
    *,
    boxes: str = "detected",
    batch_size: int = 16,
    num_workers: int = 0,
    shard_size: int = 1024,
    precision: str = "32-true",
    progress: bool = True,
) -> FeatureStore:
    """Write the features of all images' regions to a folder, about 36 kB an image with 18 regions of 1024 features.

    The folder receives ``index.json`` (what the store is of) and ``00000.safetensors``, ... of `shard_size` images
    each. Each file is whole or absent: after an interruption, the same call writes those that are missing, and the
    store is then the same, bit for bit, as one written in one go on one kind of machine. One process at a time: a
    second one is refused.

    Parameters
    ----------
    detector : RegionDetector
        Runs where it is, in eval mode.
    dataset : ChestDataset
        Without a transform of its own. ``region_labels`` of its samples are kept; where there are none, they are NaN.
    output : path
        The folder; made if need be.
    boxes : {"detected", "given"}
        The regions that the detector finds, or those of the data set, which is the upper bound of what a detector can
        do and the cheapest way to train.
    batch_size, num_workers : int
        Images at a time, and processes that read them.
    shard_size : int
        Images in a file.
    precision : {"32-true", "16-mixed", "bf16-mixed"}
        Precision of the forward pass, as :func:`thoraxlib.training.fit` takes it.
    progress : bool
        Show a bar.

    Returns
    -------
    FeatureStore
        All of it.

    Raises
    ------
    ValueError
        No images; an option out of range; ``boxes="given"`` without the detector's regions in the data set; features
        that float16 cannot hold; a folder with a store of another detector, data set, or other names or options, with
        parts of an unknown one, or that another process is writing to.

    Examples
    --------
    >>> import tempfile
    >>> from thoraxlib import datasets, detection
    >>> detector = detection.build("fasterrcnn_fpn", backbone="resnet10t", width=8, feature_dim=16,
    ...                            input_spec={"size": 64})
    >>> images = datasets.build("synthetic", size=64, length=3)
    >>> store = detection.extract(detector, images, tempfile.mkdtemp(), boxes="given", progress=False)
    >>> store[0]["features"].shape, store.targets.shape, store.region_targets.shape
    (torch.Size([18, 16]), torch.Size([3, 14]), torch.Size([3, 18, 14]))
    """
    from tqdm.auto import tqdm

    one_of("boxes", boxes, ("detected", "given"))
    if shard_size < 1:
        raise ValueError(f"shard_size={shard_size}: at least 1 is needed")
    folder, parts = Path(output), torch.split(torch.arange(len(dataset)), shard_size)
    missing = [number for number in range(len(parts)) if not shard_path(folder, number).exists()]
    images = batches(
        detector,
        dataset,
        batch_size=batch_size,
        num_workers=num_workers,
        truth=boxes == "given",
        parts=[parts[number] for number in missing],
    )
    index = {
        "fingerprint": detector.fingerprint(),
        "region_names": list(detector.region_names),
        "feature_dim": detector.feature_dim,
        "labels": list(dataset.labels),
        "length": len(dataset),
        "data": _digest(dataset),
        "boxes": boxes,
        "shard_size": shard_size,
        "precision": precision,
    }
    with locked(folder):
        _begin(folder, index)
        left = sum(len(parts[number]) for number in missing)
        device = device_of(detector)
        with (
            torch.inference_mode(),
            autocast(device, precision),
            tqdm(total=len(dataset), initial=len(dataset) - left, desc="extract", disable=not progress) as bar,
        ):
            rows = _rows(eval_view(detector), images, boxes, device, bar)
            for number in missing:
                shard, ids = _gathered(rows, len(parts[number]))
                patients = [dataset.patient_ids[index] for index in parts[number].tolist()]
                shard.write(shard_path(folder, number), ids, patients)
    return FeatureStore(folder, detector=detector)


def _begin(folder: Path, index: dict[str, Any]) -> None:
    """Write the index, or see that it is that of the store in the folder; remove what a killed process left."""
    if (folder / INDEX).exists():
        check_resumable(folder, read_index(folder), index, "a feature store", _WHY)
        discard_scratch(folder)
        return
    if any(path.stem.isdecimal() for path in folder.glob("*.safetensors")):
        raise ValueError(f"{folder} holds parts of a feature store, but no {INDEX} that says of what: choose another")
    write_json(folder / INDEX, index, indent=2)


def _digest(dataset: Any) -> str:
    """Of the images' names and labels."""
    whole = hashlib.sha256(json.dumps([list(dataset.ids), list(dataset.patient_ids)]).encode())
    for name in ("targets", "region_targets"):
        labels = getattr(dataset, name, None)
        if labels is not None:
            whole.update(labels.contiguous().numpy().tobytes())
    return whole.hexdigest()[:16]


def _rows(
    detector: RegionDetector, images: Iterable[DetectorBatch], boxes: str, device: torch.device, bar: Any
) -> Iterator[tuple[Shard, list[str]]]:
    """The regions of each batch, as a shard has them."""
    for batch in images:
        x = batch.x.to(device)
        if boxes == "given":
            found = detector.region_features(x, batch.seen, batch.seen_present)
            places = batch.boxes
        else:
            found = detector(x)
            places = in_image(found.boxes.cpu(), detector.input_spec, batch.sizes)
        features = found.features.half().cpu()
        lost = [name for name, row in zip(batch.ids, features, strict=True) if not bool(row.isfinite().all())]
        if lost:
            raise ValueError(f"features of {', '.join(lost)} are NaN or beyond float16's largest, 65504")
        shard = Shard(
            features, found.present.cpu(), places, found.scores.float().cpu(), batch.region_labels, batch.labels
        )
        bar.update(len(batch.ids))
        yield shard, batch.ids


def _gathered(rows: Iterator[tuple[Shard, Sequence[str]]], images: int) -> tuple[Shard, list[str]]:
    """The next batches, up to a number of images."""
    shards: list[Shard] = []
    ids: list[str] = []
    while len(ids) < images:
        shard, names = next(rows)
        shards.append(shard)
        ids += names
    columns: list[Tensor] = [torch.cat(column) for column in zip(*shards, strict=True)]
    return Shard(*columns), ids
