"""The features of a data set's regions, in files that are read as they are needed."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from thoraxlib.detection.base import RegionDetector
from thoraxlib.utils.files import parse_json, read_json, replacing

INDEX = "index.json"


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
        """As one file, whole or not at all."""
        from safetensors.torch import save

        # one entry, as the order of several is not the same in each file
        names = {"images": json.dumps({"ids": list(ids), "patient_ids": list(patient_ids)})}
        content = save({key: value.contiguous() for key, value in self._asdict().items()}, metadata=names)
        with replacing(path) as scratch:
            scratch.write_bytes(content)


def shard_path(folder: Path, number: int) -> Path:
    """The file of a shard."""
    return folder / f"{number:05d}.safetensors"


def read_index(folder: Path) -> dict[str, Any]:
    """What a store is of.

    Raises
    ------
    FileNotFoundError
        There is no store.
    ValueError
        An index that is damaged.
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
    """What :func:`thoraxlib.detection.extract` wrote: a data set of regions' features instead of images.

    A sample has ``features`` (float32 (R, D)), ``present`` (bool (R,)), ``regions`` (float32 (R, 4), in pixels of the
    image), ``scores`` (float32 (R,)), ``region_labels`` (float32 (R, K)), ``labels`` (float32 (K,)) and ``id``.
    Features are read from the disk when a sample is asked for; everything else is in memory.

    Parameters
    ----------
    path : path
        The folder.
    detector : RegionDetector, optional
        Whose features they must be.
    region_names, labels : sequence of str, optional
        Which names, in which order, they must have.
    feature_dim : int, optional
        Which width they must have.

    Attributes
    ----------
    region_names, labels : tuple of str
        R regions, K findings.
    feature_dim : int
        D.
    fingerprint : str
        Of the detector.
    targets, region_targets : Tensor
        float32 (N, K) and (N, R, K): 1, 0, or NaN for unknown.
    region_present : Tensor
        bool (N, R): which regions have features.
    regions, scores : Tensor
        float32 (N, R, 4) and (N, R).
    ids, patient_ids : list of str
        N.

    Raises
    ------
    FileNotFoundError
        No store in the folder, or parts of it that are not extracted yet.
    ValueError
        A damaged file; features of another detector, width or names than asked for.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        detector: RegionDetector | None = None,
        region_names: Sequence[str] | None = None,
        labels: Sequence[str] | None = None,
        feature_dim: int | None = None,
    ) -> None:
        self.path = Path(path)
        index = read_index(self.path)
        self.region_names, self.labels = tuple(index["region_names"]), tuple(index["labels"])
        self.feature_dim, self.fingerprint = index["feature_dim"], index["fingerprint"]
        self._check(detector, region_names, labels, feature_dim)
        self._length, self._shard_size, self._open = index["length"], index["shard_size"], dict[int, Any]()
        self._files = self._existing(-(-self._length // self._shard_size))
        self.ids, self.patient_ids = list[str](), list[str]()
        known = [self._known(number) for number in range(len(self._files))]
        self.region_present, self.regions, self.scores, self.region_targets, self.targets = map(
            torch.cat, zip(*known, strict=True)
        )

    def _check(
        self,
        detector: RegionDetector | None,
        region_names: Sequence[str] | None,
        labels: Sequence[str] | None,
        feature_dim: int | None,
    ) -> None:
        if detector is not None:
            region_names, feature_dim = detector.region_names, detector.feature_dim
        for what, ours, theirs in (
            ("regions", self.region_names, region_names),
            ("labels", self.labels, labels),
        ):
            if theirs is not None and tuple(theirs) != ours:
                raise ValueError(f"{self.path} is of the {what} {ours}, not of {tuple(theirs)}")
        if feature_dim is not None and feature_dim != self.feature_dim:
            raise ValueError(f"{self.path} has {self.feature_dim} features a region, not {feature_dim}")
        if detector is not None and detector.fingerprint() != self.fingerprint:
            raise ValueError(
                f"{self.path} was extracted by another detector, or by this one with other weights or options "
                f"(fingerprint {self.fingerprint}, now {detector.fingerprint()}): extract anew"
            )

    def _existing(self, parts: int) -> list[Path]:
        """The files of all parts; their number may be anything that an index can say."""
        here = set(self.path.glob("*.safetensors"))
        files = [shard_path(self.path, number) for number in range(min(parts, len(here) + 1))]
        first = next((file.name for file in files if file not in here), None)
        if first is not None:
            lost = parts - sum(file.stem.isdecimal() and int(file.stem) < parts for file in here)
            raise FileNotFoundError(
                f"{self.path} is not complete: {lost} of {parts} parts are missing, first {first}; "
                "the same call of detection.extract goes on where it stopped"
            )
        return files

    def _known(self, number: int) -> list[Tensor]:
        """Everything of a shard but the features."""
        shard, path = self._shard(number), self._files[number]
        n = min(self._shard_size, self._length - number * self._shard_size)
        r, k = len(self.region_names), len(self.labels)
        shapes = [(n, r, self.feature_dim), (n, r), (n, r, 4), (n, r), (n, r, k), (n, k)]
        found = {key: tuple(shard.get_slice(key).get_shape()) for key in shard.keys()}  # noqa: SIM118
        images = parse_json((shard.metadata() or {}).get("images", ""), path)
        names: list[Any] = [images.get(key) for key in ("ids", "patient_ids")] if isinstance(images, dict) else []
        if (
            found != dict(zip(Shard._fields, shapes, strict=True))
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
        """An open file, mapped into memory."""
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
