"""PadChest and Open-i: 22 findings of two archives (jaydurant/ChestX-ray_classification_and_localization).

    python examples/padchest_openi.py                        # two synthetic archives, three minutes on one core
    python examples/padchest_openi.py --data padchest_openi --padchest /data/padchest --openi /data/openi \\
        --labeler-csv labeled_reports.csv --labeler-ids reports_ids.csv --views Frontal
    python examples/padchest_openi.py --data padchest_openi --padchest /data/padchest --recipe jaydurant

The two archives are joined on common labels. Labels that an archive does not have are unknown, and the loss and the
scores leave them out. The split is by patient, with equal shares of all labels, and is kept in split.csv. The learning
rate that a range test suggests (--find-lr) is kept as well.

--recipe jaydurant is the repository's recipe: rotation by 0 to 180 degrees and inverted greys, no normalisation by mean
and standard deviation, the last layers of an ImageNet network with Adam at 6.58e-4 for 20 epochs, no class weights, its
rules for labels. Different from the repository are the split by patient, the shuffling, and the choice of the best
epoch. --recipe corrected trains all layers, with class weights, on labels with all ancestors of a term.

Beside AUROC, the script prints the repository's micro, macro and samples averages of precision, recall and F1: at 0.5
as in the repository, and at thresholds chosen on the validation images.
"""

from __future__ import annotations

import argparse
import copy
import io
import json
from collections.abc import Mapping
from contextlib import nullcontext, redirect_stderr
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import recipe
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.tuner import Tuner
from torch import nn

from thoraxlib import datasets, metrics, training
from thoraxlib import labels as label_sets
from thoraxlib.datasets.openi import MAPPINGS
from thoraxlib.training.resume import quiet
from thoraxlib.utils.files import replacing

CORRECTED: dict[str, Any] = {"augmentation": "light", "loss": "weighted_bce", "trained": "all", "monitor": "val/auroc"}
CORRECTED |= {"scheduler": "onecycle", "weight_decay": 0.01, "rule": "ancestors", "mapping": "default", "lr": 1e-3}
CORRECTED |= {"fractions": [0.7, 0.1, 0.2]}
JAYDURANT: dict[str, Any] = {"augmentation": "jaydurant", "loss": "bce", "trained": "last", "monitor": "val/loss"}
JAYDURANT |= {"scheduler": None, "weight_decay": 1e-4, "rule": "last_root", "mapping": "jaydurant", "lr": 6.58e-4}
JAYDURANT |= {"fractions": [0.81, 0.09, 0.1]}
REAL: dict[str, Any] = {"backbone": None, "weights": "imagenet", "epochs": 20, "batch_size": 20}
SYNTHETIC: dict[str, Any] = {
    "size": 80,
    "num_images": 1000,
    "epochs": 6,
    "batch_size": 16,
    "weights": "none",
    "cache": True,
}
SYNTHETIC |= {"backbone": "resnet10t", "augmentation": "none", "lr": 3e-3}


def main(argv: list[str] | None = None) -> float:
    """Run the example and return the macro AUROC."""
    flags = parser()
    flags.set_defaults(**(JAYDURANT if recipe.early(flags, argv, "recipe") == "jaydurant" else CORRECTED))
    flags.set_defaults(**(SYNTHETIC if recipe.early(flags, argv) == "synthetic" else REAL))
    options = recipe.parse(flags, "padchest_openi", argv, folder="padchest")
    if options.openi is not None and options.labeler_csv is None:
        flags.error("--openi needs --labeler-csv: without it, its images have no labels")
    torch.manual_seed(options.seed)

    chosen: dict[str, Any] = {
        "backbone": options.backbone,
        "preset": "jaydurant" if options.recipe == "jaydurant" else None,
    }
    if options.data == "synthetic":  # finer maps than 3 x 3
        chosen["backbone"] = {"name": options.backbone, "output_stride": 8}
    model = recipe.build(options.model, options, **{key: value for key, value in chosen.items() if value})
    data = parts(options, model)
    rate = learning_rate(model, options, data)
    model = fit(model, options, data, rate)
    found = recipe.predictions(model, options, data["test"])
    result = recipe.report(model, options, data, heat_maps=("cam",), found=found)
    averages(options, found, recipe.predictions(model, options, data["val"]))
    return result.macro_auroc


def parser() -> argparse.ArgumentParser:
    """Return the parser with all flags."""
    flags = recipe.parser("22 findings of PadChest and Open-i.", ("synthetic", "padchest_openi"))
    archives = flags.add_argument_group("archives")
    archives.add_argument("--padchest", type=Path, help="folder of PadChest: the table and the images")
    archives.add_argument("--openi", type=Path, help="folder of Open-i: reports and images; default: PadChest alone")
    archives.add_argument(
        "--labeler-csv", type=Path, help="table that the CheXpert labeller wrote for Open-i's reports"
    )
    archives.add_argument("--labeler-ids", type=Path, help="table of ids that export_reports wrote beside the reports")
    archives.add_argument("--views", help="Frontal or Lateral; default: all images, as in the repository")
    archives.add_argument(
        "--missing", choices=("error", "skip"), default="error", help="policy for images that are not in the folder"
    )
    archives.add_argument("--rule", choices=("ancestors", "last_root"), help="rule from PadChest's terms to labels")
    archives.add_argument(
        "--mapping", choices=tuple(MAPPINGS), help="mapping from the labeller's observations to labels"
    )
    archives.add_argument("--fractions", type=float, nargs=3, help="shares of train, val and test")
    run = flags.add_argument_group("recipe")
    run.add_argument(
        "--recipe", choices=("corrected", "jaydurant"), default="corrected", help="recipe that sets the defaults"
    )
    run.add_argument(
        "--model",
        choices=("unified_dcnn_padchest", "unified_dcnn", "chexnet"),
        default="unified_dcnn_padchest",
        help="model",
    )
    run.add_argument("--backbone", help="e.g. densenet121 or vgg16, instead of the model's own")
    run.add_argument("--weights", choices=("imagenet", "none"), help="initial weights of the backbone")
    run.add_argument(
        "--trained", choices=("all", "last"), help="layers to train: all, or the last ones as in the repository"
    )
    run.add_argument("--epochs", type=int, help="number of epochs")
    run.add_argument("--batch-size", type=int, help="images in a batch on each device")
    run.add_argument("--lr", type=float, help="learning rate")
    run.add_argument(
        "--find-lr", type=int, nargs="?", const=100, metavar="STEPS", help="use the learning rate of a range test"
    )
    run.add_argument("--weight-decay", type=float, help="weight decay")
    run.add_argument("--scheduler", help="schedule: onecycle, cosine, plateau, ...")
    run.add_argument("--loss", help="bce, or with class weights weighted_bce, w_cel")
    run.add_argument("--augmentation", help="jaydurant, light, chexnet, none, ...")
    run.add_argument("--monitor", help="score that selects the epoch: val/auroc or val/loss")
    return flags


def archives(options: argparse.Namespace, model: nn.Module) -> dict[str, datasets.ChestDataset]:
    """Return the data sets to join."""
    labels = list(model.labels)
    if options.data == "synthetic":
        count = round(options.num_images / options.fractions[0])
        shared = {"size": min(model.input_spec.size), "balance": options.balance, "masks": False}
        columns = label_sets.align(list(MAPPINGS[options.mapping]), labels)
        # labels that Open-i's labeller has
        fewer = [label for label, column in zip(labels, columns, strict=True) if column is not None]
        lengths = {"padchest": (labels, count - count // 4), "openi": (fewer or labels, count // 4)}
        return {
            name: datasets.build("synthetic", labels=names, length=length, seed=2 * options.seed + number, **shared)
            for number, (name, (names, length)) in enumerate(lengths.items())
        }
    shared = {"labels": labels, "views": options.views, "missing": options.missing}
    found = {"padchest": datasets.build("padchest", root=options.padchest, rule=options.rule, **shared)}
    if options.openi is not None:
        table = {"labeler_csv": options.labeler_csv, "labeler_ids": options.labeler_ids, "mapping": options.mapping}
        found["openi"] = datasets.build("openi", root=options.openi, **table, **shared)
    return found


def parts(options: argparse.Namespace, model: nn.Module) -> dict[str, datasets.ChestDataset]:
    """Join the archives and return train, val and test, split by patient; an earlier run's split is used again."""
    images = datasets.Concat(archives(options, model), labels=list(model.labels))
    path = options.output / "split.csv"
    if path.exists() and not options.overwrite:
        made = datasets.load_split(images, path)
    else:
        fractions = dict(zip(("train", "val", "test"), options.fractions, strict=True))
        made = datasets.stratified_split(images, fractions, seed=options.seed)
        if training.is_first_process():
            datasets.save_split(made, path)
    print(datasets.prevalence(made))
    unknown = [
        label for label, column in zip(images.labels, images.targets.T, strict=True) if bool(column.isnan().all())
    ]
    if unknown:
        print(f"unknown in all images: {', '.join(unknown)}")
    return {**made, "shown": made["test"]}


def settings(options: argparse.Namespace, rate: float) -> dict[str, Any]:
    """Return loss and optimiser."""
    make = torch.optim.Adam if options.recipe == "jaydurant" else torch.optim.AdamW
    return {"loss": options.loss, "optimizer": partial(make, lr=rate, weight_decay=options.weight_decay)}


def learning_rate(model: nn.Module, options: argparse.Namespace, data: Mapping[str, datasets.ChestDataset]) -> float:
    """Return the learning rate of the flag or of the range test; an earlier run's test is used again."""
    if not options.find_lr:
        return float(options.lr)
    path = options.output / "learning_rate.json"
    if options.overwrite or not path.exists():
        if options.devices not in ("auto", "1"):
            raise SystemExit(
                "--find-lr needs one device: run it with --devices 1 --epochs 1 first; later runs use its learning rate"
            )
        found = range_test(model, options, recipe.loaders(model, options, data, options.augmentation))
        with replacing(path) as scratch:
            scratch.write_text(json.dumps(found) + "\n", encoding="utf-8")
    found = json.loads(path.read_text(encoding="utf-8"))
    rate = float(found["suggestion"] or options.lr)
    print(f"learning rate: {rate:.3g} ({'range test' if found['suggestion'] else 'the range test has no suggestion'})")
    return rate


class Sweep(training.MultiLabelTask):
    """Task that goes on after a loss of NaN or infinity, as the range test has at high learning rates."""

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
        return self.objective(batch)


def range_test(model: nn.Module, options: argparse.Namespace, images: training.DataModule) -> dict[str, Any]:
    """Let Lightning train a copy of the model with a growing learning rate (Smith 2017, section 3.3)."""
    task = Sweep(copy.deepcopy(model), loss=options.loss, optimizer=partial(torch.optim.Adam, lr=options.lr))
    task.count(images.targets)  # the tuner starts before the task would count
    # the tuner shows a bar of its own, which no option turns off
    with quiet(), nullcontext() if options.progress else redirect_stderr(io.StringIO()):
        trainer = Trainer(
            accelerator=options.device,
            devices=1,
            precision=options.precision,
            max_epochs=options.find_lr,
            default_root_dir=options.output,
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
        )
        found = Tuner(trainer).lr_find(
            task, images.train_dataloader(), min_lr=1e-7, max_lr=100.0, num_training=options.find_lr, update_attr=False
        )
    return {"suggestion": found.suggestion(), **found.results}


def fit(
    model: nn.Module, options: argparse.Namespace, data: Mapping[str, datasets.ChestDataset], rate: float
) -> nn.Module:
    """Train all layers, or the last ones as in the repository."""
    chosen = {**settings(options, rate), "scheduler": options.scheduler}
    if options.trained == "all":
        return recipe.fit(model, options, data, augmentation=options.augmentation, monitor=options.monitor, **chosen)
    stage = training.jaydurant_stage(
        model, frozen_statistics=options.recipe != "jaydurant", epochs=options.epochs, **chosen
    )
    images = recipe.loaders(model, options, data, options.augmentation)
    run = {**recipe.run_settings(options), "monitor": options.monitor}
    return training.fit_stages(model, images, [stage], output=options.output, **run)[-1].model


@training.first_process
def averages(options: argparse.Namespace, found: training.Predictions, val: training.Predictions) -> None:
    """Print and write precision, recall and F1 at 0.5 and at the best thresholds of the validation images."""
    best = np.nan_to_num(metrics.best_thresholds(val.targets, val.probabilities), nan=0.5)
    kept: dict[str, Any] = {}
    targets, probabilities = found.targets.numpy(), found.probabilities.numpy()
    known = ~np.isnan(targets)
    positive = known & (targets == 1)
    for title, thresholds in (("0.5", 0.5), ("best on val", best)):
        called = known & (probabilities >= thresholds)
        kept[title] = {}
        print(f"\nthresholds: {title:<12}{'precision':>10}{'recall':>10}{'F1':>10}")
        for name, axis in (("micro", None), ("macro", 0), ("samples", 1)):  # unknown labels do not count
            some = np.atleast_1d(known.any(axis=axis))
            tp, p, n = (np.atleast_1d(a.sum(axis=axis))[some] for a in (called & positive, called, positive))
            ratios = {"precision": (tp, p), "recall": (tp, n), "f1": (2 * tp, p + n)}
            scores = {key: float(np.mean(over / np.maximum(under, 1))) for key, (over, under) in ratios.items()}
            kept[title][name] = scores
            print(f"{name:<24}" + "".join(f"{score:>10.4f}" for score in scores.values()))
    with replacing(options.output / "averages.json") as scratch:
        scratch.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
