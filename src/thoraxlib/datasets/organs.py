"""Organ masks from files, for any data set."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from thoraxlib.datasets.base import ChestDataset
from thoraxlib.datasets.files import StrPath, check_root
from thoraxlib.datasets.splits import Subset
from thoraxlib.images.pictures import decode
from thoraxlib.images.reading import SUFFIXES
from thoraxlib.utils.arguments import few
from thoraxlib.utils.files import below, open_regular


def mask_path(folder: StrPath, name: str) -> str:
    """Return the path of an image's mask file: its id without extension, with ``_`` for slashes."""
    flat = name.replace("/", "_").replace("\\", "_")
    stem, ending = os.path.splitext(flat)
    return os.path.join(folder, below(f"{stem if ending.lower() in SUFFIXES else flat}.png", "the ids of images"))


def read_mask(path: Path, size: Sequence[int]) -> tv_tensors.Mask:
    """Read a mask as uint8 (1, H, W), 1 where the file is not 0, resized to `size` (nearest neighbour)."""
    with open_regular(path) as file:
        image = decode(file, path)
    pixels = torch.frombuffer(bytearray(image.convert("L").tobytes()), dtype=torch.uint8)
    mask = tv_tensors.Mask((pixels > 0).to(torch.uint8).view(1, image.height, image.width))
    resized: tv_tensors.Mask = mask if tuple(mask.shape[-2:]) == tuple(size) else F.resize(mask, list(size))
    return resized


class WithOrganMasks(Subset):
    """A data set whose samples also have ``organ_mask``, uint8 (1, H, W): 1 where the mask file is not 0.

    Models that fuse organ masks use it in training and prediction instead of running their segmenter, which takes much
    longer than the rest of the model. :func:`thoraxlib.segmentation.predict_masks` writes such files; masks of public
    collections can be used too, if they have these names. A mask of another size is resized (nearest neighbour).

    Parameters
    ----------
    dataset : ChestDataset
        The images.
    folder : path
        A file ``<id>.png`` for every image, without the id's own extension and with ``_`` for slashes.

    Raises
    ------
    FileNotFoundError, NotADirectoryError
        The folder does not exist, or images have no mask file; the message has their number and the first names.
    """

    def __init__(self, dataset: ChestDataset, folder: StrPath) -> None:
        super().__init__(dataset, range(len(dataset)))
        self.targets, self.transform = dataset.targets, getattr(dataset, "transform", None)
        root = check_root(folder, "folder")
        self._masks = [mask_path(root, name) for name in self.ids]
        existing = set(os.listdir(root))
        lacking = [
            name for name, path in zip(self.ids, self._masks, strict=True) if os.path.basename(path) not in existing
        ]
        if lacking:
            raise FileNotFoundError(
                f"{len(lacking)} of {len(self.ids)} images have no mask in {root}: {few(lacking, 5)}; write them with "
                "thoraxlib.segmentation.predict_masks"
            )

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = super().__getitem__(index)
        return {**sample, "organ_mask": read_mask(Path(self._masks[index]), sample["image"].shape[-2:])}
