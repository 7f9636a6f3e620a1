"""Train ``view-small``, the check of view, orientation, inversion and sex that is part of the package.

    python examples/weights/view.py --root nih_mini --more nih_tiny64          # choose on val
    python examples/weights/view.py --root nih_mini --more nih_tiny64 --test   # then score dev_multi, once

`root` is a folder of NIH ChestX-ray14 with ``images``, ``labels.csv`` (columns Image Index, Patient ID, View Position,
Patient Gender) and the lists ``splits/train.txt``, ``val.txt`` and ``dev_multi.txt``; `more` is another one, whose
train list is added. Training turns and inverts the images at random. Each image of the test is scored in four turns
and inverted in each. About 25 minutes on one CPU core.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

import thoraxlib
from thoraxlib import metrics

SIDE = 128
LABELS = ("AP", "Female", "Inverted", "Upright", "Turned 90", "Turned 180", "Turned 270")
BACKBONE = {
    "name": "resnet18d",
    "layers": [2, 2, 3],
    "channels": [16, 32, 96],
    "stem_width": 16,
    "out_indices": [1, 2, 3],
}


class Part(NamedTuple):
    """Images uint8 (N, 1, 144, 144), targets (N, 2) of AP and Female, patients, names."""

    x: Tensor
    y: Tensor
    patients: list[str]
    names: list[str]


def read(root: Path, split: str) -> Part:
    """Read a part of the data set, with a margin for random crops."""
    chosen = set((root / "splits" / f"{split}.txt").read_text().split())
    with (root / "labels.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["Image Index"] in chosen]
    pixels, side = [], SIDE + 16
    for row in rows:
        image = (
            Image.open(root / "images" / row["Image Index"])
            .convert("L")
            .resize((side, side), Image.Resampling.BILINEAR)
        )
        pixels.append(torch.from_numpy(np.array(image))[None])
    y = [[float(row["View Position"] == "AP"), float(row["Patient Gender"] == "F")] for row in rows]
    names = [row["Image Index"] for row in rows]
    return Part(torch.stack(pixels), torch.tensor(y), [row["Patient ID"] for row in rows], names)


def augmented(x: Tensor, g: torch.Generator) -> Tensor:
    """Return randomly changed pixels in [0, 1], (N, 1, 128, 128), upright and not inverted."""
    n = len(x)

    def rand(*shape: int) -> Tensor:
        return torch.rand(n, *shape, generator=g)

    angle, zoom, aspect = (rand() - 0.5) * 0.25, torch.exp((rand() - 0.5) * 0.4), torch.exp((rand() - 0.5) * 0.3)
    shift = (rand(2) - 0.5) * 0.2
    cos, sin = angle.cos() * zoom, angle.sin() * zoom
    theta = torch.stack(
        [torch.stack([cos * aspect, -sin, shift[:, 0]], 1), torch.stack([sin, cos / aspect, shift[:, 1]], 1)], 1
    )
    grid = F.affine_grid(theta, [n, 1, SIDE, SIDE], align_corners=False)
    x = F.grid_sample(x / 255, grid, padding_mode="zeros", align_corners=False)
    x = x.clamp(0, 1) ** torch.exp((rand() - 0.5) * 1.0).view(-1, 1, 1, 1)
    x = (x - 0.5) * torch.exp((rand() - 0.5) * 0.7).view(-1, 1, 1, 1) + 0.5 + (rand() - 0.5).view(-1, 1, 1, 1) * 0.3
    blurred = F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
    x = torch.where(rand(1, 1, 1) < 0.3, blurred, x) + torch.randn(x.shape, generator=g) * 0.04 * rand(1, 1, 1)
    return x.clamp(0, 1)  # the letters L and R are cut off or erased at random, below


def erased(x: Tensor, g: torch.Generator) -> Tensor:
    """Return images with a random rectangle of grey, so that no single marker decides."""
    n = len(x)
    at, size = torch.rand(n, 2, generator=g), torch.rand(n, 2, generator=g) * 0.4
    grid = (torch.arange(SIDE) + 0.5) / SIDE
    inside = ((grid[None] - at[:, :1]).abs() < size[:, :1] / 2)[:, :, None] & (
        (grid[None] - at[:, 1:]).abs() < size[:, 1:] / 2
    )[:, None]
    return torch.where(inside[:, None], torch.rand(n, 1, 1, 1, generator=g), x)


def train(options: argparse.Namespace) -> None:
    """Train, keep the epoch with the best sum of scores on val, and save it as float16."""
    torch.manual_seed(options.seed)
    g = torch.Generator().manual_seed(options.seed)
    own, val = read(options.root, "train"), read(options.root, "val")
    x, y = own.x, own.y
    for folder in options.more:
        extra = read(folder, "train")
        x, y = torch.cat([x, extra.x]), torch.cat([y, extra.y])
    print(f"{len(x)} images for training, {len(val.x)} for choosing")
    model = thoraxlib.build(
        "classifier",
        labels=LABELS,
        backbone=BACKBONE,
        in_chans=1,
        dropout=0.2,
        input_spec={"size": SIDE, "mean": [0.5], "std": [0.25]},
    )
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters")
    optimizer = torch.optim.AdamW(model.parameters(), options.lr, weight_decay=0.05)
    steps = len(x) // 32
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, options.lr, total_steps=steps * options.epochs)
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.995), use_buffers=True
    )
    best = 0.0
    for epoch in range(options.epochs):
        model.train()
        for rows in torch.randperm(len(x), generator=g)[: steps * 32].split(32):
            turn, invert = torch.randint(4, (32,), generator=g), torch.rand(32, generator=g) < 0.5
            turn = torch.where(torch.rand(32, generator=g) < 0.4, 0, turn)
            flip = torch.rand(32, generator=g) < 0.5
            pixels = erased(augmented(x[rows].float(), g), g)
            pixels = torch.where(flip.view(-1, 1, 1, 1), pixels.flip(3), pixels)
            pixels = turned(torch.where(invert.view(-1, 1, 1, 1), 1 - pixels, pixels), turn)
            target = torch.cat([y[rows], invert[:, None].float(), F.one_hot(turn, 4).float()], 1)
            loss = F.binary_cross_entropy_with_logits(model((pixels - 0.5) / 0.25), target)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            average.update_parameters(model)
        if epoch % 5 == 4 or epoch == options.epochs - 1:
            scores = report(average.module.eval(), val)
            total = sum(value for value in scores.values())
            print(f"epoch {epoch + 1}: loss {loss.item():.3f}", {k: round(v, 4) for k, v in scores.items()}, flush=True)
            if total >= best:
                best = total
                model_to_save = thoraxlib.build("classifier", **model.config["options"])
                model_to_save.load_state_dict(average.module.state_dict())
                thoraxlib.save_pretrained(model_to_save.half(), options.output)


def turned(x: Tensor, turn: Tensor) -> Tensor:
    """Turn each image clockwise by 0, 90, 180 or 270 degrees."""
    return torch.stack([torch.rot90(image, -int(k), (1, 2)) for image, k in zip(x, turn, strict=True)])


@torch.inference_mode()
def outputs(model: torch.nn.Module, part: Part) -> Tensor:
    """Probabilities (2, 4, N, 7): as they are and inverted, in each of the four turns."""
    x = F.interpolate(part.x.float() / 255, (SIDE, SIDE), mode="bilinear", antialias=True)
    rows = []
    for invert in (False, True):
        for k in range(4):
            pixels = torch.rot90(1 - x if invert else x, -k, (2, 3))
            rows.append(torch.cat([model((p - 0.5) / 0.25).sigmoid() for p in pixels.split(64)]))
    return torch.stack(rows).unflatten(0, (2, 4))


def report(model: torch.nn.Module, part: Part) -> dict[str, float]:
    """Scores of AP and sex on upright images, and accuracies of turn and inversion over all eight copies."""
    p = outputs(model, part)
    ap, female = metrics.auroc(part.y, p[0, 0, :, :2])
    inverted = torch.stack([(p[k, ..., 2] >= 0.5) == bool(k) for k in range(2)]).float().mean()
    upright = (p[..., 3:].argmax(-1) == torch.arange(4).view(1, 4, 1)).float().mean()
    return {"AP": float(ap), "sex": float(female), "inverted": float(inverted), "turned": float(upright)}


def test(options: argparse.Namespace) -> None:
    """Score a part once, with 95 % intervals by patient."""
    model, part = thoraxlib.load_pretrained(options.output), read(options.root, options.test_split)
    p = outputs(model, part)
    print(f"{options.test_split}: {len(part.x)} images, {len(set(part.patients))} patients")
    names = ("upright", "turned 90", "turned 180", "turned 270")
    for k, name in enumerate(names):
        for invert in range(2):
            value = metrics.auroc(part.y, p[invert, k, :, :2])
            found = metrics.bootstrap(part.y, p[invert, k, :, :2], patient_ids=part.patients)
            for label, v, low, high in zip(("AP", "sex"), value, found.low, found.high, strict=True):
                print(f"  AUROC of {label}, {name}{', inverted' if invert else ''}: {v:.3f} ({low:.3f} to {high:.3f})")
    right = {
        "inverted": torch.stack([(p[k, ..., 2] >= 0.5) == bool(k) for k in range(2)]).float().mean((0, 1)),
        "turned": (p[..., 3:].argmax(-1) == torch.arange(4).view(1, 4, 1)).float().mean((0, 1)),
    }
    for name, of_image in right.items():
        found = metrics.bootstrap_mean(of_image.numpy()[:, None], patient_ids=part.patients)
        print(f"  accuracy of {name}: {of_image.mean():.4f} ({found.low[0]:.4f} to {found.high[0]:.4f})")
        wrong = [f"{part.names[k]} {1 - of_image[k]:.3f}" for k in (of_image < 1).nonzero().flatten().tolist()]
        print(f"    images with an error, and their share of errors: {', '.join(wrong[:20])}")


def main(argv: list[str] | None = None) -> None:
    """Train, or with --test score dev_multi."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--root", type=Path, required=True, help="folder of the data set")
    flags.add_argument("--more", type=Path, nargs="*", default=[], help="folders whose train list is added")
    flags.add_argument("--output", type=Path, default=Path("outputs/view-small"), help="folder of the model")
    flags.add_argument("--test", action="store_true", help="score --test-split with the weights in --output")
    flags.add_argument("--test-split", default="dev_multi", help="default: dev_multi")
    flags.add_argument("--epochs", type=int, default=60, help="default: 60")
    flags.add_argument("--lr", type=float, default=3e-3, help="default: 0.003")
    flags.add_argument("--seed", type=int, default=0, help="default: 0")
    options = flags.parse_args(argv)
    torch.set_num_threads(1)
    (test if options.test else train)(options)


if __name__ == "__main__":
    main()
