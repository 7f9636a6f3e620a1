"""PadChest and Open-i: 22 findings of two archives (jaydurant/ChestX-ray_classification_and_localization).

    python examples/padchest_openi.py                        # two synthetic archives, three minutes on one core
    python examples/padchest_openi.py --data padchest_openi --padchest /data/padchest --openi /data/openi \\
        --labeler-csv labeled_reports.csv --labeler-ids reports_ids.csv --views Frontal
    python examples/padchest_openi.py --data padchest_openi --padchest /data/padchest --recipe jaydurant

The two are joined on common labels; what an archive cannot tell is unknown, and takes no part. The split is by patient,
alike in all labels, and kept in split.csv; so is the learning rate that a range test suggests (--find-lr).

--recipe jaydurant is the repository's: rotation by 0 to 180 degrees and inverted greys, no mean and deviation, the last
layers of an ImageNet network with Adam at 6.58e-4 for 20 epochs, no class weights, its rules for labels; but split by
patient, shuffled, and with the best epoch in the end. --recipe corrected trains everything, with class weights, on
labels that have all ancestors of a term.

Beside AUROC, the repository's micro, macro and samples averages of precision, recall and F1 are printed: at 0.5 as
there, and at thresholds chosen on the validation images.
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

SOUND: dict[str, Any] = {"augmentation": "light", "loss": "weighted_bce", "trained": "all", "monitor": "val/auroc"}
SOUND |= {"scheduler": "onecycle", "weight_decay": 0.01, "rule": "ancestors", "mapping": "default", "lr": 1e-3}
SOUND |= {"fractions": [0.7, 0.1, 0.2]}
SEED: dict[str, Any] = {"augmentation": "jaydurant", "loss": "bce", "trained": "last", "monitor": "val/loss"}
SEED |= {"scheduler": None, "weight_decay": 1e-4, "rule": "last_root", "mapping": "jaydurant", "lr": 6.58e-4}
SEED |= {"fractions": [0.81, 0.09, 0.1]}
REAL: dict[str, Any] = {"backbone": None, "weights": "imagenet", "epochs": 20, "batch_size": 20}
SYNTHETIC: dict[str, Any] = {
    "size": 80,
    "images": 1000,
    "epochs": 6,
    "batch_size": 16,
    "weights": "none",
    "cache": True,
}
SYNTHETIC |= {"backbone": "resnet10t", "augmentation": "none", "lr": 3e-3}


def main(argv: list[str] | None = None) -> float:
    """Run it; the macro AUROC."""
    flags = parser()
    known = flags.parse_known_args(argv)[0]
    flags.set_defaults(**(SEED if known.recipe == "jaydurant" else SOUND))
    flags.set_defaults(**(SYNTHETIC if known.data == "synthetic" else REAL))
    options = recipe.parse(flags, "padchest_openi", argv, folder="padchest")
    if options.openi is not None and options.labeler_csv is None:
        flags.error("--openi needs --labeler-csv: without it nothing is known of its images")
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
    """All flags."""
    flags = recipe.parser("22 findings of PadChest and Open-i.", ("synthetic", "padchest_openi"))
    archives = flags.add_argument_group("archives")
    archives.add_argument("--padchest", type=Path, help="folder of PadChest: the table and the images")
    archives.add_argument("--openi", type=Path, help="folder of Open-i: reports and images; without, PadChest alone")
    archives.add_argument("--labeler-csv", type=Path, help="what the CheXpert labeller made of Open-i's reports")
    archives.add_argument("--labeler-ids", type=Path, help="the ids that export_reports wrote beside the reports")
    archives.add_argument("--views", help="Frontal or Lateral; by default all images, as the repository takes them")
    archives.add_argument(
        "--missing", choices=("error", "skip"), default="error", help="what to do about absent images"
    )
    archives.add_argument("--rule", choices=("ancestors", "last_root"), help="of PadChest's terms")
    archives.add_argument("--mapping", choices=tuple(MAPPINGS), help="of the labeller's observations")
    archives.add_argument("--fractions", type=float, nargs=3, help="train, val and test")
    run = flags.add_argument_group("recipe")
    run.add_argument("--recipe", choices=("corrected", "jaydurant"), default="corrected")
    run.add_argument(
        "--model", choices=("unified_dcnn_padchest", "unified_dcnn", "chexnet"), default="unified_dcnn_padchest"
    )
    run.add_argument("--backbone", help="by default the model's own; densenet121 and vgg16 are the repository's others")
    run.add_argument("--weights", choices=("imagenet", "none"))
    run.add_argument("--trained", choices=("all", "last"), help="all layers, or the repository's last ones")
    run.add_argument("--epochs", type=int)
    run.add_argument("--batch-size", type=int)
    run.add_argument("--lr", type=float)
    run.add_argument("--find-lr", type=int, nargs="?", const=100, metavar="STEPS", help="take a range test's rate")
    run.add_argument("--weight-decay", type=float)
    run.add_argument("--scheduler", help="onecycle, cosine, plateau, ...")
    run.add_argument("--loss", help="bce, or with class weights weighted_bce, w_cel")
    run.add_argument("--augmentation", help="seed, light, chexnet, none, ...")
    run.add_argument("--monitor", help="val/auroc or val/loss")
    return flags


def archives(options: argparse.Namespace, model: nn.Module) -> dict[str, datasets.ChestDataset]:
    """The data sets that are joined."""
    labels = list(model.labels)
    if options.data == "synthetic":
        count = round(options.images / options.fractions[0])
        shared = {"size": min(model.input_spec.size), "balance": options.balance, "masks": False}
        places = label_sets.align(list(MAPPINGS[options.mapping]), labels)
        fewer = [label for label, place in zip(labels, places, strict=True) if place is not None]  # Open-i's labeller
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
    """Train, val and test: the archives joined, split by patient; the split of an earlier run is taken again."""
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
    untold = [
        label for label, column in zip(images.labels, images.targets.T, strict=True) if bool(column.isnan().all())
    ]
    if untold:
        print(f"of these no image tells anything: {', '.join(untold)}")
    return {**made, "shown": made["test"]}


def settings(options: argparse.Namespace, rate: float) -> dict[str, Any]:
    """Loss and optimizer."""
    make = torch.optim.Adam if options.recipe == "jaydurant" else torch.optim.AdamW
    return {"loss": options.loss, "optimizer": partial(make, lr=rate, weight_decay=options.weight_decay)}


def learning_rate(model: nn.Module, options: argparse.Namespace, data: Mapping[str, datasets.ChestDataset]) -> float:
    """The flag's, or the range test's; that of an earlier run is taken again."""
    if not options.find_lr:
        return float(options.lr)
    path = options.output / "learning_rate.json"
    if options.overwrite or not path.exists():
        if options.devices not in ("auto", "1"):
            raise SystemExit("--find-lr: first on one device, --devices 1 --epochs 1; its rate is then taken again")
        found = range_test(model, options, recipe.loaders(model, options, data, options.augmentation))
        with replacing(path) as scratch:
            scratch.write_text(json.dumps(found) + "\n", encoding="utf-8")
    found = json.loads(path.read_text(encoding="utf-8"))
    rate = float(found["suggestion"] or options.lr)
    print(f"learning rate: {rate:.3g} ({'range test' if found['suggestion'] else 'the range test came to no end'})")
    return rate


class Sweep(training.MultiLabelTask):
    """Take steps whose loss may be NaN or infinite, as at high learning rates: the range test goes on."""

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
        return self.objective(batch)


def range_test(model: nn.Module, options: argparse.Namespace, images: training.DataModule) -> dict[str, Any]:
    """Let Lightning train a copy of the model with a growing learning rate (Smith 2017, section 3.3)."""
    task = Sweep(copy.deepcopy(model), loss=options.loss, optimizer=partial(torch.optim.Adam, lr=options.lr))
    task.count(images.targets)  # the finder begins before the task could
    # the finder has a bar of its own, which no option turns off
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
    """Train all layers, or the last ones as the repository does."""
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
    """Print and keep precision, recall and F1 at 0.5, and at the thresholds that are best on the validation images."""
    best = np.nan_to_num(metrics.best_thresholds(val.targets, val.probabilities), nan=0.5)
    kept = {}
    for title, thresholds in (("0.5", 0.5), ("best on val", best)):
        report = metrics.multilabel_report(found.targets, found.probabilities, thresholds)
        kept[title] = {name: scores._asdict() for name, scores in report.items()}
        print(f"\nthresholds: {title:<12}{'precision':>10}{'recall':>10}{'F1':>10}")
        for name, scores in report.items():
            print(f"{name:<24}" + "".join(f"{score:>10.4f}" for score in scores))
    with replacing(options.output / "averages.json") as scratch:
        scratch.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
