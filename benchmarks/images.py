"""Compare image input, from 1024-px PNG files and from a training copy, with the code of other repositories."""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFilter
from torchvision import transforms

import thoraxlib
from benchmarks.timing import Row, compare, optional
from thoraxlib import datasets, images
from thoraxlib.datasets.base import ImageDataset
from thoraxlib.images.copies import CopiedImage, ImageFile, TrainingCopy
from thoraxlib.input_spec import InputSpec
from thoraxlib.training import DataModule

PACKAGES = ("torchvision", "pillow", "numpy", "scikit-image")
IMAGES, SIDE = 12, 1024
SPEC = InputSpec(size=(224, 224))
MEAN, STD = np.array(SPEC.mean, np.float32)[:, None, None], np.array(SPEC.std, np.float32)[:, None, None]


def write_images(folder: Path, smooth: bool) -> list[Path]:
    """Write synthetic images as PNG files.

    Smooth ones have 0.4 MB, the mean size in NIH ChestX-ray14, and PNG rows of type Paeth, the slowest for Pillow:
    there the decoder, which both sides share, takes most of the time.
    """
    synthetic = datasets.build("synthetic", size=SIDE, length=IMAGES, masks=False)
    folder.mkdir()
    paths = [folder / f"{number}.png" for number in range(IMAGES)]
    for path, sample in zip(paths, synthetic, strict=True):
        image = Image.fromarray(sample["image"][0].numpy())
        (image.filter(ImageFilter.GaussianBlur(1.1)) if smooth else image).save(path)
    return paths


class Unlabelled(ImageDataset):
    """Images without labels."""

    def __init__(self, files: list[ImageFile]) -> None:
        self.labels, self.transform = (), None
        self.ids = self.patient_ids = [str(file) for file in files]
        self.targets = torch.zeros(len(files), 0)
        self._paths = files


def epoch(files: list[ImageFile]) -> Callable[[], torch.Tensor]:
    """Return a function that reads an epoch in batches, each image four times, and returns the last batch."""
    dataset = Unlabelled(4 * files)
    data = DataModule(dataset, dataset, batch_size=len(files), eval_transform=images.transform_for(SPEC))
    loader = data.val_dataloader()
    return lambda: deque(loader, maxlen=1)[0]["image"]


def with_pillow(paths: list[Path]) -> Callable[[], torch.Tensor]:
    """Return a function that reads images as arnoweng, zoogzog, jrzech and jaydurant do."""
    chain = transforms.Compose(
        [transforms.Resize(SPEC.size), transforms.ToTensor(), transforms.Normalize(SPEC.mean, SPEC.std)]
    )
    return lambda: torch.stack([chain(Image.open(path).convert("RGB")) for path in paths])


def with_scikit_image(paths: list[Path]) -> Callable[[], torch.Tensor]:
    """Return a function that reads as torchxrayvision does: scikit-image decodes, and resizes in floating point."""
    from skimage.io import imread
    from skimage.transform import resize

    def one(path: Path) -> torch.Tensor:
        small = resize(imread(path), SPEC.size, mode="constant", preserve_range=True).astype(np.float32)
        return torch.from_numpy((small[None] / 255 - MEAN) / STD)

    return lambda: torch.stack([one(path) for path in paths])


def check(ours: torch.Tensor, theirs: torch.Tensor, levels: float) -> None:
    worst = ((ours - theirs).abs() * torch.from_numpy(STD)).max().item() * 255
    if worst > levels:
        raise RuntimeError(f"the outputs of the two implementations differ by {worst:.2f} grey levels")


def run(device: torch.device) -> Iterator[Row]:
    for smooth in (False, True):
        with tempfile.TemporaryDirectory() as folder:
            yield from to_input(Path(folder), smooth)


def to_input(folder: Path, smooth: bool) -> Iterator[Row]:
    paths = write_images(folder / "images", smooth)
    megabytes = sum(path.stat().st_size for path in paths) / len(paths) / 1e6
    conditions = f"{IMAGES} PNG of {SIDE} px, {megabytes:.2f} MB each, to {SPEC.size[0]} px"
    kind = "smooth images" if smooth else "images"
    preprocess, plain = images.preprocess_for(SPEC), with_pillow(paths)
    ours = lambda: preprocess(paths)  # noqa: E731
    check(ours(), plain(), 1.01)
    target = None if smooth else 0.8
    row = f"{kind} to input"
    yield compare(row, "Pillow (RGB) + torchvision v1", ours, plain, target=target, conditions=conditions, pairs=9)
    yield from optional(row, "scikit-image", _against_scikit_image(row, ours, paths, conditions))

    spec = InputSpec(size=SPEC.size, resize="stretch")
    thoraxlib.prepare(folder / "images", folder / "copy", spec=spec, num_workers=0, progress=False)
    copy = TrainingCopy(folder / "copy")
    from_copy, from_files = epoch([CopiedImage(copy, path.name) for path in paths]), epoch([*paths])
    check(from_copy(), from_files(), 1.01)
    row = f"{kind}: epoch from a training copy"
    reason = "reading the files is fast as well; a quarter of the time is writing the floats of the batch"
    goal = {"target": 1 / 30, "reason": reason}
    yield compare(row, "from the files", from_copy, from_files, **goal, conditions=conditions, pairs=5)


def _against_scikit_image(
    row: str, ours: Callable[[], torch.Tensor], paths: list[Path], conditions: str
) -> Iterator[Row]:
    peer = with_scikit_image(paths)
    yield compare(row, "scikit-image", ours, peer, target=1 / 3, conditions=conditions, pairs=5)
