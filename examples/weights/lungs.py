"""Train "lungs-small", the segmenter of both lungs that is part of the package: about half an hour on one CPU core.

``--root`` is a folder with ``images``, ``masks`` (1 and 2: the lungs), ``ignore`` (not 0: pixels to leave out) and
``manifest.csv`` (columns file, split, patient): 67 radiographs of COVID-19 patients from the Hannover COVID-19 image
repository (doi 10.25835/0090041) and other CC BY sources, with the masks of the V7 COVID-19 X-ray dataset.

    python examples/weights/lungs.py --root lungs_adult --cross-validate      # settings, within `train`
    python examples/weights/lungs.py --root lungs_adult --output lungs-small  # train; score `val` once
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import thoraxlib
from thoraxlib import datasets, losses, segmentation
from thoraxlib.datasets.splits import split_patients
from thoraxlib.images import read
from thoraxlib.metrics.intervals import bootstrap_mean
from thoraxlib.segmentation import dice_score

SIDE = 128  # of training images
STORED = 208  # images are kept a little larger, so that a zoom shows more detail
FOLDS = 3


class Images:
    """Images of a part: originals for scoring, and padded squares of one size for training.

    Masks are 1 in the lungs, 0 elsewhere, and NaN where the annotators left pixels out: losses skip NaN.
    """

    def __init__(self, root: Path, part: str) -> None:
        with open(root / "manifest.csv", newline="", encoding="utf-8") as file:
            rows = {Path(row["file"]).stem: row for row in csv.DictReader(file)}
        pairs = datasets.build("image_mask", root=root, classes=["one", "other"], images="images", masks="masks")
        self.originals, self.masks, self.patients = [], [], []
        for index in [n for n, name in enumerate(pairs.ids) if rows[name]["split"] == part]:
            sample, row = pairs[index], rows[pairs.ids[index]]
            mask = sample["masks"].as_subclass(Tensor).amax(dim=0, keepdim=True).float()
            if (left_out := root / "ignore" / row["file"]).exists():
                mask[read(left_out).as_subclass(Tensor) > 0] = torch.nan
            self.originals.append(sample["image"].as_subclass(Tensor).float() / 255)
            self.masks.append(mask)
            self.patients.append(row["patient"])
        squares = [_square(image, mask) for image, mask in zip(self.originals, self.masks, strict=True)]
        self.squares = torch.stack(squares)

    def of(self, patients: Iterable[str]) -> list[int]:
        """Numbers of the images of these patients."""
        wanted = set(patients)
        return [n for n, patient in enumerate(self.patients) if patient in wanted]


def _square(image: Tensor, mask: Tensor) -> Tensor:
    """Image, mask, and pixels that are left out, (3, STORED, STORED), with a black border where needed."""
    both = torch.cat([image, mask.nan_to_num(0), mask.isnan().float()])
    height, width = (max(1, round(side * STORED / max(image.shape))) for side in image.shape[1:])
    small = F.interpolate(both[None], (height, width), mode="bilinear", antialias=True)[0]
    top, left = (STORED - height) // 2, (STORED - width) // 2
    return F.pad(small, (left, STORED - width - left, top, STORED - height - top))


class Augment:
    """Random changes of a batch (N, 3, h, w) as from :func:`_square`; returns images and masks (N, 1, SIDE, SIDE).

    "light": small rotation, shift, zoom and contrast. "strong": other hospitals, too: large zoom, aspect, gamma, bias
    field, blur, noise, collimation, letters, opacities in the lungs. "mixed": three of eight images light, the others
    strong.
    """

    def __init__(self, kind: str, seed: int) -> None:
        self.kind, self.strong, self.random = kind, kind != "light", torch.Generator().manual_seed(seed)

    def uniform(self, n: int, low: float, high: float) -> Tensor:
        return torch.rand(n, 1, 1, 1, generator=self.random) * (high - low) + low

    def chance(self, n: int, p: float) -> Tensor:
        return torch.rand(n, 1, 1, 1, generator=self.random) < p

    def __call__(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        if self.kind != "mixed":
            return self.change(batch)
        lightly = len(batch) * 3 // 8
        parts = []
        for self.strong, part in ((False, batch[:lightly]), (True, batch[lightly:])):
            parts.append(self.change(part))
        return torch.cat([image for image, _ in parts]), torch.cat([mask for _, mask in parts])

    def change(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        image, mask, ignored = self.geometry(batch).split(1, dim=1)
        image = self.greys(image)
        if self.strong:
            image = self.opacities(image, mask)
            image = self.detectors(image)
            image, mask = self.borders(image, mask)
        return image.clamp(0, 1), torch.where(ignored > 0.5, torch.nan, (mask > 0.5).float())

    def geometry(self, batch: Tensor) -> Tensor:
        n, far = len(batch), 1.0 if self.strong else 0.4
        angle = self.uniform(n, -0.3, 0.3).flatten() * far
        zoom = torch.exp(self.uniform(n, -0.35, 0.45).flatten() * far)  # below 1: a part of the image
        aspect = torch.exp(self.uniform(n, -0.15, 0.15).flatten() * far)
        flip = torch.where(self.chance(n, 0.5).flatten() & self.strong, -1.0, 1.0)
        shift = (torch.rand(n, 2, generator=self.random) - 0.5) * 0.3 * far
        cos, sin = torch.cos(angle), torch.sin(angle)
        rows = [
            cos * zoom * aspect * flip,
            -sin * zoom,
            shift[:, 0],
            sin * zoom * flip,
            cos * zoom / aspect,
            shift[:, 1],
        ]
        grid = F.affine_grid(torch.stack(rows, dim=1).view(n, 2, 3), [n, 3, SIDE, SIDE], align_corners=False)
        moved = F.grid_sample(batch, grid, align_corners=False)
        if not self.strong:
            return moved
        stretched = F.grid_sample(batch, grid, padding_mode="border", align_corners=False)
        whole = self.chance(n, 0.3)
        return torch.cat([torch.where(whole, stretched[:, :1], moved[:, :1]), moved[:, 1:]], dim=1)

    def greys(self, image: Tensor) -> Tensor:
        n, far = len(image), 1.0 if self.strong else 0.3
        image = image.clamp(1e-4, 1) ** torch.exp(self.uniform(n, -0.8, 0.8) * far)
        image = (image - 0.5) * torch.exp(self.uniform(n, -0.6, 0.5) * far) + 0.5 + self.uniform(n, -0.2, 0.2) * far
        if self.strong:
            coarse = torch.randn(n, 1, 3, 3, generator=self.random) * 0.12 * self.chance(n, 0.5)
            image = image + F.interpolate(coarse, image.shape[-2:], mode="bicubic")
        return image

    def opacities(self, image: Tensor, mask: Tensor) -> Tensor:
        """Whiten soft spots: consolidations and effusions do not change where the lung is."""
        n = len(image)
        spots = torch.randn(n, 1, 6, 6, generator=self.random).relu() * self.uniform(n, 0, 0.35)
        spots = F.interpolate(spots, image.shape[-2:], mode="bicubic").clamp(min=0) * self.chance(n, 0.35)
        return image + spots * mask * (0.9 - image).clamp(min=0)

    def detectors(self, image: Tensor) -> Tensor:
        """Blur or sharpen, and add noise."""
        n = len(image)
        blurred = F.avg_pool2d(F.pad(image, (2, 2, 2, 2), mode="replicate"), 5, stride=1)
        image = image + (blurred - image) * self.uniform(n, -1.0, 1.0) * self.chance(n, 0.5)
        noise = torch.randn(image.shape, generator=self.random) * self.uniform(n, 0, 0.08) * self.chance(n, 0.5)
        return image + noise

    def borders(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Collimate: dark or white strips at the sides, without lungs; and paint letters as small white blocks."""
        n, side = len(image), image.shape[-1]
        for axis in (2, 3):
            position = torch.arange(side).view((1, 1, -1, 1) if axis == 2 else (1, 1, 1, -1))
            for at in (position, side - 1 - position):
                width = self.uniform(n, 0, 0.14) * side * self.chance(n, 0.2)
                value = torch.where(self.chance(n, 0.8), self.uniform(n, 0, 0.08), self.uniform(n, 0.8, 1))
                image, mask = torch.where(at < width, value, image), torch.where(at < width, 0.0, mask)
        row, column = torch.arange(side).view(1, 1, -1, 1), torch.arange(side).view(1, 1, 1, -1)
        for _ in range(3):
            y, x = self.uniform(n, 0, side), self.uniform(n, 0, side)
            inside = ((row - y).abs() < self.uniform(n, 1, 5)) & ((column - x).abs() < self.uniform(n, 1, 8))
            image = torch.where(inside & self.chance(n, 0.25), self.uniform(n, 0.7, 1), image)
        return image, mask


def train(images: Images, chosen: Sequence[int], *, kind: str, standardize: bool, steps: int, seed: int) -> nn.Module:
    """Train the network from scratch on the chosen images, with AdamW and a one-cycle schedule."""
    torch.manual_seed(seed)
    model = segmentation.build("lungs-small", in_chans=1, pretrained=False)
    if not standardize:
        model.standardize = nn.Identity()
    model = model.to(memory_format=torch.channels_last).train()
    augment, loss = Augment(kind, seed), losses.build("dice_bce", per_class=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps, pct_start=0.15)
    order: list[int] = []
    for step in range(steps):
        if len(order) < 8:
            order += [chosen[n] for n in torch.randperm(len(chosen), generator=augment.random).tolist()]
        batch, order = order[:8], order[8:]
        image, mask = augment(images.squares[batch])
        image = image.contiguous(memory_format=torch.channels_last)
        value = loss(model(image), torch.cat([1 - mask, mask], dim=1))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        schedule.step()
        if step % 50 == 49:
            print(f"  step {step + 1} of {steps}: loss {value.item():.4f}", flush=True)
    return model.eval()


@torch.inference_mode()
def dice(model: nn.Module, images: Sequence[Tensor], masks: Sequence[Tensor]) -> Tensor:
    """Dice (N,) of each image at its own size, without the pixels that were left out."""
    scores = []
    for image, mask in zip(images, masks, strict=True):
        known = ~mask.isnan()
        found = (model(image[None]).argmax(dim=1) > 0) & known
        scores.append(dice_score(found.float(), mask.nan_to_num(0)))
    return torch.cat(scores)


def cross_validate(images: Images, steps: int) -> None:
    """Print the Dice of held-out patients' images as they are, and changed as another hospital might."""
    folds = split_patients(images.patients, {str(n): 1 / FOLDS for n in range(FOLDS)}, seed=0)
    settings = [("mixed", True), ("strong", True), ("strong", False), ("light", True)]
    for kind, standardize in settings:
        plain, changed = [], []
        for held in folds.values():
            held = list(held)
            others = [n for n in range(len(images.patients)) if n not in set(held)]
            model = train(images, others, kind=kind, standardize=standardize, steps=steps, seed=0)
            plain.append(dice(model, [images.originals[n] for n in held], [images.masks[n] for n in held]))
            altered = Augment("strong", 1)
            for _ in range(4):
                changed.append(dice(model, *altered(images.squares[held])))
        print(
            f"augmentation {kind}, standardised {standardize}: Dice {torch.cat(plain).mean():.4f}, "
            f"changed images {torch.cat(changed).nanmean():.4f}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--output", type=Path, help="folder of the trained segmenter")
    parser.add_argument("--cross-validate", action="store_true", help="compare settings on patients of train")
    parser.add_argument("--augmentation", choices=("mixed", "strong", "light"), default="mixed")
    parser.add_argument("--steps", type=int, help="default 800, and 160 to cross-validate")
    options = parser.parse_args()
    images = Images(options.root, "train")
    print(f"train: {len(images.patients)} images of {len(set(images.patients))} patients")
    if options.cross_validate:
        cross_validate(images, options.steps or 160)
        return
    everyone = range(len(images.patients))
    model = train(images, everyone, kind=options.augmentation, standardize=True, steps=options.steps or 800, seed=0)
    # the file has half precision: score what it holds
    if options.output:
        thoraxlib.save_pretrained(model.half(), options.output)
    model = model.half().float()
    val = Images(options.root, "val")
    scores = dice(model, val.originals, val.masks)
    owners = {name: [n for n, each in enumerate(val.patients) if each == name] for name in val.patients}
    interval = bootstrap_mean(scores[:, None].numpy(), patient_ids=val.patients)
    print(f"val: {len(scores)} images of {len(owners)} patients, Dice {interval.beside(scores.mean()[None])[0]}")
    print("each patient: " + ", ".join(f"{name} {scores[at].mean():.3f}" for name, at in owners.items()))


if __name__ == "__main__":
    main()
