"""Train ``view-small``, the check of view, rotation, inversion and sex that is part of the package.

    python examples/weights/view.py --root nih_mini --more nih_tiny64 --output view-small           # train, score val
    python examples/weights/view.py --root nih_mini --output view-small --score dev_multi           # once, at the end
    python examples/weights/view.py --outside lungs_adult --output view-small                       # other hospitals

`root` and `more` are folders of NIH ChestX-ray14: ``images``, ``labels.csv`` (the release's table) and
``splits/train.txt``, ``val.txt``, ``dev_multi.txt``, one file name a line. `outside` is a folder with ``images`` and
``manifest.csv`` (columns file, patient, view, sex). Training turns, mirrors and inverts its images at random; for
scores, each image is turned in four ways, and each of these inverted. Mirroring changes no label: view-small does not
tell whether left and right are exchanged. Training takes about ten minutes of one CPU core.
"""

from __future__ import annotations

import argparse
import csv
import os
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

import thoraxlib
from thoraxlib import metrics, plotting
from thoraxlib.images import read, transform_for

# "Turned 90": the image is turned clockwise by 90 degrees
TURNS = ("Upright", "Turned 90", "Turned 180", "Turned 270")
LABELS = ("AP", "Female", "Inverted", *TURNS)
SIDE, CACHED = 96, 112  # pixels of the input, and of the images in memory: random crops keep their sharpness
# one block a stage, narrow: 0.57 million parameters, 2.5 ms an image for a step on one core
BACKBONE = {"name": "resnet10t", "layers": [1, 1, 1, 1], "channels": [24, 48, 96, 160], "stem_width": 16}
INPUT = {"size": SIDE, "mean": [0.5], "std": [0.25]}
# sex is by far the hardest, and rotation and inversion are learned in a few epochs
LOSS_WEIGHTS = torch.tensor([2.0, 5.0, 1.0, 1.0, 1.0, 1.0, 1.0])


class Part(NamedTuple):
    """Files, patients, and targets (N, 2) of AP and Female; NaN is unknown."""

    files: list[Path]
    patients: list[str]
    targets: Tensor


def nih(root: Path, *splits: str) -> Part:
    """Read the lists `splits` of a folder of NIH images."""
    chosen = {name for split in splits for name in (root / "splits" / f"{split}.txt").read_text().split()}
    with (root / "labels.csv").open(newline="") as table:
        rows = [row for row in csv.DictReader(table) if row["Image Index"] in chosen]
    targets = [[float(row["View Position"] == "AP"), float(row["Patient Gender"] == "F")] for row in rows]
    files = [root / "images" / row["Image Index"] for row in rows]
    return Part(files, [row["Patient ID"] for row in rows], torch.tensor(targets))


def outside(root: Path) -> Part:
    """Read a folder with ``manifest.csv``; views other than PA and AP, and missing sexes, are unknown."""
    with (root / "manifest.csv").open(newline="") as table:
        rows = list(csv.DictReader(table))
    known = {"PA": 0.0, "AP": 1.0, "AP Supine": 1.0}, {"M": 0.0, "F": 1.0}
    targets = [[known[0].get(row["view"], torch.nan), known[1].get(row["sex"], torch.nan)] for row in rows]
    return Part(
        [root / "images" / row["file"] for row in rows], [row["patient"] for row in rows], torch.tensor(targets)
    )


def joined(parts: list[Part]) -> Part:
    """Join parts; of images with the same name, the first stays."""
    files = [file for part in parts for file in part.files]
    first = {file.name: k for k, file in reversed(list(enumerate(files)))}
    kept = sorted(first.values())
    patients = [patient for part in parts for patient in part.patients]
    return Part(
        [files[k] for k in kept], [patients[k] for k in kept], torch.cat([part.targets for part in parts])[kept]
    )


def without_duplicates(part: Part, pixels: Tensor) -> tuple[Part, Tensor]:
    """Remove images whose pixels are those of an earlier image."""
    first: dict[bytes, int] = {}
    for k, image in enumerate(pixels):
        first.setdefault(image.numpy().tobytes(), k)
    kept = list(first.values())
    part = Part([part.files[k] for k in kept], [part.patients[k] for k in kept], part.targets[kept])
    return part, pixels[kept]


def augmented(pixels: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Turn pixels uint8 (N, 1, 112, 112) into inputs in [0, 1], (N, 1, 96, 96), and targets (N, 5) of `LABELS`' end.

    Other hospitals' images have other crops, borders, greys, noise and marks, so all of these change at random.
    """
    n = len(pixels)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(n, *(shape or (1, 1, 1)), generator=random)

    def happens(p: float) -> Tensor:
        return uniform(0, 1) < p

    angle, zoom, aspect = uniform(-0.15, 0.15, 1), uniform(-0.2, 0.15, 1).exp(), uniform(-0.12, 0.12, 1).exp()
    mirror = 1 - 2 * (uniform(0, 1, 1) < 0.5).float()
    cos, sin, shift = angle.cos() * zoom, angle.sin() * zoom, uniform(-0.1, 0.1, 2)
    rows = [
        torch.cat([cos * aspect * mirror, -sin, shift[:, :1]], 1),
        torch.cat([sin * mirror, cos / aspect, shift[:, 1:]], 1),
    ]
    grid = functional.affine_grid(torch.stack(rows, 1), [n, 1, SIDE, SIDE], align_corners=False)
    border = torch.where(happens(0.2), uniform(0, 1), torch.zeros(()))
    x = functional.grid_sample(pixels / 255 - border, grid, align_corners=False) + border
    x = x.clamp(0, 1) ** uniform(-0.5, 0.5).exp()
    x = (x - 0.5) * uniform(-0.4, 0.4).exp() + 0.5 + uniform(-0.1, 0.1)
    x = torch.where(happens(0.3), functional.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False), x)
    x = x + torch.randn(x.shape, generator=random) * uniform(0, 0.05) * happens(0.3)
    centre, half = uniform(0, 1, 2), uniform(0.03, 0.15, 2) * happens(0.3)[:, :, 0, 0]
    place = (torch.arange(SIDE) + 0.5) / SIDE
    inside = (place - centre[:, :, None]).abs() < half[:, :, None]  # a rectangle of one grey: no mark alone may decide
    x = torch.where(inside[:, None, 0, :, None] & inside[:, None, 1, None, :], uniform(0, 1), x).clamp(0, 1)
    inverted = happens(0.2)
    x = torch.where(inverted, 1 - x, x)
    turn = torch.randint(1, 4, (n,), generator=random) * happens(0.35).flatten()
    x = torch.stack([torch.rot90(image, -int(k), (1, 2)) for image, k in zip(x, turn, strict=True)])
    return x, torch.cat([inverted.flatten(1).float(), functional.one_hot(turn, 4).float()], 1)


def train(options: argparse.Namespace) -> None:
    """Train on the train lists with a fixed schedule, save the average of the weights as float16, and score val."""
    torch.manual_seed(options.seed)
    random = torch.Generator().manual_seed(options.seed)
    part = joined([nih(folder, "train") for folder in (options.root, *options.more)])
    held = {patient for split in ("val", "dev_multi", "dev_boxed") for patient in nih(options.root, split).patients}
    if shared := held & set(part.patients):
        raise ValueError(f"patients {sorted(shared)} are in the train lists and in val, dev_multi or dev_boxed")
    place = transform_for(thoraxlib.InputSpec.imagenet(1, size=CACHED)).place
    pixels = torch.stack([place(read(file)).as_subclass(Tensor) for file in part.files])
    part, pixels = without_duplicates(part, pixels)
    model = thoraxlib.build("classifier", labels=LABELS, backbone=BACKBONE, in_chans=1, dropout=0.2, input_spec=INPUT)
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{len(pixels)} images of {len(set(part.patients))} patients, {parameters:,} parameters", flush=True)
    model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), options.lr, weight_decay=0.05)
    steps = len(pixels) // options.batch_size
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, options.lr, total_steps=steps * options.epochs)
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.99), use_buffers=True
    )
    for epoch in range(options.epochs):
        model.train()
        total = torch.zeros(len(LABELS))
        order = torch.randperm(len(pixels), generator=random)[: steps * options.batch_size]
        for rows in order.split(options.batch_size):
            x, made = augmented(pixels[rows], random)
            with torch.autocast("cpu", torch.bfloat16):
                logits = model(((x - 0.5) / 0.25).contiguous(memory_format=torch.channels_last))
            target = torch.cat([part.targets[rows], made], 1)
            each = functional.binary_cross_entropy_with_logits(logits.float(), target, reduction="none").mean(0)
            loss = each @ LOSS_WEIGHTS / LOSS_WEIGHTS.sum()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            average.update_parameters(model)
            total += each.detach() / steps
        print(f"epoch {epoch + 1}:", *(f"{k} {v:.3f}" for k, v in zip(LABELS, total.tolist(), strict=True)), flush=True)
    model.load_state_dict(average.module.state_dict())
    thoraxlib.save_pretrained(model.half(), options.output)
    val = joined([nih(folder, "val") for folder in (options.root, *options.more)])
    report(thoraxlib.load_pretrained(options.output), val, options.sheet)


@torch.inference_mode()
def outputs(model: nn.Module, part: Part) -> Tensor:
    """Probabilities (2, 4, N, 7) of each image as it is and inverted, turned clockwise by 0, 90, 180, 270 degrees."""
    preprocess, found = thoraxlib.preprocess_for(model), []
    for file in part.files:
        image = read(file).as_subclass(Tensor)
        greys = image, (255 if image.dtype == torch.uint8 else 65535 if image.dtype == torch.uint16 else 1) - image
        x = torch.cat([preprocess(torch.rot90(grey, -k, (1, 2))) for grey in greys for k in range(4)])
        found.append(model(x).sigmoid())
    return torch.stack(found, 1).unflatten(0, (2, 4))


def report(model: nn.Module, part: Part, sheet: Path | None = None) -> None:
    """Print AUROCs of view and sex, and accuracies of turn and inversion, with 95% intervals by patient."""
    p, intervals = outputs(model, part), {"patient_ids": part.patients}
    print(f"{len(part.files)} images of {len(set(part.patients))} patients")
    for invert, grey in enumerate(("", ", inverted")):
        for k, turn in enumerate(TURNS):
            values = metrics.auroc(part.targets, p[invert, k, :, :2])
            found = metrics.bootstrap(part.targets, p[invert, k, :, :2], **intervals)
            cells = [f"{v:.3f} ({a:.3f} to {b:.3f})" for v, a, b in zip(values, *found[:2], strict=True)]
            print(f"  {turn + grey:<32}AUROC of AP {cells[0]}, of Female {cells[1]}", flush=True)
    right = {
        "turn": p[..., 3:].argmax(-1) == torch.arange(4)[:, None],
        "inversion": (p[..., 2] >= 0.5) == (torch.arange(2) == 1)[:, None, None],
    }
    right["as it is, not warned of"] = right["turn"][:1, :1] & right["inversion"][:1, :1]
    for name, of_copies in right.items():
        of_images = of_copies.float().mean((0, 1))
        low, high = (float(v[0]) for v in metrics.bootstrap_mean(of_images[:, None], **intervals)[:2])
        print(f"  accuracy of {name}: {of_images.mean():.4f} ({low:.4f} to {high:.4f})", flush=True)
    if sheet is not None:
        mistakes(part, p, right["turn"] & right["inversion"], sheet)


def mistakes(part: Part, p: Tensor, right: Tensor, sheet: Path) -> None:
    """Draw the images with a wrong answer, the most wrong first."""
    off = (p[0, 0, :, :2] - part.targets).abs().nan_to_num(0)
    copies = (~right).sum((0, 1))
    worst = torch.cat([off, copies[:, None] / 8], 1).amax(1)
    worst = worst.masked_fill((off < 0.5).all(1) & (copies == 0), 0)
    cells, titles = [], []
    for k in worst.argsort(descending=True)[: min(40, int((worst > 0).sum()))].tolist():
        truth = [pair[int(v)] for pair, v in zip((("PA", "AP"), "MF"), part.targets[k].tolist(), strict=True) if v == v]
        said = [f"{name} {p[0, 0, k, c]:.2f}" for c, name in enumerate("AF") if off[k, c] >= 0.5]
        said += [f"{copies[k]} of 8 copies"] if copies[k] else []
        cells.append(plotting.fit(read(part.files[k]).as_subclass(Tensor), 256))
        titles.append(f"{' '.join(truth)}: {', '.join(said)}")
    if cells:
        plotting.save(plotting.panel(cells, titles, columns=8, side=256), sheet)
    print(f"{len(cells)} images with a mistake: {sheet}")


def main(argv: list[str] | None = None) -> None:
    """Train, or score a list of `root`, or a folder of other hospitals' images."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--root", type=Path, help="folder of NIH images")
    flags.add_argument("--more", type=Path, nargs="*", default=[], help="further ones, whose train and val are added")
    flags.add_argument("--output", type=Path, default=Path("outputs/view-small"), help="folder of the model")
    flags.add_argument("--score", help="list of --root to score, instead of training")
    flags.add_argument("--outside", type=Path, help="folder with manifest.csv to score, instead of training")
    flags.add_argument("--sheet", type=Path, help="picture of the mistakes")
    flags.add_argument("--epochs", type=int, default=60, help="default: 60")
    flags.add_argument("--batch-size", type=int, default=32, help="default: 32")
    flags.add_argument("--lr", type=float, default=3e-3, help="default: 0.003")
    flags.add_argument("--seed", type=int, default=0, help="default: 0")
    options = flags.parse_args(argv)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    if options.outside is None and options.root is None:
        flags.error("--root or --outside is needed")
    if options.outside is None and options.score is None:
        train(options)
    else:
        part = nih(options.root, options.score) if options.score else outside(options.outside)
        report(thoraxlib.load_pretrained(options.output), part, options.sheet)


if __name__ == "__main__":
    main()
