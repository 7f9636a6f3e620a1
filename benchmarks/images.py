"""Films to model input: from 1024-px PNG files, and from a training copy, against the ways of the original codes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter
from torchvision import transforms

from benchmarks.timing import Row, pair
from thoraxlib import datasets, images
from thoraxlib.datasets.films import Films
from thoraxlib.input_spec import InputSpec

FILMS, SIDE = 12, 1024
SPEC = InputSpec(size=(224, 224))
MEAN, STD = np.array(SPEC.mean, np.float32)[:, None, None], np.array(SPEC.std, np.float32)[:, None, None]


def write_films(folder: Path) -> list[Path]:
    """Phantoms as PNG files of 0.4 megabytes, which those of NIH ChestX-ray14 have on average (112,120 in 45 GB)."""
    phantom = datasets.build("phantom", size=SIDE, length=FILMS, masks=False)
    folder.mkdir()
    paths = [folder / f"{number}.png" for number in range(FILMS)]
    for path, sample in zip(paths, phantom, strict=True):
        Image.fromarray(sample["image"][0].numpy()).filter(ImageFilter.GaussianBlur(1.1)).save(path)
    return paths


class Folder(Films):
    """Films without labels."""

    def __init__(self, folder: Path, names: list[str]) -> None:
        self.labels, self.transform = (), images.transform_for(SPEC)
        self.ids, self.patient_ids = names, names
        self.targets = torch.zeros(len(names), 0)
        self._paths = [folder / name for name in names]


def epoch(dataset: Films) -> torch.Tensor:
    return datasets.collate([dataset[index] for index in range(len(dataset))])["image"]


def with_pillow(paths: list[Path]) -> Callable[[], torch.Tensor]:
    """As arnoweng, zoogzog, jrzech and the PadChest/OpenI seed read their films."""
    chain = transforms.Compose(
        [transforms.Resize(SPEC.size), transforms.ToTensor(), transforms.Normalize(SPEC.mean, SPEC.std)]
    )
    return lambda: torch.stack([chain(Image.open(path).convert("RGB")) for path in paths])


def with_scikit_image(paths: list[Path]) -> Callable[[], torch.Tensor]:
    """As torchxrayvision does: scikit-image decodes, and resizes in floating point."""
    from skimage.io import imread
    from skimage.transform import resize

    def one(path: Path) -> torch.Tensor:
        small = resize(imread(path), SPEC.size, mode="constant", preserve_range=True).astype(np.float32)
        return torch.from_numpy((small[None] / 255 - MEAN) / STD)

    return lambda: torch.stack([one(path) for path in paths])


def check(ours: torch.Tensor, theirs: torch.Tensor, levels: float) -> None:
    worst = ((ours - theirs).abs() * torch.from_numpy(STD)).max().item() * 255
    if worst > levels:
        raise RuntimeError(f"the two ways disagree by {worst:.2f} grey levels: there is nothing to compare")


def run() -> Iterator[Row]:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        paths = write_films(Path(folder, "films"))
        names = [path.name for path in paths]
        megabytes = sum(path.stat().st_size for path in paths) / len(paths) / 1e6
        conditions = f"{FILMS} PNG of {SIDE} px, {megabytes:.2f} MB each, to {SPEC.size[0]} px, one process, 1 thread"
        films = Folder(Path(folder, "films"), names)
        plain, skimage = with_pillow(paths), with_scikit_image(paths)
        check(epoch(films), plain(), 1.01)
        yield Row(
            "films to input", "Pillow (RGB) + torchvision v1", pair(lambda: epoch(films), plain, 15), 0.8, conditions
        )
        ratios = pair(lambda: epoch(films), skimage, 7)
        yield Row("films to input", "scikit-image", ratios, 1 / 3, conditions)

        spec = InputSpec(size=SPEC.size, resize="stretch")
        images.prepare(Path(folder, "films"), Path(folder, "copy"), spec=spec, workers=0, progress=False)
        copy = Folder(Path(folder, "copy"), names)
        check(epoch(copy), epoch(films), 1.01)
        ratios = pair(lambda: epoch(copy), plain, 15)
        yield Row("epoch from a training copy", "Pillow (RGB) + torchvision v1", ratios, None, conditions)
        ratios = pair(lambda: epoch(copy), lambda: epoch(films), 15)
        yield Row("epoch from a training copy", "films to input, ours", ratios, 1 / 30, conditions)
