"""Images with organ masks, in two folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torchvision import tv_tensors

from thoraxlib.datasets.base import ImageDataset, Transform
from thoraxlib.datasets.files import StrPath, check_root
from thoraxlib.images.pictures import decode
from thoraxlib.images.reading import SUFFIXES
from thoraxlib.utils.arguments import few, one_of
from thoraxlib.utils.files import open_regular

_SUFFIXES = (*SUFFIXES, ".bmp", ".gif")


class ImageMask(ImageDataset):
    """Images with organ masks, from a label image for each image: a grey value or palette entry stands for an organ.

    This is the layout of ChestHeart in QUST-SmartData/CXRClassification (``root="train"``, ``pair="order"``, two
    classes) and, with the right options, of most public sets of lung and heart masks.

    Parameters
    ----------
    root : path
        The folder of the other two folders.
    classes : sequence of str, or mapping of str to int
        The organs: with values 1, 2, ... in this order, or by name and value, such as ``{"lungs": 255}``. Value 0 is
        background, which has a mask only if it is named.
    images, masks : str
        Folders in `root`; "." is `root` itself. Their subfolders are not searched.
    pair : {"name", "order"}
        Pair images and masks by name without extension, or by their position in the sorted names.
    suffix : str
        Suffix of a mask's name after the image's name, such as "_mask" for ``12.jpg`` and ``12_mask.png``; for
        ``pair="name"``. Other files in the folder of masks are ignored.
    transform : callable, optional
        From sample to sample, e.g. :func:`thoraxlib.images.transform_for`, which resizes masks by nearest neighbour.

    Attributes
    ----------
    mask_names : tuple of str
        The M organs of ``masks``, uint8 (M, H, W), 0 and 1. A mask that differs in size from its image is resized
        (nearest neighbour).
    ids : list of str
        Names of the images, without extension.
    labels, targets, patient_ids
        See :class:`~thoraxlib.datasets.ChestDataset`: no labels, (N, 0); each image is its own patient.

    Raises
    ------
    FileNotFoundError, NotADirectoryError
        A folder is missing, or has no image.
    ValueError
        Classes are wrong, images and masks do not pair, or two files have one name. For a sample: a mask is coloured,
        has a value of no class, or differs in shape from the image.

    Examples
    --------
    >>> import tempfile
    >>> from PIL import Image
    >>> from thoraxlib.datasets import build
    >>> root = Path(tempfile.mkdtemp())
    >>> for folder, value in (("image", 90), ("label", 1)):
    ...     (root / folder).mkdir()
    ...     Image.new("L", (4, 3), value).save(root / folder / "a.png")
    >>> sample = build("image_mask", root=root, classes=["lungs", "heart"])[0]
    >>> sample["masks"].shape, sample["masks"].sum(dim=(1, 2)).tolist()
    (torch.Size([2, 3, 4]), [12, 0])
    """

    def __init__(
        self,
        *,
        root: StrPath,
        classes: Sequence[str] | Mapping[str, int],
        images: str = "image",
        masks: str = "label",
        pair: str = "name",
        suffix: str = "",
        transform: Transform | None = None,
    ) -> None:
        super().__init__(root, transform=transform)
        self._classes = _by_value(classes)
        self.mask_names: tuple[str, ...] = tuple(self._classes)
        folders = check_root(self.root / images, "images"), check_root(self.root / masks, "masks")
        one_of("pair", pair, ("name", "order"))
        pairs = _by_name(*folders, suffix) if pair == "name" else _by_order(*folders, suffix)
        self._paths, self._masks = [image for image, _ in pairs], [mask for _, mask in pairs]
        self.ids = [image.stem for image, _ in pairs]
        self.patient_ids = list(self.ids)
        self.targets = torch.zeros(len(self.ids), 0)

    def _sample(self, index: int) -> dict[str, Any]:
        sample, path = super()._sample(index), self._masks[index]
        masks, size = _one_hot(path, self._classes), sample["image"].shape[-2:]
        (h, w), (height, width) = masks.shape[-2:], size
        if abs(h * width - w * height) > max(height, width):  # sides may differ by rounding
            raise ValueError(
                f"{path} has {w} x {h} pixels, its image {self._paths[index]} {width} x {height}: of another shape"
            )
        if (h, w) != (height, width):
            masks = F.interpolate(masks[None], size=(height, width), mode="nearest-exact")[0]
        return {**sample, "masks": tv_tensors.Mask(masks)}


def _by_value(classes: Sequence[str] | Mapping[str, int]) -> dict[str, int]:
    """Return the value of each class, by name."""
    if isinstance(classes, Mapping):
        named = dict(classes)
    else:
        named = {} if isinstance(classes, str) else {name: value for value, name in enumerate(classes, start=1)}
    whole = all(isinstance(value, int) and 0 <= value <= 65535 for value in named.values())
    if not named or not whole or len(set(named.values())) < max(len(named), len(classes)):
        raise ValueError(
            f"classes must be names, or names with values from 0 to 65535, none of them twice; got {classes!r}"
        )
    return named


def _files(folder: Path) -> list[Path]:
    """List the image files of a folder, sorted by name."""
    files = [path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES and not path.name.startswith(".")]
    if not files:
        raise FileNotFoundError(f"no image ({', '.join(_SUFFIXES)}) in {folder}")
    return sorted(files)


def _by_order(images: Path, masks: Path, suffix: str) -> list[tuple[Path, Path]]:
    if suffix or images == masks:
        raise ValueError("pair='order' needs two folders and no suffix; pair='name' takes one")
    image_files, mask_files = _files(images), _files(masks)
    if len(image_files) != len(mask_files):
        raise ValueError(f"pair='order': {len(image_files)} images in {images}, but {len(mask_files)} masks in {masks}")
    return list(zip(image_files, mask_files, strict=True))


def _by_name(images: Path, masks: Path, suffix: str) -> list[tuple[Path, Path]]:
    if images == masks and not suffix:
        raise ValueError(f"images and masks are both in {images}: suffix is needed to tell them apart")
    mask_of = {path.stem.removesuffix(suffix): path for path in _unique(masks) if path.stem.endswith(suffix)}
    image_of = {path.stem: path for path in _unique(images) if images != masks or not path.stem.endswith(suffix)}
    unpaired = {
        "images without mask": sorted(image_of.keys() - mask_of.keys()),
        "masks without image": sorted(mask_of.keys() - image_of.keys()),
    }
    if any(unpaired.values()) or not image_of:
        lists = [f"{len(names)} {what} ({few(names, 5)})" for what, names in unpaired.items() if names]
        raise ValueError(
            f"{images} and {masks} do not pair by name with suffix={suffix!r}: {'; '.join(lists) or 'no image'}"
        )
    return [(image, mask_of[name]) for name, image in image_of.items()]


def _unique(folder: Path) -> list[Path]:
    files: dict[str, Path] = {}
    for path in _files(folder):
        if files.setdefault(path.stem, path) is not path:
            raise ValueError(f"{folder}: {files[path.stem].name} and {path.name} have one name")
    return list(files.values())


def _one_hot(path: Path, classes: Mapping[str, int]) -> Tensor:
    """Read a label image as masks, uint8 (M, H, W)."""
    values = _values(path)
    odd = np.unique(values[~np.isin(values, [0, *classes.values()])])
    if len(odd):
        known = ", ".join(f"{value} {name}" for name, value in {"background": 0, **classes}.items())
        raise ValueError(f"{path}: the values {', '.join(map(str, odd[:5]))} belong to no class; known: {known}")
    return torch.from_numpy(np.stack([values == value for value in classes.values()]).astype(np.uint8))


def _values(path: Path) -> NDArray[np.generic]:
    """Read the stored values (H, W) of a label image: grey of any depth, or palette entries."""
    with open_regular(path) as file:
        image = decode(file, path)
    if image.mode in ("1", "L", "P", "I") or image.mode.startswith("I;16"):
        return np.array(image)
    channels = np.array(image.convert("RGB"))
    if image.mode == "F" or not (channels == channels[..., :1]).all():
        raise ValueError(f"{path}: a label image must be grey, or have a palette; got mode {image.mode} with colours")
    return channels[..., 0]
