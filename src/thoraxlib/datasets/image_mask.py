"""A folder of images and a folder of organ masks."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torchvision import tv_tensors

from thoraxlib.datasets.files import check_root
from thoraxlib.datasets.images import ImageDataset
from thoraxlib.images.copies import ImageFile
from thoraxlib.images.pictures import decode
from thoraxlib.images.reading import SUFFIXES
from thoraxlib.utils.arguments import one_of
from thoraxlib.utils.files import open_regular

_SUFFIXES = (*SUFFIXES, ".bmp", ".gif", ".tif", ".tiff")


class ImageMask(ImageDataset):
    """Images with organ masks, one label image an image: a grey value, or palette entry, for each organ.

    The layout of ChestHeart in QUST-SmartData/CXRClassification (``root="train"``, ``pair="order"``, two classes), and,
    by its options, of most public sets of lung and heart masks.

    Parameters
    ----------
    root : path
        The folder that holds the other two.
    classes : sequence of str, or mapping of str to int
        The organs: of values 1, 2, ... in this order, or by name and value, such as ``{"lungs": 255}``. Value 0 is
        background, which has a mask only where it is named.
    images, masks : str
        Folders in `root`; "." is `root` itself. Their own subfolders are not looked into.
    pair : {"name", "order"}
        By name without extension; or the first of each folder, the second of each, and so on, by sorted names.
    suffix : str
        What a mask's name has behind the image's, such as "_mask" of ``12_mask.png`` for ``12.jpg``; for
        ``pair="name"``. Other files in the folder of masks are left alone.
    transform : callable, optional
        From sample to sample, e.g. :func:`thoraxlib.images.transform_for`, which resizes masks to nearest neighbours.

    Attributes
    ----------
    mask_names : tuple of str
        The M organs of ``masks``, uint8 (M, H, W), 0 and 1. A mask of another size than its image's is brought to it,
        to nearest neighbours.
    ids : list of str
        Names of the images, without extension.
    labels, targets, patient_ids
        See :class:`~thoraxlib.datasets.ChestDataset`: no labels, (N, 0); each image is a patient of its own.

    Raises
    ------
    FileNotFoundError, NotADirectoryError
        No such folder, or no image in it.
    ValueError
        Classes without name, with a value twice or below 0; images without mask or masks without image; two files of
        one name. For a sample: a mask that is coloured, holds another value than those of the classes, or is of another
        shape than the image.

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
        root: str | os.PathLike[str],
        classes: Sequence[str] | Mapping[str, int],
        images: str = "image",
        masks: str = "label",
        pair: str = "name",
        suffix: str = "",
        transform: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    ) -> None:
        self.root = check_root(root)
        self.transform = transform
        self._classes = _by_value(classes)
        self.mask_names: tuple[str, ...] = tuple(self._classes)
        folders = check_root(self.root / images, "images"), check_root(self.root / masks, "masks")
        one_of("pair", pair, ("name", "order"))
        pairs = _by_name(*folders, suffix) if pair == "name" else _by_order(*folders, suffix)
        self._paths = [image for image, _ in pairs]
        self._masks = [mask for _, mask in pairs]
        self.ids = [image.stem for image, _ in pairs]
        self.patient_ids = list(self.ids)
        self.labels = ()
        self.targets = torch.zeros(len(self.ids), 0)

    def _sample(self, index: int) -> dict[str, Any]:
        sample = super()._sample(index)
        masks = _one_hot(self._masks[index], self._classes)
        sample["masks"] = tv_tensors.Mask(_fitted(masks, sample["image"], self._masks[index], self._paths[index]))
        return sample


def _by_value(classes: Sequence[str] | Mapping[str, int]) -> dict[str, int]:
    """Value of each class, by name."""
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
    """Image files of a folder, by name."""
    files = [path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES and not path.name.startswith(".")]
    if not files:
        raise FileNotFoundError(f"no image ({', '.join(_SUFFIXES)}) in {folder}")
    return sorted(files)


def _by_order(images: Path, masks: Path, suffix: str) -> list[tuple[Path, Path]]:
    if suffix or images == masks:
        raise ValueError("pair='order' needs two folders and no suffix; pair='name' takes one")
    pictures, labels = _files(images), _files(masks)
    if len(pictures) != len(labels):
        raise ValueError(f"pair='order': {len(pictures)} images in {images}, but {len(labels)} masks in {masks}")
    return list(zip(pictures, labels, strict=True))


def _by_name(images: Path, masks: Path, suffix: str) -> list[tuple[Path, Path]]:
    if images == masks and not suffix:
        raise ValueError(f"images and masks are both in {images}: suffix is needed to tell them apart")
    labels = {path.stem.removesuffix(suffix): path for path in _unique(masks) if path.stem.endswith(suffix)}
    same = images == masks
    pictures = {path.stem: path for path in _unique(images) if not (same and path.stem.endswith(suffix))}
    lonely = {"images without mask": sorted(pictures.keys() - labels.keys()),
              "masks without image": sorted(labels.keys() - pictures.keys())}  # fmt: skip
    if any(lonely.values()) or not pictures:
        lists = [f"{len(names)} {what} ({', '.join(names[:5])}{', ...' * (len(names) > 5)})"
                 for what, names in lonely.items() if names]  # fmt: skip
        raise ValueError(
            f"{images} and {masks} do not pair by name with suffix={suffix!r}: {'; '.join(lists) or 'no image'}"
        )
    return [(image, labels[name]) for name, image in pictures.items()]


def _unique(folder: Path) -> list[Path]:
    files: dict[str, Path] = {}
    for path in _files(folder):
        if files.setdefault(path.stem, path) is not path:
            raise ValueError(f"{folder}: {files[path.stem].name} and {path.name} have one name")
    return list(files.values())


def _one_hot(path: Path, classes: Mapping[str, int]) -> Tensor:
    """Masks uint8 (M, H, W) of a label image."""
    values = _values(path)
    odd = np.unique(values[~np.isin(values, [0, *classes.values()])])
    if len(odd):
        known = ", ".join(f"{value} {name}" for name, value in {"background": 0, **classes}.items())
        raise ValueError(f"{path}: the values {', '.join(map(str, odd[:5]))} are those of no class; known: {known}")
    return torch.from_numpy(np.stack([values == value for value in classes.values()]).astype(np.uint8))


def _values(path: Path) -> NDArray[np.generic]:
    """The values (H, W) of a label image as they are stored: grey of any depth, or palette entries."""
    with open_regular(path) as file:
        image = decode(file, path)
    if image.mode in ("1", "L", "P", "I") or image.mode.startswith("I;16"):
        return np.array(image)
    channels = np.array(image.convert("RGB"))
    if image.mode == "F" or not (channels == channels[..., :1]).all():
        raise ValueError(f"{path}: a label image must be grey, or have a palette; got mode {image.mode} with colours")
    return channels[..., 0]


def _fitted(masks: Tensor, image: Tensor, path: Path, picture: ImageFile) -> Tensor:
    """Masks of the image's size; shapes may differ by a pixel's rounding."""
    (h, w), (height, width) = masks.shape[-2:], image.shape[-2:]
    if (h, w) == (height, width):
        return masks
    if abs(h * width - w * height) > max(height, width):
        raise ValueError(f"{path} has {w} x {h} pixels, its image {picture} {width} x {height}: of another shape")
    return F.interpolate(masks[None], size=(height, width), mode="nearest-exact")[0]
