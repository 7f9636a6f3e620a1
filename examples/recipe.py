"""What the examples share: flags, data, the training call, and the table and pictures at the end."""

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
NIH_TEST_LISTS = ("test", "dev_multi", "val")  # the first that the folder has


DATA = ("synthetic", "nih14", "chexpert")


def parser(description: str, choices: tuple[str, ...] = DATA) -> argparse.ArgumentParser:
    """Flags of data, run and reporting; the hyper-parameters belong to each example."""
    flags = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    data = flags.add_argument_group("data")
    data.add_argument("--data", choices=choices, default="synthetic")
    data.add_argument("--root", type=Path, help="folder of the release, for all --data but synthetic")
    data.add_argument("--uncertain", default="jf", help="what -1 means in CheXpert: jf, ones, zeros, ignore, ...")
    data.add_argument("--labels", nargs="+", help="a label set, or label names; by default the model's own")
    data.add_argument("--size", type=int, help="side of the input in pixels; by default the model's own")
    data.add_argument("--images", type=int, default=4000, help="training images, for --data synthetic")
    data.add_argument("--balance", type=float, default=1.0, help="0: prevalence as in NIH, 1: 0.15 each (synthetic)")
    run = flags.add_argument_group("run")
    run.add_argument("--output", type=Path, help="by default outputs/<name of the example>")
    run.add_argument("--seed", type=int, default=0)
    run.add_argument("--num-workers", type=int, default=0, help="processes that read images")
    run.add_argument("--cache", action="store_true", help="keep the images in memory (all of one size)")
    run.add_argument("--device", default="auto", help="Lightning accelerator: auto, cpu, gpu, mps")
    run.add_argument("--devices", default="auto", help="Lightning devices on each machine: auto, 2, or 0,1 (numbers)")
    run.add_argument("--num-nodes", type=int, default=1, help="machines, each of which runs this command")
    run.add_argument("--strategy", default="auto", help="Lightning strategy: auto, ddp, ...")
    run.add_argument("--precision", default="32-true", help="Lightning precision, e.g. bf16-mixed, 16-mixed")
    run.add_argument("--accumulate", type=int, default=1, help="batches for each step, on each device")
    run.add_argument("--patience", type=int, help="stop after so many epochs without gain")
    run.add_argument("--no-progress", dest="progress", action="store_false", help="no progress bars")
    run.add_argument("--overwrite", action="store_true", help="do not go on from an interrupted run in --output")
    return flags


def parse(
    flags: argparse.ArgumentParser, name: str, argv: list[str] | None, *, folder: str = "root"
) -> argparse.Namespace:
    """The flags' values, checked together; real data need `folder`."""
    options = flags.parse_args(argv)
    if options.data != "synthetic" and getattr(options, folder) is None:
        flags.error(f"--data {options.data} needs --{folder}, the folder of the release")
    options.output = options.output or Path("outputs") / name
    if not training.is_first_process():
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  # until the process ends
    torch.set_flush_denormal(True)  # gradients of untrained networks get so small that a CPU becomes slow
    return options


def build(name: str, options: argparse.Namespace, **parts: Any) -> nn.Module:
    """The model; from scratch, with a word about it, where ImageNet weights were wanted and cannot be had."""
    if options.labels:
        parts["labels"] = label_set(options.labels)
    if options.size:
        parts["input_spec"] = {**parts.get("input_spec", {}), "size": [options.size, options.size]}
    if options.weights == "imagenet":
        try:
            return thoraxlib.build(name, pretrained=True, **parts)
        except (RuntimeError, ValueError) as error:  # offline, or none were ever published
            print(f"{error}\nGoing on from scratch; --weights none asks for that.", file=sys.stderr)
    return thoraxlib.build(name, **parts)


def label_set(names: list[str]) -> str | list[str]:
    """What --labels says: the name of a label set, or labels."""
    return names[0] if len(names) == 1 and names[0] in thoraxlib.labels.names() else names


def label_counts(images: datasets.ChestDataset, labels: Sequence[str]) -> graphs.LabelCounts:
    """Counts of the training labels, for a label graph; shipped ones, with a word about it, where a label has none."""
    counts = graphs.LabelCounts.of(images.targets, labels)
    if not counts.absent:
        return counts
    print(f"no training image has {', '.join(counts.absent)}: the graph is that of shipped counts")
    return graphs.counts.shipped(labels)


def parts(options: argparse.Namespace, model: nn.Module) -> dict[str, datasets.ChestDataset]:
    """Train, val and test, disjoint in patients, and the test images as pictures show them."""
    labels = list(model.labels)
    if options.data == "synthetic":
        side = min(model.input_spec.size)
        images = {"train": options.images, "val": max(options.images // 8, 8), "test": max(options.images // 3, 16)}
        shared = {"labels": labels, "balance": options.balance, "masks": False}
        seeds = dict(zip(images, range(3 * options.seed, 3 * options.seed + 3), strict=True))
        made = {
            part: datasets.build("synthetic", size=side, length=images[part], seed=seeds[part], **shared)
            for part in images
        }
        # the same images, for pictures
        large = datasets.build("synthetic", size=max(side, 256), length=images["test"], seed=seeds["test"], **shared)
        return {**made, "shown": large}
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
    """Train; the best model by `monitor` comes back and lies in ``output/model``."""
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
    """The images as the model takes them; `settings` of the data module win over the flags."""
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
    """What the flags say about any training."""
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
    """Of all images, as the model takes them."""
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
    """Score the test images: AUROC beside the published one, heat maps, how often their peaks hit the true boxes.

    `rules` names for a heat map how boxes are made of it; these are scored as well. `found` are the predictions, where
    they have been made already.
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
        print(f"published: {published}; its images are not these")
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
    """A heat map by name; ``"gradcam@1"`` is that of the second of several maps."""
    name, _, stage = method.partition("@")
    return cams.build(name, model, int(stage) if stage else None)


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def boxed(model: nn.Module, test: datasets.ChestDataset) -> Iterator[dict[str, Any]]:
    """Batches of the images that have boxes, as the model takes them, on its device; with their positions."""
    if not _has_boxes(test):
        return
    transform = transform_for(model.input_spec)
    for part in torch.split(torch.nonzero(test.boxed).flatten(), 32):
        batch = datasets.collate([transform(test[index]) for index in part.tolist()])
        yield {**batch, "image": batch["image"].to(_device(model)), "index": part}


def peaks(model: nn.Module, test: datasets.ChestDataset, methods: tuple[str, ...]) -> dict[str, dict[str, list[int]]]:
    """How often the peak of a finding's heat map lies in one of its true boxes: column -> label -> [hits, images].

    The last column lets the first method miss by 15 pixels of 224, the margin of Zhang et al. (2016).
    """
    side = min(model.input_spec.size)
    columns = {method: (method, 0.0) for method in methods}
    columns[f"{methods[0]} +15/224"] = (methods[0], 15 / 224 * side)
    counts = {column: torch.zeros(2, len(model.labels), dtype=torch.long) for column in columns}
    for batch in boxed(model, test):
        x = batch["image"]
        # cubic: the peak may lie between the centres of cells
        maps = {
            method: functional.interpolate(cam_of(method, model)(x), x.shape[-2:], mode="bicubic").cpu()
            for method in methods
        }
        for column, (method, margin) in columns.items():
            truth = batch["boxes"], batch["box_labels"], tuple(x.shape[-2:])
            counts[column] += torch.stack(pointing_game(maps[method], *truth, tolerance=margin))
    found = [k for k in range(len(model.labels)) if counts[methods[0]][1, k]]
    return (
        {column: {model.labels[k]: of[:, k].tolist() for k in found} for column, of in counts.items()} if found else {}
    )


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
    """A picture: for each finding the surest true positive with its boxes, beside its heat map."""
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
    """Findings that have a positive image; those of NIH's box list first."""
    boxed = thoraxlib.labels.build("nih8")
    order = sorted(range(len(labels)), key=lambda k: (labels[k] not in boxed, k))
    return [k for k in order if bool((found.targets[:, k] == 1).any())]


def boxes(
    model: nn.Module, options: argparse.Namespace, test: datasets.ChestDataset, method: str, rule: Spec
) -> localization.LocalizationTable | None:
    """Boxes of a heat map against the true ones, as ChestX-ray8 counts them; and the boxes as COCO JSON."""
    if not _has_boxes(test):
        return None
    found = explanation.localize(model, test, method=method, rule=rule)
    # with_label: the detections of a label count on the images that have it; accuracy does not depend on that
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
    """A rule with the options that suit the validation images best (accuracy at IoU > 0.3)."""
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
