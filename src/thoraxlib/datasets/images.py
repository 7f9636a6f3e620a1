"""What the readers of releases share: images in files, with labels that are known beforehand."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors

from thoraxlib.images import read
from thoraxlib.images.copies import CopiedImage, ImageFile


class ImageDataset(Dataset[dict[str, Any]]):
    """A :class:`~thoraxlib.datasets.ChestDataset` of image files; a reader sets the attributes.

    Where an image is in a training copy, the sample is worked out for a stand-in of the image's own size, and then
    placed in the copy's image.
    """

    labels: tuple[str, ...]
    targets: Tensor
    patient_ids: list[str]
    ids: list[str]
    transform: Callable[[dict[str, Any]], dict[str, Any]] | None
    _paths: list[ImageFile]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = self._sample(index)
        image = self._paths[index]
        if isinstance(image, CopiedImage):
            sample = image.placed(sample)
        return sample if self.transform is None else self.transform(sample)

    def warn_unknown(self, cause: str) -> None:
        """Warn where no label of any image is known: training on them would learn nothing."""
        if self.targets.numel() and bool(self.targets.isnan().all()):
            warnings.warn(
                f"{type(self).__name__}: all labels of the {len(self.ids)} images are unknown (NaN): {cause}",
                stacklevel=3,
            )

    def _sample(self, index: int) -> dict[str, Any]:
        """One sample before the transform; readers with boxes or masks add them."""
        image = self._paths[index]
        pixels = image.stand_in() if isinstance(image, CopiedImage) else self._read(index, image)
        return {"image": pixels, "labels": self.targets[index].clone(), "id": self.ids[index]}

    def _read(self, index: int, path: Path) -> tv_tensors.Image:
        """Read the pixels of an image's file; readers that know its depth or window say so here."""
        return read(path)
