"""Code that the examples share: flags, data, training, tables and figures."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn
from torch.nn import functional

import thoraxlib
from thoraxlib import cams, datasets, explanation, graphs, localization, metrics, plotting, training
from thoraxlib.images import transform_for
from thoraxlib.localization import Boxes, localization_table, pointing_game
from thoraxlib.registry import Spec

SHORT = (("iobb", 0.5), ("iou", 0.1), ("iou", 0.3))
NIH_TEST_LISTS = ("test", "dev_multi", "val")  # the first one in the folder is used
OWN = ("csv", "folder")  # a user's own images: a table, or folders by class
DATA = ("synthetic", "nih14", "chexpert", *OWN)


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Show the default of every flag that has one; not of switches."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or isinstance(action.default, bool):
            return action.help
        return super()._get_help_string(action)


def parser(description: str, choices: tuple[str, ...] = DATA) -> argparse.ArgumentParser:
    """Return a parser with the flags of data and run; each example adds its hyper-parameters."""
    flags = argparse.ArgumentParser(description=description, formatter_class=HelpFormatter)
    data = flags.add_argument_group("data")
    data.add_argument("--data", choices=choices, default="synthetic", help="data set")
    data.add_argument("--root", type=Path, help="folder of the release or of the images; not for --data synthetic")
    data.add_argument(
        "--uncertain", default="jf", help="policy for the label -1 of CheXpert: jf, ones, zeros, ignore, ..."
    )
    data.add_argument("--labels", nargs="+", help="a label set or names of labels, instead of the model's own")
    data.add_argument("--size", type=int, help="side of the input in pixels, instead of the model's own")
    data.add_argument("--num-images", type=int, default=4000, help="number of training images, for --data synthetic")
    data.add_argument(
        "--balance", type=float, default=1.0, help="prevalence of synthetic findings: 0 as in NIH, 1: 0.15 each"
    )
    if set(OWN) & set(choices):
        own = flags.add_argument_group("own images (--data csv: a table; --data folder: folders by class)")
        own.add_argument("--table", type=Path, help="the table: CSV or Parquet; --root is its folder by default")
        own.add_argument("--image", default="image", help="column of the images: paths below --root, or bare names")
        own.add_argument("--patient", help="column of the patients; for folders a regular expression on file names")
        own.add_argument("--labels-column", help="column that lists all labels; default: one column for each label")
        own.add_argument("--split-column", help="column with train, val and test; default: a split by patient")
        own.add_argument(
            "--data-options", nargs="+", default=[], metavar="NAME=VALUE", help="other options of the data set, as JSON"
        )
    run_flags(flags)
    return flags


def run_flags(flags: argparse.ArgumentParser) -> None:
    """Add the flags of the group "run"."""
    run = flags.add_argument_group("run")
    run.add_argument("--output", type=Path, help="folder for all results; default: outputs/<name of the example>")
    run.add_argument("--seed", type=int, default=0, help="random seed")
    run.add_argument("--num-workers", type=int, default=0, help="processes that read images")
    run.add_argument("--cache", action="store_true", help="keep all images in memory; they need one size")
    run.add_argument("--device", default="auto", help="accelerator of Lightning: auto, cpu, gpu, mps")
    run.add_argument("--devices", default="auto", help="devices on each machine: auto, a number, or a list such as 0,1")
    run.add_argument("--num-nodes", type=int, default=1, help="number of machines; each runs this command")
    run.add_argument("--strategy", default="auto", help="strategy of Lightning: auto, ddp, ...")
    run.add_argument(
        "--precision", default="32-true", help="precision of Lightning: 32-true, bf16-mixed, 16-mixed, ..."
    )
    run.add_argument("--accumulate", type=int, default=1, help="batches for each step on each device")
    run.add_argument(
        "--patience", type=int, help="stop after this number of epochs without improvement; default: never"
    )
    run.add_argument("--no-progress", dest="progress", action="store_false", help="show no progress bars")
    run.add_argument("--overwrite", action="store_true", help="start again instead of resuming the run in --output")


def early(flags: argparse.ArgumentParser, argv: list[str] | None, name: str = "data") -> str:
    """Read one flag before the others: defaults that depend on it can be set, and --help shows them."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument(f"--{name}", default=flags.get_default(name))
    return str(getattr(first.parse_known_args(argv)[0], name))


def parse(
    flags: argparse.ArgumentParser, name: str, argv: list[str] | None, *, folder: str | None = "root"
) -> argparse.Namespace:
    """Parse the flags and check them together; real data need the flag `folder`, unless it is None, or a table."""
    options = flags.parse_args(argv)
    needed = "table" if options.data == "csv" else folder
    if needed and options.data != "synthetic" and getattr(options, needed) is None:
        what = "folder of the images" if options.data == "folder" else "folder of the release"
        flags.error(f"--data {options.data} needs --{needed}, the {'table' if options.data == 'csv' else what}")
    if options.data in OWN and not options.labels:
        options.labels = list(own_images(options, "all").labels)
    options.output = options.output or Path("outputs") / name
    if not training.is_first_process():
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  # until the process ends
    torch.set_flush_denormal(True)  # gradients of untrained networks get so small that a CPU becomes slow
    return options


def build(name: str, options: argparse.Namespace, **components: Any) -> nn.Module:
    """Build a model; if ImageNet weights cannot be loaded, print the reason and build it without them."""
    if options.labels:
        components["labels"] = label_set(options.labels)
    if options.size:
        components["input_spec"] = {**components.get("input_spec", {}), "size": [options.size, options.size]}
    if options.weights == "imagenet":
        try:
            return thoraxlib.build(name, pretrained=True, **components)
        except (RuntimeError, ValueError) as error:  # no network, or no weights were published
            print(f"{error}\nGoing on from scratch; --weights none does so without this message.", file=sys.stderr)
    return thoraxlib.build(name, **components)


def label_set(names: list[str]) -> str | list[str]:
    """Return the label set that --labels names, or the labels themselves."""
    return names[0] if len(names) == 1 and names[0] in thoraxlib.labels.names() else names


def label_counts(images: datasets.ChestDataset, labels: Sequence[str]) -> graphs.LabelCounts:
    """Count the training labels for a label graph; if a label never occurs, use the shipped counts and print so."""
    counts = graphs.LabelCounts.of(images.targets, labels)
    if not counts.absent:
        return counts
    print(f"no training image has {', '.join(counts.absent)}: the label graph uses the shipped counts")
    return graphs.counts.shipped(labels)


def parts(options: argparse.Namespace, model: nn.Module) -> dict[str, datasets.ChestDataset]:
    """Return train, val and test, disjoint in patients; "shown" has the test images in the size of the figures."""
    labels = list(model.labels)
    if options.data == "synthetic":
        side = min(model.input_spec.size)
        images = {
            "train": options.num_images,
            "val": max(options.num_images // 8, 8),
            "test": max(options.num_images // 3, 16),
        }
        shared = {"labels": labels, "balance": options.balance, "masks": False}
        seeds = dict(zip(images, range(3 * options.seed, 3 * options.seed + 3), strict=True))
        made = {
            part: datasets.build("synthetic", size=side, length=images[part], seed=seeds[part], **shared)
            for part in images
        }
        # the same images, larger, for the figures
        large = datasets.build("synthetic", size=max(side, 256), length=images["test"], seed=seeds["test"], **shared)
        return {**made, "shown": large}
    if options.data in OWN:
        made = {part: own_images(options, part, labels) for part in ("train", "val", "test")}
        return {**made, "shown": made["test"]}
    if options.data == "chexpert":
        shared = {"root": options.root, "labels": labels, "uncertain": options.uncertain}
        splits = {"train": "train", "val": "val", "test": "valid"}
        made = {part: datasets.build("chexpert", split=split, **shared) for part, split in splits.items()}
        return {**made, "shown": made["test"]}
    if options.data == "mimic_cxr":
        shared = {"root": options.root, "labels": labels, "uncertain": options.uncertain, "views": "Frontal"}
        made = {part: datasets.build("mimic_cxr", split=part, **shared) for part in ("train", "val", "test")}
        return {**made, "shown": made["test"]}
    if options.data == "chest_imagenome":
        shared = {"root": options.root, "images": options.images, "labels": labels}
        made = {part: datasets.build("chest_imagenome", split=part, **shared) for part in ("train", "val", "test")}
        return {**made, "shown": made["test"]}
    made = {part: datasets.build("nih14", root=options.root, split=part, labels=labels) for part in ("train", "val")}
    test = _nih_test(options.root, labels)
    return {**made, "test": test, "shown": test}


def own_images(options: argparse.Namespace, split: str, labels: str | list[str] | None = None) -> datasets.ChestDataset:
    """Return a part of a user's own images; by default with all labels of the table or the folders."""
    given: dict[str, Any] = {"patient": options.patient}
    if options.root is not None:
        given["root"] = options.root
    if options.data == "csv":
        given |= {"table": options.table, "image": options.image}
        given |= {"labels_column": options.labels_column, "split_column": options.split_column}
    for option in options.data_options:
        name, _, value = option.partition("=")
        try:
            given[name] = json.loads(value)
        except ValueError:
            given[name] = value
    return datasets.build(options.data, split=split, labels=labels, **given)


def _nih_test(root: Path, labels: list[str]) -> datasets.ChestDataset:
    for split in NIH_TEST_LISTS:
        try:
            test = datasets.build("nih14", root=root, split=split, labels=labels)
        except FileNotFoundError as error:
            reason = error
            continue
        print(f"test: {len(test)} images of the list {split!r}")
        return test
    raise reason


def fit(
    model: nn.Module,
    options: argparse.Namespace,
    data: Mapping[str, datasets.ChestDataset],
    *,
    augmentation: str | None = None,
    **settings: Any,
) -> nn.Module:
    """Train, and return the model of the best epoch by `monitor`, which is also saved to ``output/model``."""
    images = loaders(model, options, data, augmentation)
    result = training.fit(
        model, images, output=options.output, epochs=options.epochs, **run_settings(options), **settings
    )
    return result.model


def loaders(
    model: nn.Module,
    options: argparse.Namespace,
    data: Mapping[str, datasets.ChestDataset],
    augmentation: Spec | None = None,
    **settings: Any,
) -> training.DataModule:
    """Return a data module with the model's input; `settings` replace the values of the flags."""
    flags = {"batch_size": options.batch_size, "num_workers": options.num_workers, "cache": options.cache}
    return training.DataModule(
        data["train"],
        data["val"],
        train_transform=transform_for(model.input_spec, train=augmentation),
        eval_transform=transform_for(model.input_spec),
        seed=options.seed,
        **{**flags, **settings},
    )


def run_settings(options: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of ``training.fit`` that the flags of the group "run" set."""
    return {
        "patience": options.patience,
        "accelerator": options.device,
        "devices": options.devices,
        "num_nodes": options.num_nodes,
        "strategy": options.strategy,
        "precision": options.precision,
        "accumulate": options.accumulate,
        "progress": options.progress,
        "resume": not options.overwrite,
        "seed": options.seed,
        "channels_last": True,
    }


def predictions(model: nn.Module, options: argparse.Namespace, images: datasets.ChestDataset) -> training.Predictions:
    """Predict all images, with the model's input."""
    return training.predict(
        model,
        images,
        batch_size=options.batch_size,
        num_workers=options.num_workers,
        transform=transform_for(model.input_spec),
        progress=options.progress,
    )


@training.first_process
def report(
    model: nn.Module,
    options: argparse.Namespace,
    data: Mapping[str, datasets.ChestDataset],
    *,
    published: str | None = None,
    heat_maps: tuple[str, ...] = ("cam", "gradcam"),
    rules: Mapping[str, Spec] | None = None,
    found: training.Predictions | None = None,
) -> metrics.Report:
    """Score the test images: AUROC beside the published one, and how often peaks of heat maps lie in the true boxes.

    `rules` maps the name of a heat map to a box rule, whose boxes are scored as well. `found` are predictions that
    were made before.
    """
    folder, test = options.output, data["test"]
    found = found or predictions(model, options, test)
    reference = None
    if published is not None:
        table = thoraxlib.describe(model.config["name"]).published[published]
        reference = {label: value for label, value in table.items() if label in model.labels}
    result = metrics.evaluate(
        found.targets, found.probabilities, model.labels, reference=reference or None, patient_ids=test.patient_ids
    )
    result.save(folder)
    print(result)
    if published is not None and reference:
        print(f"published: {published}; measured on other images")
    hits = peaks(model, test, heat_maps) if heat_maps else {}
    if hits:
        print(_peak_table(hits))
        (folder / "peaks.json").write_text(json.dumps(hits, indent=2) + "\n", encoding="utf-8")
    for method, rule in (rules or {}).items():
        boxes(model, options, test, method, rule)
    if heat_maps:
        plotting.save(draw(model, data, found, heat_maps[0]), folder / "panel.png")
    print(f"written: {folder}/ (metrics, {'panel.png, ' if heat_maps else ''}model/)")
    return result


def cam_of(method: str, model: nn.Module) -> cams.ClassActivationMap:
    """Build a heat map by name; ``"gradcam@1"`` uses the second of several feature maps."""
    name, _, stage = method.partition("@")
    return cams.build(name, model, int(stage) if stage else None)


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def boxed(model: nn.Module, test: datasets.ChestDataset) -> Iterator[dict[str, Any]]:
    """Yield batches of the images that have boxes, on the model's device, with their indices."""
    if not _has_boxes(test):
        return
    transform = transform_for(model.input_spec)
    for part in torch.split(torch.nonzero(test.boxed).flatten(), 32):
        batch = datasets.collate([transform(test[index]) for index in part.tolist()])
        yield {**batch, "image": batch["image"].to(_device(model)), "index": part}


def peaks(model: nn.Module, test: datasets.ChestDataset, methods: tuple[str, ...]) -> dict[str, dict[str, list[int]]]:
    """Count how often the peak of a heat map lies in a true box of its finding: column -> label -> [hits, images].

    The last column allows a distance of 15 pixels of 224 for the first method, the margin of Zhang et al. (2016).
    """
    side = min(model.input_spec.size)
    columns = {method: (method, 0.0) for method in methods}
    columns[f"{methods[0]} +15/224"] = (methods[0], 15 / 224 * side)
    counts = {column: torch.zeros(2, len(model.labels), dtype=torch.long) for column in columns}
    for batch in boxed(model, test):
        x = batch["image"]
        # bicubic: the peak may lie between the centres of locations
        maps = {
            method: functional.interpolate(cam_of(method, model)(x), x.shape[-2:], mode="bicubic").cpu()
            for method in methods
        }
        for column, (method, margin) in columns.items():
            truth = batch["boxes"], batch["box_labels"], tuple(x.shape[-2:])
            counts[column] += torch.stack(pointing_game(maps[method], *truth, tolerance=margin))
    found = [k for k in range(len(model.labels)) if counts[methods[0]][1, k]]
    if not found:
        return {}
    return {column: {model.labels[k]: of[:, k].tolist() for k in found} for column, of in counts.items()}


def _peak_table(hits: dict[str, dict[str, list[int]]]) -> str:
    lines = ["", "peak of the heat map inside a true box (hits/images)"]
    width = max(len(label) for counts in hits.values() for label in counts)
    lines.append(" " * width + "".join(f"{method:>18}" for method in hits))
    for label in next(iter(hits.values())):
        cells = [counts[label] for counts in hits.values()]
        lines.append(f"{label:<{width}}" + "".join(f"{f'{h / n:.2f} ({h}/{n})':>18}" for h, n in cells))
    return "\n".join(lines) + "\n"


def draw(
    model: nn.Module, data: Mapping[str, datasets.ChestDataset], found: training.Predictions, method: str
) -> Image.Image:
    """Draw for each finding the true positive of highest probability with its boxes, beside its heat map."""
    transform, cam = transform_for(model.input_spec), cam_of(method, model)
    cells, titles = [], []
    for k in _shown(model.labels, found)[:9]:
        positive = torch.where(found.targets[:, k] == 1, found.probabilities[:, k], torch.tensor(-1.0))
        index = int(positive.argmax())
        image = data["shown"][index]
        boxes = image["boxes"][image["box_labels"] == k] if "boxes" in image else torch.zeros(0, 4)
        x = transform({"image": data["test"][index]["image"]})["image"][None]
        heat = cam(x.to(_device(model)), labels=[k])[0, 0].cpu()
        cells += [
            plotting.draw_boxes(image["image"], boxes),
            plotting.draw_boxes(plotting.overlay(image["image"], heat), boxes),
        ]
        titles += [model.labels[k], f"p = {float(positive.max()):.2f}"]
    return plotting.panel(cells, titles, columns=6)


def _shown(labels: tuple[str, ...], found: training.Predictions) -> list[int]:
    """Return the findings with a positive image; the eight findings of NIH's box list first."""
    boxed = thoraxlib.labels.build("nih8")
    order = sorted(range(len(labels)), key=lambda k: (labels[k] not in boxed, k))
    return [k for k in order if bool((found.targets[:, k] == 1).any())]


def boxes(
    model: nn.Module, options: argparse.Namespace, test: datasets.ChestDataset, method: str, rule: Spec
) -> localization.LocalizationTable | None:
    """Score boxes of a heat map against the true boxes as ChestX-ray8 does, and write them as COCO JSON."""
    if not _has_boxes(test):
        return None
    found = explanation.localize(model, test, method=method, rule=rule)
    # with_label: detections of a label count only in images with this label; accuracy does not depend on it
    settings = {"images": "with_label", "n_bootstrap": 1000}
    table = localization_table(found.detected, found.truth, model.labels, **settings)
    short = localization_table(found.detected, found.truth, model.labels, rows=SHORT, **settings)
    title = f"boxes of {method!r} by {rule} on {len(found.ids)} images"
    means = ", ".join(f"{criterion} > {t}: {short.mean_accuracy(criterion, t):.3f}" for criterion, t in SHORT)
    print(
        f"{title}\n{short}\nmean accuracy: {means}; false positives for each true box {float(short.afp[0].sum()):.2f}\n"
    )
    (options.output / f"boxes_{method}.txt").write_text(f"{title}\n{table}\n", encoding="utf-8")
    localization.save_coco(
        options.output / f"boxes_{method}.json", found.detected, model.labels, found.ids, found.sizes
    )
    return table


def tuned(model: nn.Module, val: datasets.ChestDataset, method: str, name: str, **grid: list[Any]) -> dict[str, Any]:
    """Return a box rule with the options that are best on the validation images (accuracy at IoU > 0.3)."""
    options = {key: values[0] for key, values in grid.items()}
    if _has_boxes(val):
        size = tuple(model.input_spec.size)
        maps, found, count = [], [], 0
        for batch in boxed(model, val):
            maps.append(cams.build(method, model)(batch["image"]).cpu())
            truth = Boxes.from_lists(batch["boxes"], batch["box_labels"])
            found.append(truth._replace(image=truth.image + count))
            count += len(maps[-1])
        options = explanation.tune(name, grid, torch.cat(maps), size, Boxes.concatenate(found))
    return {"name": name, **options}


def _has_boxes(images: datasets.ChestDataset) -> bool:
    return bool(getattr(images, "boxed", torch.zeros(1)).any())
