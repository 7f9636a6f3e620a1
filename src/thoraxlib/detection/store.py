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
from thoraxlib.files import replacing

__all__ = ["INDEX", "FeatureStore", "Shard", "read_index", "shard_path"]

INDEX = "index.json"


class Shard(NamedTuple):
    """N films of a store.

    Attributes
    ----------
    features : Tensor
        float16 (N, R, D).
    present, regions, scores : Tensor
        bool (N, R), float32 (N, R, 4) in pixels of the films, float32 (N, R).
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
        from safetensors.torch import save_file

        # one entry, as the order of several is not the same in each file
        names = {"films": json.dumps({"ids": list(ids), "patient_ids": list(patient_ids)})}
        with replacing(path) as scratch:
            save_file({key: value.contiguous() for key, value in self._asdict().items()}, scratch, metadata=names)


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
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): delete the folder and extract anew") from error


class FeatureStore(Dataset[dict[str, Any]]):
    """What :func:`thoraxlib.detection.extract` wrote: a data set of regions' features instead of films.

    A sample has ``features`` (float32 (R, D)), ``present`` (bool (R,)), ``regions`` (float32 (R, 4), in pixels of the
    film), ``scores`` (float32 (R,)), ``region_labels`` (float32 (R, K)), ``labels`` (float32 (K,)) and ``id``. Features
    are read from the disk when a sample is asked for; everything else is in memory.

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
        self.feature_dim, self.fingerprint = int(index["feature_dim"]), str(index["fingerprint"])
        self._check(detector, region_names, labels, feature_dim)
        self._files = [shard_path(self.path, k) for k in range(-(-index["length"] // index["shard_size"]))]
        self._shard_size, self._open = int(index["shard_size"]), dict[int, Any]()
        lost = [file.name for file in self._files if not file.exists()]
        if lost:
            raise FileNotFoundError(
                f"{self.path} is not complete: {len(lost)} of {len(self._files)} parts are missing, first {lost[0]}; "
                "the same call of detection.extract goes on where it stopped"
            )
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

    def _known(self, number: int) -> list[Tensor]:
        """Everything of a shard but the features."""
        shard = self._shard(number)
        names = json.loads(shard.metadata()["films"])
        self.ids += names["ids"]
        self.patient_ids += names["patient_ids"]
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
