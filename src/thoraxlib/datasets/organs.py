"""Any data set, with organ masks from files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from thoraxlib.datasets.base import OF_ALL, OF_EACH, ChestDataset
from thoraxlib.datasets.files import check_root
from thoraxlib.images.pictures import decode
from thoraxlib.images.reading import SUFFIXES
from thoraxlib.utils.files import below, open_regular


def mask_path(folder: str | os.PathLike[str], name: str) -> str:
    """The mask file of the image `name`: its id, less its extension, with ``_`` for slashes."""
    flat = name.replace("/", "_").replace("\\", "_")
    stem, ending = os.path.splitext(flat)
    return os.path.join(folder, below(f"{stem if ending.lower() in SUFFIXES else flat}.png", "the ids of images"))


class WithOrganMasks(Dataset[dict[str, Any]]):
    """A data set whose samples also have ``organ_mask``, uint8 (1, H, W): 1 where a mask file is not 0.

    Models with a fusion of organ masks take it in training and prediction instead of running their segmenter, which
    costs much more than all the rest. :func:`thoraxlib.segmentation.predict_masks` writes such files; those of public
    mask collections do as well, if they are named so. A mask of another size is resized (nearest).

    Parameters
    ----------
    dataset : ChestDataset
        The images.
    folder : path
        ``<id>.png`` for every image, without the id's own extension and with ``_`` for slashes.

    Raises
    ------
    FileNotFoundError, NotADirectoryError
        No such folder, or images without a mask file, with their number and the first names.
    """

    def __init__(self, dataset: ChestDataset, folder: str | os.PathLike[str]) -> None:
        root = check_root(folder, "folder")
        self.dataset = dataset
        self.labels, self.targets = dataset.labels, dataset.targets
        self.patient_ids, self.ids = dataset.patient_ids, dataset.ids
        self._paths = [mask_path(root, name) for name in self.ids]
        here = set(os.listdir(root))
        lost = [name for name, path in zip(self.ids, self._paths, strict=True) if os.path.basename(path) not in here]
        if lost:
            raise FileNotFoundError(
                f"{len(lost)} of {len(self.ids)} images have no mask in {root}: {', '.join(lost[:5])}; write them with "
                "thoraxlib.segmentation.predict_masks"
            )

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = dict(self.dataset[index])
        path = Path(self._paths[index])
        with open_regular(path) as file:
            image = decode(file, path)
        pixels = torch.frombuffer(bytearray(image.convert("L").tobytes()), dtype=torch.uint8)
        mask: Tensor = (pixels > 0).to(torch.uint8).view(1, image.height, image.width)
        size = list(sample["image"].shape[-2:])
        if list(mask.shape[-2:]) != size:
            mask = F.resize(tv_tensors.Mask(mask), size)
        return {**sample, "organ_mask": tv_tensors.Mask(mask)}

    def __getattr__(self, name: str) -> Any:
        if name in (*OF_ALL, *OF_EACH, "transform"):
            return getattr(self.dataset, name)
        raise AttributeError(name)
