"""What the readers of releases share: films in files, with labels that are known beforehand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors

from thoraxlib.images import read

__all__ = ["Films"]


class Films(Dataset[dict[str, Any]]):
    """A :class:`~thoraxlib.datasets.ChestDataset` of image files; a reader sets the attributes."""

    labels: tuple[str, ...]
    targets: Tensor
    patient_ids: list[str]
    ids: list[str]
    transform: Callable[[dict[str, Any]], dict[str, Any]] | None
    _paths: list[Path]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = self._sample(index)
        return sample if self.transform is None else self.transform(sample)

    def _sample(self, index: int) -> dict[str, Any]:
        """One sample before the transform; readers with boxes or masks add them."""
        return {"image": self._read(index), "labels": self.targets[index].clone(), "id": self.ids[index]}

    def _read(self, index: int) -> tv_tensors.Image:
        return read(self._paths[index])
