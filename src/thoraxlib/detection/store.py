"""Features of a data set's regions in files: write them once, and read them where they are needed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from thoraxlib.detection.base import RegionDetector
from thoraxlib.detection.reading import batches, to_image
from thoraxlib.utils.arguments import one_of
from thoraxlib.utils.files import check_resumable, discard_scratch, locked, parse_json, read_json, replacing, write_json
from thoraxlib.utils.modes import device_of, eval_view
from thoraxlib.utils.precision import autocast

INDEX = "index.json"
_WHY = {
    "fingerprint": "another detector, or this one with other weights or options",
    "data": "another data set, or other labels of this one",
}


class Shard(NamedTuple):
    """N images of a store.

    Attributes
    ----------
    features : Tensor
        float16 (N, R, D).
    present, regions, scores : Tensor
        bool (N, R), float32 (N, R, 4) in pixels of the images, float32 (N, R).
    region_labels, labels : Tensor
        float32 (N, R, K) and (N, K): 1, 0, or NaN.
    """

    features: Tensor
    present: Tensor
    regions: Tensor
    scores: Tensor
    region_labels: Tensor
    labels: Tensor

    def write(self, path: Path, ids: Sequence[str], patient_ids: Sequence[str]) -> None:
        """Write one file, whole or not at all."""
        from safetensors.torch import save

        # one entry only: the order of several differs from file to file
        names = {"images": json.dumps({"ids": list(ids), "patient_ids": list(patient_ids)})}
        content = save({key: value.contiguous() for key, value in self._asdict().items()}, metadata=names)
        with replacing(path) as scratch:
            scratch.write_bytes(content)


def shard_path(folder: Path, number: int) -> Path:
    """Return the path of a shard."""
    return folder / f"{number:05d}.safetensors"


def read_index(folder: Path) -> dict[str, Any]:
    """Read the description of a store.

    Raises
    ------
    FileNotFoundError
        There is no store.
    ValueError
        The index is damaged.
    """
    path = folder / INDEX
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no feature store: there is no {INDEX}; detection.extract writes one")
    try:
        index = dict(read_json(path))
        for key in ("region_names", "labels"):
            if not isinstance(index[key], list) or not all(isinstance(name, str) for name in index[key]):
                raise ValueError(f"{key} must be names")
        for key in ("feature_dim", "length", "shard_size"):
            if not isinstance(index[key], int) or index[key] < 1:
                raise ValueError(f"{key} must be a whole number above 0, got {index[key]!r}")
        return {**index, "fingerprint": str(index["fingerprint"])}
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is damaged ({error}): delete the folder and extract anew") from error


class FeatureStore(Dataset[dict[str, Any]]):
    """Data set of region features instead of images, as :func:`thoraxlib.detection.extract` writes it.

    A sample has ``features`` (float32 (R, D)), ``present`` (bool (R,)), ``regions`` (float32 (R, 4), in pixels of the
    image), ``scores`` (float32 (R,)), ``region_labels`` (float32 (R, K)), ``labels`` (float32 (K,)) and ``id``.
    Features are read from disk when a sample is read; everything else is in memory.

    Parameters
    ----------
    path : path
        The folder.
    detector : RegionDetector, optional
        The detector that must have computed the features.

    Attributes
    ----------
    region_names, labels : tuple of str
        R regions, K findings.
    feature_dim : int
        D.
    fingerprint : str
        Hash of the detector.
    targets, region_targets : Tensor
        float32 (N, K) and (N, R, K): 1, 0, or NaN for unknown.
    region_present : Tensor
        bool (N, R): the regions that have features.
    regions, scores : Tensor
        float32 (N, R, 4) and (N, R).
    ids, patient_ids : list of str
        N.

    Raises
    ------
    FileNotFoundError
        The folder has no store, or parts of it are not extracted yet.
    ValueError
        A file is damaged; the features are of another detector.
    """

    def __init__(self, path: str | os.PathLike[str], *, detector: RegionDetector | None = None) -> None:
        self.path = Path(path)
        index = read_index(self.path)
        self.region_names, self.labels = tuple(index["region_names"]), tuple(index["labels"])
        self.feature_dim, self.fingerprint = index["feature_dim"], index["fingerprint"]
        if detector is not None and detector.fingerprint() != self.fingerprint:
            raise ValueError(
                f"{self.path} was extracted by another detector, or by this one with other weights or options "
                f"(fingerprint {self.fingerprint}, now {detector.fingerprint()}): extract anew"
            )
        self._length, self._shard_size, self._open = index["length"], index["shard_size"], dict[int, Any]()
        self._files = self._existing(-(-self._length // self._shard_size))
        self.ids, self.patient_ids = list[str](), list[str]()
        columns = zip(*map(self._read, range(len(self._files))), strict=True)
        self.region_present, self.regions, self.scores, self.region_targets, self.targets = map(torch.cat, columns)

    def _existing(self, parts: int) -> list[Path]:
        """List the files of all parts; a damaged index may give any number of parts."""
        here = set(self.path.glob("*.safetensors"))
        files = [shard_path(self.path, number) for number in range(min(parts, len(here) + 1))]
        first = next((file.name for file in files if file not in here), None)
        if first is not None:
            lost = parts - sum(file.stem.isdecimal() and int(file.stem) < parts for file in here)
            raise FileNotFoundError(
                f"{self.path} is not complete: {lost} of {parts} parts are missing, first {first}; "
                "the same call of detection.extract continues where it stopped"
            )
        return files

    def _read(self, number: int) -> list[Tensor]:
        """Read a shard, except the features; append its ids."""
        shard, path = self._shard(number), self._files[number]
        n = min(self._shard_size, self._length - number * self._shard_size)
        r, k = len(self.region_names), len(self.labels)
        shapes = [(n, r, self.feature_dim), (n, r), (n, r, 4), (n, r), (n, r, k), (n, k)]
        stored = {key: tuple(shard.get_slice(key).get_shape()) for key in shard.keys()}  # noqa: SIM118
        images = parse_json((shard.metadata() or {}).get("images", ""), path)
        names: list[Any] = [images.get(key) for key in ("ids", "patient_ids")] if isinstance(images, dict) else []
        if (
            stored != dict(zip(Shard._fields, shapes, strict=True))
            or [len(column) if isinstance(column, list) else 0 for column in names] != [n, n]
            or not all(isinstance(name, str) for column in names for name in column)
        ):
            raise ValueError(
                f"{path} is damaged, or of another store: delete it, and detection.extract writes it again"
            )
        self.ids += names[0]
        self.patient_ids += names[1]
        return [shard.get_tensor(key) for key in Shard._fields[1:]]

    def _shard(self, number: int) -> Any:
        """Open a file, mapped into memory."""
        from safetensors import SafetensorError, safe_open

        if number not in self._open:
            try:
                self._open[number] = safe_open(self._files[number], framework="pt")
            except SafetensorError as error:
                raise ValueError(
                    f"{self._files[number]} is damaged ({error}): delete it, and the same call of detection.extract "
                    "writes it again"
                ) from error
        return self._open[number]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}  # each process opens the files itself

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = range(len(self))[index]
        number, row = divmod(index, self._shard_size)
        return {
            "features": self._shard(number).get_slice("features")[row].float(),
            "present": self.region_present[index],
            "regions": self.regions[index],
            "scores": self.scores[index],
            "region_labels": self.region_targets[index],
            "labels": self.targets[index],
            "id": self.ids[index],
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
    """Write the features of all images' regions to a folder: about 36 kB an image for 18 regions of 1024 features.

    The folder receives ``index.json`` (a description) and ``00000.safetensors``, ... of `shard_size` images each. Each
    file is whole or absent: after an interruption, the same call writes the missing files. On one kind of machine the
    store is then bit for bit that of an uninterrupted call. Only one process may write to a folder at a time.

    Parameters
    ----------
    detector : RegionDetector
        Runs on its own device, in eval mode.
    dataset : ChestDataset
        Without a transform of its own. ``region_labels`` of its samples are stored; NaN if there are none.
    output : path
        The folder, created if needed.
    boxes : {"detected", "given"}
        Use the regions that the detector finds, or those of the data set. The latter are an upper bound of what a
        detector can do, and the cheapest way to train.
    batch_size, num_workers : int
        Images in a batch, and processes that read them.
    shard_size : int
        Images in a file.
    precision : {"32-true", "16-mixed", "bf16-mixed"}
        Precision of the forward pass, as :func:`thoraxlib.training.fit` takes it.
    progress : bool
        Show a progress bar.

    Returns
    -------
    FeatureStore
        The complete store.

    Raises
    ------
    ValueError
        No images; an option out of range; ``boxes="given"`` without the detector's regions in the data set; features
        that float16 cannot hold; a folder with a store of another detector, data set or other options, with parts of an
        unknown store, or that another process is writing to.

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
    loader = batches(
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
        network, shown = eval_view(detector), tqdm(loader, desc="extract", disable=not progress, leave=False)
        with torch.inference_mode(), autocast(device_of(detector), precision):
            rows = (_row(network, batch, boxes == "given") for batch in shown)
            for number in missing:
                images = parts[number].tolist()
                ids, patients = ([names[k] for k in images] for names in (dataset.ids, dataset.patient_ids))
                _joined(rows, len(ids)).write(shard_path(folder, number), ids, patients)
    return FeatureStore(folder, detector=detector)


def _begin(folder: Path, index: dict[str, Any]) -> None:
    """Write the index, or compare it with that of the store in the folder; remove files of a killed process."""
    if (folder / INDEX).exists():
        check_resumable(folder, read_index(folder), index, "a feature store", _WHY)
        discard_scratch(folder)
        return
    if any(path.stem.isdecimal() for path in folder.glob("*.safetensors")):
        raise ValueError(f"{folder} holds parts of a feature store, but no {INDEX} that describes it: choose another")
    write_json(folder / INDEX, index, indent=2)


def _digest(dataset: Any) -> str:
    """Hash the images' names and labels."""
    whole = hashlib.sha256(json.dumps([list(dataset.ids), list(dataset.patient_ids)]).encode())
    for name in ("targets", "region_targets"):
        labels = getattr(dataset, name, None)
        if labels is not None:
            whole.update(labels.contiguous().numpy().tobytes())
    return whole.hexdigest()[:16]


def _row(detector: RegionDetector, batch: dict[str, Any], given: bool) -> Shard:
    """Compute the regions of a batch."""
    x = batch["image"].to(device_of(detector))
    if given:
        regions = detector.region_features(x, batch["regions"], batch["present"])
        boxes = torch.stack(batch["boxes"])
    else:
        regions = detector(x)
        boxes = to_image(regions.boxes.cpu(), detector.input_spec, batch["size"])
    features = regions.features.half().cpu()
    lost = [name for name, row in zip(batch["id"], features, strict=True) if not bool(row.isfinite().all())]
    if lost:
        raise ValueError(f"features of {', '.join(lost)} are NaN or beyond float16's largest, 65504")
    scores = regions.scores.float().cpu()
    return Shard(features, regions.present.cpu(), boxes, scores, batch["region_labels"], batch["labels"])


def _joined(rows: Iterator[Shard], images: int) -> Shard:
    """Join the next batches of so many images."""
    shards: list[Shard] = []
    while sum(len(shard.labels) for shard in shards) < images:
        shards.append(next(rows))
    return Shard(*map(torch.cat, zip(*shards, strict=True)))
