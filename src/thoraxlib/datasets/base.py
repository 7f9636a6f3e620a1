"""Base classes of data sets."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors

from thoraxlib import labels as label_sets
from thoraxlib.datasets.files import StrPath, check_root, existing
from thoraxlib.images import read
from thoraxlib.images.copies import CopiedImage, ImageFile

#: A function from sample to sample.
Transform: TypeAlias = Callable[[dict[str, Any]], dict[str, Any]]

#: Optional attributes of a data set with one entry per image: lists or tensors.
PER_IMAGE = (
    *("boxed", "region_targets", "region_present", "region_boxes", "study_ids", "views", "sizes", "file_names"),
    *("ages", "sexes", "sites"),
)
#: Optional attributes that hold for all images.
FOR_ALL = ("region_names", "mask_names")


@runtime_checkable
class ChestDataset(Protocol):
    """Protocol of a map-style data set of samples whose labels and ids are known before an image is decoded.

    A sample is a dict with ``image`` (``tv_tensors.Image``, (1, H, W), uint8 or float32 in [0, 1]), ``labels``
    (float32 (K,): 1, 0, or NaN for unknown) and ``id`` (str). Some data sets also give ``boxes`` (float32 (B, 4): x1,
    y1, x2, y2 in pixels of the sample's image, x2 and y2 exclusive) with ``box_labels`` (int64 (B,), index into
    `labels`), and ``masks`` (uint8 (M, H, W)).

    A data set with ``region_names``, R names, also gives ``regions`` (boxes (R, 4), row r is ``region_names[r]``, 0 0 0
    0 for an absent region), ``present`` (bool (R,)) and ``region_labels`` (float32 (R, K): 1, 0 or NaN, NaN for absent
    regions). If these are known before decoding, the data set has ``region_present`` (N, R) and ``region_targets`` (N,
    R, K).

    Attributes
    ----------
    labels : tuple of str
        Names of the K labels.
    targets : Tensor
        float32 (N, K): 1, 0, or NaN.
    patient_ids : list of str
        One per image; the images of a patient share it.
    ids : list of str
        One per image.
    """

    labels: tuple[str, ...]
    targets: Tensor
    patient_ids: list[str]
    ids: list[str]

    def __len__(self) -> int:
        """Return the number of images."""
        ...

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return one sample."""
        ...


def bounding_boxes(xyxy: Tensor, size: Sequence[int]) -> tv_tensors.BoundingBoxes:
    """Mark boxes (B, 4), x1 y1 x2 y2 in an image of `size` (H, W), so that transforms move them with the image."""
    return tv_tensors.BoundingBoxes(xyxy, format="XYXY", canvas_size=tuple(size))  # type: ignore[call-overload, no-any-return]


class ImageDataset(Dataset[dict[str, Any]]):
    """Base class of readers: a :class:`ChestDataset` of image files.

    A reader calls this constructor, reads its tables, then calls :meth:`_keep` with their columns and
    :meth:`_set_targets` with their labels. Readers with boxes or masks extend :meth:`_sample`; readers that know how
    pixels are stored override :meth:`_read`.

    If an image is in a training copy, the sample is made for a black image of the original size, and then moved to the
    copied image.

    Parameters
    ----------
    root : path
        The folder of the release.
    labels : str or sequence of str, optional
        A label set, or names; none by default.
    transform : callable, optional
        From sample to sample.
    argument : str
        Name of `root` in error messages.

    Raises
    ------
    FileNotFoundError, NotADirectoryError
        `root` is not a folder.
    """

    targets: Tensor
    patient_ids: list[str]
    ids: list[str]
    study_ids: list[str]
    views: list[str]
    _paths: Sequence[ImageFile]

    def __init__(
        self,
        root: StrPath,
        labels: str | Sequence[str] | None = None,
        transform: Transform | None = None,
        argument: str = "root",
    ) -> None:
        self.root = check_root(root, argument)
        self.labels: tuple[str, ...] = () if labels is None else label_sets.resolve(labels)
        self.transform = transform

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = self._sample(index)
        image = self._paths[index]
        if isinstance(image, CopiedImage):
            sample = image.placed(sample)
        return sample if self.transform is None else self.transform(sample)

    def _keep(
        self,
        rows: NDArray[np.intp],
        columns: Mapping[str, Sequence[str]],
        files: dict[str, ImageFile],
        missing: str,
        chosen: Mapping[str, object],
        *,
        names: Sequence[str] | None = None,
        where: Path | None = None,
    ) -> NDArray[np.intp]:
        """Keep the rows that have an image file, and set an attribute from each column.

        Parameters
        ----------
        rows : NDArray
            Positions in the columns.
        columns : mapping of str to sequence of str
            ``ids``, ``patient_ids`` and others.
        files : dict of str to ImageFile
            Image files by name.
        missing : {"error", "skip"}
            See :func:`~thoraxlib.datasets.files.existing`.
        chosen : mapping of str to object
            Options that selected the rows, for messages.
        names : sequence of str, optional
            Name of the image file of each of `rows`; by default the id.
        where : Path, optional
            The folder of the images, for messages; by default the root.

        Returns
        -------
        NDArray
            The rows that are kept.
        """
        names = [columns["ids"][row] for row in rows] if names is None else names
        kept = existing(names, files, missing, where or self.root, **chosen)
        self._paths = [files[names[position]] for position in kept]
        rows = rows[kept]
        for name, column in columns.items():
            setattr(self, name, [column[row] for row in rows])
        return rows

    def _set_targets(self, targets: NDArray[np.float32] | Tensor, cause: str) -> None:
        """Set the targets; warn with `cause` if no label of any image is known: training would learn nothing."""
        self.targets = torch.as_tensor(targets)
        if self.targets.numel() and bool(self.targets.isnan().all()):
            warnings.warn(
                f"{type(self).__name__}: all labels of the {len(self.ids)} images are unknown (NaN): {cause}",
                stacklevel=3,
            )

    def _sample(self, index: int) -> dict[str, Any]:
        """Return a sample before the transform."""
        image = self._paths[index]
        pixels = image.stand_in() if isinstance(image, CopiedImage) else self._read(index, image)
        return {"image": pixels, "labels": self.targets[index].clone(), "id": self.ids[index]}

    def _read(self, index: int, path: Path) -> tv_tensors.Image:
        """Read the pixels of an image file."""
        return read(path)
