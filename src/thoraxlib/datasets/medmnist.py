"""PneumoniaMNIST and ChestMNIST of MedMNIST v2 (Yang et al. 2023, Scientific Data 10:41)."""

from __future__ import annotations

import os
import warnings
import zipfile
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch.utils.data import Dataset
from torchvision import tv_tensors

from thoraxlib import labels as label_sets
from thoraxlib.datasets.base import Transform
from thoraxlib.utils.arguments import one_of
from thoraxlib.utils.download import DigestError, cache_folder, digest, download

_URL = "https://zenodo.org/records/10519652/files/{file}?download=1"
_SPLITS = ("train", "val", "test")


class MedMNIST(Dataset[dict[str, Any]]):
    """Data set of MedMNIST: small square images in one file, with the official split.

    MedMNIST has no patient ids: every image counts as a patient of its own.

    Parameters
    ----------
    root : path, optional
        The file (``pneumoniamnist.npz``, ``pneumoniamnist_64.npz``, ...), or its folder. By default it is downloaded to
        the cache, and compared with MedMNIST's MD5.
    split : {"train", "val", "test"}
        The part.
    size : {28, 64, 128, 224}
        Side of the images, in pixels.
    transform : callable, optional
        From sample to sample.
    progress : bool
        Show a bar during the download.

    Raises
    ------
    FileNotFoundError
        No file at `root`.
    ValueError
        Naming the file: it is not MedMNIST's.
    ConnectionError, PermissionError
        The file cannot be downloaded, or the cache not be written.

    Warns
    -----
    UserWarning
        A given file has another MD5 than the official one: its images may be in another order.
    """

    label_set: ClassVar[str]
    file: ClassVar[str]
    md5: ClassVar[dict[int, str]]

    def __init__(
        self,
        *,
        root: str | os.PathLike[str] | None = None,
        split: str = "train",
        size: int = 28,
        transform: Transform | None = None,
        progress: bool = True,
    ) -> None:
        one_of("split", split, _SPLITS)
        one_of("size", size, tuple(self.md5))
        self.labels = label_sets.build(self.label_set)
        self.transform = transform
        file = f"{self.file}.npz" if size == 28 else f"{self.file}_{size}.npz"
        self.path = _downloaded(file, self.md5[size], progress) if root is None else _given(Path(root), file)
        if root is not None and digest(self.path, "md5") != self.md5[size]:
            warnings.warn(
                f"{self.path} has another MD5 than MedMNIST's file ({self.md5[size]}): the order of its images, or "
                "more, may be different",
                stacklevel=2,
            )
        self._images, targets = _read(self.path, split, size, len(self.labels))
        self.targets = torch.from_numpy(targets)
        self.ids = [f"{split}{number}_0" for number in range(len(targets))]
        self.patient_ids = list(self.ids)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        image = tv_tensors.Image(torch.from_numpy(self._images[index].copy())[None])
        sample = {"image": image, "labels": self.targets[index].clone(), "id": self.ids[index]}
        return sample if self.transform is None else self.transform(sample)


class PneumoniaMNIST(MedMNIST):
    """PneumoniaMNIST: 5,856 radiographs of children, with and without pneumonia (Kermany et al. 2018), CC BY 4.0.

    4,708 images to train, 524 to validate and 624 to test, split by image, not by patient. See :class:`MedMNIST`.
    """

    label_set = "pneumonia"
    file = "pneumoniamnist"
    md5: ClassVar = {
        28: "28209eda62fecd6e6a2d98b1501bb15f",
        64: "8f4eceb4ccffa70c672198ea285246c6",
        128: "05b46931834c231683c68f40c47b2971",
        224: "d6a3c71de1b945ea11211b03746c1fe1",
    }


class ChestMNIST(MedMNIST):
    """ChestMNIST: the 112,120 images of NIH ChestX-ray14 with its 14 labels, CC BY 4.0.

    78,468 images to train, 11,219 to validate and 22,433 to test. See :class:`MedMNIST`.
    """

    label_set = "nih14"
    file = "chestmnist"
    md5: ClassVar = {
        28: "02c8a6516a18b556561a56cbdd36c4a8",
        64: "9de6cd0b934ebb5b7426cfba5efbae16",
        128: "db107e5590b27930b62dbaf558aebee3",
        224: "45bd33e6f06c3e8cdb481c74a89152aa",
    }


def _given(root: Path, file: str) -> Path:
    path = root / file if root.is_dir() else root
    if not path.is_file():
        raise FileNotFoundError(f"root={root}: no file {path}; root=None downloads it")
    return path


def _downloaded(file: str, md5: str, progress: bool) -> Path:
    path = cache_folder() / "medmnist" / file
    url = _URL.format(file=file)

    def verify(path: Path) -> None:
        if (found := digest(path, "md5")) != md5:
            raise DigestError(f"{url}: the MD5 of the file is {found}, MedMNIST's is {md5}")

    download(url, path, verify, progress=progress, hint=", and give its path as root")
    return path


def _read(path: Path, split: str, size: int, labels: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Read images, uint8 (N, size, size), and targets, float32 (N, labels), of a part."""
    try:
        with np.load(path, allow_pickle=False) as content:
            images, targets = content[f"{split}_images"], content[f"{split}_labels"]
    except (KeyError, ValueError, EOFError, OSError, AttributeError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is no file of MedMNIST: {type(error).__name__}: {error}") from error
    if images.dtype != np.uint8 or images.shape[1:] != (size, size):
        raise ValueError(
            f"{path}: {split}_images must be uint8 (N, {size}, {size}), got {images.dtype} {images.shape}; size= says "
            "which file it is"
        )
    if targets.shape != (len(images), labels) or not np.isin(targets, (0, 1)).all():
        raise ValueError(f"{path}: {split}_labels must be 0 or 1, ({len(images)}, {labels}), got {targets.shape}")
    return images, targets.astype(np.float32)
