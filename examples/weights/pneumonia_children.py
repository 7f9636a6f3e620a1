"""Train the shipped weights ``pneumonia-children-small``: pneumonia in radiographs of children (Kermany et al. 2018).

    python examples/weights/pneumonia_children.py --root FOLDER             # train; everything is chosen on validation
    python examples/weights/pneumonia_children.py --root FOLDER --test      # score the test set, once, at the very end

FOLDER holds ``train/NORMAL``, ``train/PNEUMONIA``, ``test/NORMAL`` and ``test/PNEUMONIA``: the radiographs of Kermany,
Zhang and Goldbaum, "Labeled Optical Coherence Tomography (OCT) and Chest X-Ray Images for Classification", version 2,
https://doi.org/10.17632/rscbjbr9sj.2, CC BY 4.0. Training takes about 11 minutes on one CPU core.

The validation part is cut from the publishers' training part so that no person and no near duplicate stands on both
sides: images are one group if their names have the same person number (pneumonia) or series number (normals), or if
their thumbnails of 32 x 32 pixels correlate by more than 0.96; groups of groups are joined. The epoch, by its loss, and
the threshold, by Youden's J, are chosen there. The augmentation was set before the first training: crops of
different aspect undo the squeeze of the images to a square, and crops and erased parts hide the markers at the border.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import StratifiedGroupKFold
from torch import nn
from torch.nn import functional
from torch.utils.data import Dataset
from torchvision.transforms import v2

import thoraxlib
from thoraxlib import cams, metrics, plotting, training
from thoraxlib.images import read, transform_for

STORED, SIZE = 224, 128  # sides in pixels: of the images in memory, of the input
LIKE = 0.96  # correlation of near duplicates
BACKBONE = {
    "name": "resnet18d",
    "layers": [2, 2, 3],
    "channels": [16, 32, 96],
    "stem_width": 16,
    "out_indices": [1, 2, 3],  # feature maps of stride 16 at the end, so that the heat maps have 8 x 8 locations
}


class Children(Dataset[dict[str, Any]]):
    """Images of one part of the data set ("train" or "test"), or of some of them, with the label Pneumonia."""

    labels = ("Pneumonia",)

    def __init__(self, root: Path, split: str, ids: list[str] | None = None) -> None:
        found = sorted((root / split).glob("*/*.jpeg")) if ids is None else [root / name for name in ids]
        if not found:
            raise FileNotFoundError(f"{root / split}: no folders NORMAL and PNEUMONIA with .jpeg files")
        self.root, self.split = root, split
        self.ids = [path.relative_to(root).as_posix() for path in found]
        self.targets = torch.tensor([[float(path.parent.name == "PNEUMONIA")] for path in found])
        self.patient_ids = [number(path.stem) for path in found]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        image = v2.functional.resize(read(self.root / self.ids[index]), [STORED, STORED], antialias=True)
        return {"image": image, "labels": self.targets[index].clone(), "id": self.ids[index]}

    def part(self, indices: np.ndarray[Any, Any]) -> Children:
        return Children(self.root, self.split, [self.ids[index] for index in indices])


def number(name: str) -> str:
    """Return the number of the person, or for normals of the series, that stands in a file's name."""
    found = re.match(r"person\d+|(NORMAL2-)?IM-\d+", name)
    return found.group() if found else name


def groups(images: Children) -> np.ndarray[Any, Any]:
    """Return the number of each image's group: same person, or nearly the same image, directly or over others."""
    pixels = torch.stack([images[index]["image"].as_subclass(torch.Tensor) for index in range(len(images))])
    thumbs = functional.interpolate(pixels.float(), size=(32, 32), mode="area").flatten(1)
    thumbs = functional.normalize(thumbs - thumbs.mean(dim=1, keepdim=True))
    names = np.unique(images.patient_ids, return_inverse=True)[1]
    joined = (thumbs @ thumbs.T > LIKE).numpy() | (names[:, None] == names)
    return np.asarray(connected_components(joined, directed=False)[1])


def parts(root: Path, seed: int) -> tuple[Children, Children]:
    """Return the training and the validation part, disjoint in groups: about 6/7 and 1/7 of the images."""
    images = Children(root, "train")
    group = groups(images)
    folds = StratifiedGroupKFold(7, shuffle=True, random_state=seed)
    train, val = next(folds.split(group, images.targets[:, 0].numpy(), group))
    print(f"{len(images)} images in {len(np.unique(group))} groups")
    for name, rows in (("train", train), ("val", val)):
        counts = f"{len(rows)} images, {int(images.targets[rows].sum())} with pneumonia"
        print(f"{name}: {counts}, {len({images.patient_ids[row] for row in rows})} numbers")
    return images.part(train), images.part(val)


def augmentation() -> nn.Module:
    """Crops of another zoom and aspect, rotation, brightness and contrast, blur, an erased part; no mirroring."""
    return nn.Sequential(
        v2.RandomRotation(10, interpolation=v2.InterpolationMode.BILINEAR),
        v2.RandomResizedCrop(SIZE, scale=(0.6, 1.0), ratio=(0.75, 1.33), antialias=True),
        v2.ColorJitter(brightness=0.3, contrast=0.3),
        v2.RandomApply([v2.GaussianBlur(5, sigma=(0.1, 1.5))], p=0.3),
        v2.RandomErasing(p=0.5, scale=(0.02, 0.15), value=0),
    )


def train(options: argparse.Namespace) -> None:
    """Train, save the best epoch as float16 and its threshold, and print the scores of the validation part."""
    torch.manual_seed(options.seed)
    torch.set_flush_denormal(True)
    model = thoraxlib.build(
        "classifier",
        labels=Children.labels,
        backbone=BACKBONE,
        in_chans=1,
        input_spec={"size": [SIZE, SIZE], "mean": [0.5], "std": [0.25]},
    )
    print(f"{sum(weights.numel() for weights in model.parameters()):,} parameters")
    own, val = parts(options.root, options.seed)
    data = training.DataModule(
        own,
        val,
        batch_size=32,
        cache=True,  # the decoded images: one uint8 tensor
        train_transform=transform_for(model.input_spec, train=augmentation()),
        eval_transform=transform_for(model.input_spec),
        seed=options.seed,
    )
    result = training.fit(
        model,
        data,
        output=options.output / "run",
        epochs=options.epochs,
        loss="bce",
        optimizer=partial(torch.optim.AdamW, lr=options.lr, weight_decay=0.05),
        scheduler="onecycle",
        monitor="val/loss",
        channels_last=True,
        accelerator="cpu",
        progress=False,
        seed=options.seed,
    )
    print(f"best epoch {result.epoch + 1}, loss {result.score:.4f}")
    thoraxlib.save_pretrained(result.model.half(), options.output / "model")
    found = predictions(options, val)
    threshold = float(metrics.best_thresholds(found.targets, found.probabilities, "youden")[0])
    (options.output / "threshold.json").write_text(json.dumps(threshold))
    show("val", found, threshold, val.patient_ids)


def predictions(options: argparse.Namespace, images: Children) -> training.Predictions:
    """Predict with the saved weights."""
    model = thoraxlib.load_pretrained(options.output / "model")
    return training.predict(model, images, device="cpu", progress=False)


def test(options: argparse.Namespace) -> None:
    """Score the publishers' test set, and those of its images whose number is not in their training part."""
    images = Children(options.root, "test")
    found = predictions(options, images)
    threshold = float(json.loads((options.output / "threshold.json").read_text()))
    show("test", found, threshold, images.patient_ids)
    known = set(Children(options.root, "train").patient_ids)
    new = [index for index, number in enumerate(images.patient_ids) if number not in known]
    some = found._replace(targets=found.targets[new], probabilities=found.probabilities[new])
    show("test, numbers that are not in train", some, threshold, [images.patient_ids[index] for index in new])
    with open(options.output / "test.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["file", "label", "probability"])
        table.writerows(
            zip(found.ids, found.targets[:, 0].int().tolist(), found.probabilities[:, 0].tolist(), strict=True)
        )
    draw(options, images, found, threshold)


def show(name: str, found: training.Predictions, threshold: float, numbers: list[str]) -> None:
    """Print the scores with 95 % intervals of a bootstrap over the numbers in the file names."""
    truth = found.targets.numpy() == 1
    print(f"{name}: {len(truth)} images, {int(truth.sum())} with pneumonia, {len(set(numbers))} numbers")
    area = metrics.auroc(found.targets, found.probabilities)
    lines = {"AUROC": (area, metrics.bootstrap(found.targets, found.probabilities, patient_ids=numbers))}
    right = ((found.probabilities.numpy() >= threshold) == truth).astype(float)
    for score, among in (("accuracy", truth | ~truth), ("sensitivity", truth), ("specificity", ~truth)):
        values = np.where(among, right, np.nan)
        lines[score] = np.nanmean(values, axis=0), metrics.bootstrap_mean(values, patient_ids=numbers)
    for score, (value, interval) in lines.items():
        print(f"  {score}: {value[0]:.3f} ({interval.low[0]:.3f} to {interval.high[0]:.3f})")
    print(f"  at the threshold {threshold:.4f}")


def draw(options: argparse.Namespace, images: Children, found: training.Predictions, threshold: float) -> None:
    """Draw Grad-CAM of six images each: found, missed, false alarms, correctly normal; the surest ones, and random."""
    model = thoraxlib.load_pretrained(options.output / "model")
    cam, transform = cams.build("gradcam", model), transform_for(model.input_spec)
    p, truth = found.probabilities[:, 0].numpy(), found.targets[:, 0].numpy() == 1
    called, generator = p >= threshold, np.random.default_rng(0)
    cells, titles = [], []
    for name, chosen in (
        ("found", truth & called),
        ("missed", truth & ~called),
        ("false alarm", ~truth & called),
        ("normal", ~truth & ~called),
    ):
        rows = np.flatnonzero(chosen)
        surest = rows[np.argsort(-np.abs(p[rows] - threshold))][:3]
        others = np.setdiff1d(rows, surest)
        for index in [*surest, *generator.choice(others, min(3, len(others)), replace=False)]:
            image = images[int(index)]["image"]
            heat = cam(transform({"image": image})["image"][None])[0, 0]
            cells += [image, plotting.overlay(image, heat)]
            titles += [f"{name} {p[index]:.3f}", Path(found.ids[index]).stem]
    plotting.save(plotting.panel(cells, titles, columns=12), options.output / "sheet.png")


def main(argv: list[str] | None = None) -> None:
    """Train, or with --test score the test set."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--root", type=Path, required=True, help="folder with train and test")
    flags.add_argument(
        "--output", type=Path, default=Path("outputs/pneumonia-children-small"), help="folder of results"
    )
    flags.add_argument("--test", action="store_true", help="score the test set with the weights in --output")
    flags.add_argument("--epochs", type=int, default=18, help="number of epochs (default: 18)")
    flags.add_argument("--lr", type=float, default=3e-3, help="highest learning rate (default: 0.003)")
    flags.add_argument("--seed", type=int, default=0, help="random seed (default: 0)")
    options = flags.parse_args(argv)
    (test if options.test else train)(options)


if __name__ == "__main__":
    main()
