"""What every data set of the library offers."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from torch import Tensor

#: Attributes that a data set may have beside those of :class:`ChestDataset`, with an entry for each image: lists or
#: tensors.
OF_EACH = ("boxed", "region_targets", "region_present", "region_boxes", "study_ids", "views", "sizes", "file_names")
#: And those of all images together.
OF_ALL = ("region_names", "mask_names")


@runtime_checkable
class ChestDataset(Protocol):
    """A map-style data set of samples, with what is known without decoding an image.

    A sample is a dict with ``image`` (``tv_tensors.Image``, (1, H, W), uint8 or float32 in [0, 1]), ``labels``
    (float32 (K,): 1, 0, or NaN for unknown), ``id`` (str), and where they exist ``boxes`` (float32 (B, 4): x1, y1, x2,
    y2 in pixels of the sample's image, x2 and y2 exclusive) with ``box_labels`` (int64 (B,), index into `labels`) and
    ``masks`` (uint8 (M, H, W)).

    Where a data set has ``region_names``, R names, samples also have ``regions`` (boxes (R, 4), row r is
    ``region_names[r]``, 0 0 0 0 for an absent region), ``present`` (bool (R,)) and ``region_labels`` (float32 (R, K):
    1, 0 or NaN, NaN for absent regions). If these are known without decoding, the data set has ``region_present``
    (N, R) and ``region_targets`` (N, R, K).

    Attributes
    ----------
    labels : tuple of str
        Names of the K labels.
    targets : Tensor
        float32 (N, K): 1, 0, or NaN.
    patient_ids : list of str
        For each image; images of one patient share it.
    ids : list of str
        For each image.
    """

    labels: tuple[str, ...]
    targets: Tensor
    patient_ids: list[str]
    ids: list[str]

    def __len__(self) -> int:
        """Number of images."""
        ...

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One sample."""
        ...
