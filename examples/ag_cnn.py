"""AG-CNN (Guan et al., 2018, arXiv 1801.09927): global branch, attention-guided crop, local branch, fusion.

    python examples/ag_cnn.py                                             # the synthetic data set, minutes on two cores
    python examples/ag_cnn.py --data nih14 --root /data/nih               # the paper's recipe, ResNet-50
    python examples/ag_cnn.py --data nih14 --root /data/nih --backbone densenet121 --batch-size 32
    python examples/ag_cnn.py --taus 0.3 0.5 0.7 0.9                      # ablations: threshold, ...
    python examples/ag_cnn.py --statistics max_abs l1 l2                  # ... heat, ...
    python examples/ag_cnn.py --order GLF                                 # ... and what is trained together

Three stages: the global branch; the local branch, on what the global one attends to; the layer over both. In each, the
rest is frozen, and the epoch that is best on the validation images goes on. For ChestX-ray14: ImageNet weights,
momentum 0.9 at a rate of 0.01, a tenth of it after 20 of 50 epochs, weight decay 1e-4, batches of 128, 64 and 64,
random crops and mirroring. On the synthetic data set everything is smaller, with AdamW, maps of stride 8, and a fusion
that begins as the global branch's layer.

Several thresholds or statistics share the global branch, which depends on neither, where a stage is its own.

The table has the AUROC of all three outputs. Where images have boxes, it says how often the attended box covers a
lesion (half of its area or more), and how often a box of the same size in the middle of the image does.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import recipe
import torch
from torch import Tensor, nn

import thoraxlib
from thoraxlib import datasets, localization, metrics, plotting, training
from thoraxlib.images import transform_for

SYNTHETIC: dict[str, Any] = {
    "size": 64,
    "images": 1000,
    "epochs": [6, 2, 3],
    "batch_size": 16,
    "lr": 3e-3,
    "cache": True,
}
SYNTHETIC |= {"weights": "none", "backbone": "resnet10t"}
NIH: dict[str, Any] = {"epochs": [50], "batch_size": 64, "lr": 0.01, "weights": "imagenet", "backbone": "resnet50"}
OUTPUTS = ("global", "local", "fusion")
TABLES = {"resnet50": "ResNet-50", "densenet121": "DenseNet-121"}


def main(argv: list[str] | None = None) -> float:
    """Run it; the mean AUROC of the last variant's fusion."""
    flags = recipe.parser("AG-CNN: a second look at what the first one attends to.", ("synthetic", "nih14"))
    flags.add_argument("--backbone", help="any of thoraxlib.backbones, for both branches")
    flags.add_argument("--pool", default="max", help="max, avg, lse, ...")
    flags.add_argument("--order", default="G_L_F", choices=training.recipes.ORDERS, help="what is trained together")
    flags.add_argument("--taus", type=float, nargs="+", default=[0.7], help="share of the highest heat")
    flags.add_argument("--statistics", nargs="+", default=["max_abs"], help="max_abs, l1, l2, sum")
    flags.add_argument("--weights", choices=("imagenet", "none"))
    flags.add_argument("--epochs", type=int, nargs="+", help="of all stages, or of each")
    flags.add_argument("--batch-size", type=int)
    flags.add_argument("--lr", type=float)
    known = flags.parse_known_args(argv)[0]
    flags.set_defaults(**{"synthetic": SYNTHETIC, "nih14": NIH}[known.data])
    options = recipe.parse(flags, "ag_cnn", argv)
    stages = schedule(options)
    variants = list(product(options.taus, options.statistics))
    data = recipe.parts(options, build(options, *variants[0]))
    shared = stages[:1] if stages[0].output == "global_logits" else []
    start = None
    if shared:
        first = train(build(options, *variants[0]), options, data, shared, options.output / "shared")
        start = {key: value.clone() for key, value in first.state_dict().items()}
    rows = []
    for tau, statistic in variants:
        folder = options.output if len(variants) == 1 else options.output / f"{statistic}_{tau}"
        model = build(options, tau, statistic)
        if start is not None:
            model.load_state_dict(start)
        model = train(model, options, data, stages[len(shared) :], folder)
        rows.append((f"{statistic} > {tau}", report(model, options, data, folder)))
    if len(rows) > 1:
        print(sweep(rows))
    return rows[-1][1][2].mean.auroc


def build(options: argparse.Namespace, tau: float, statistic: str) -> nn.Module:
    """The model; equal weights for equal seeds."""
    torch.manual_seed(options.seed)
    parts: dict[str, Any] = {"backbone": options.backbone, "pool": options.pool}
    parts["crop"] = {"name": "fixed", "tau": tau, "statistic": statistic}
    if options.order.endswith("*"):
        parts["detach_branches"] = False
    if options.data == "synthetic":  # whose images are small, and drawn at the size of the input
        parts["backbone"] = {"name": options.backbone, "output_stride": 8}
        parts["input_spec"] = {"resize": "stretch", "crop_ratio": 1.0}
    return recipe.build("ag_cnn", options, **parts)


def schedule(options: argparse.Namespace) -> list[training.Stage]:
    """The stages, with the settings of the data."""
    epochs = options.epochs[0] if len(options.epochs) == 1 else options.epochs
    if not isinstance(epochs, int):  # fewer stages for orders that train things together
        epochs = epochs[-len(options.order.split("_")) :]
    settings: dict[str, Any] = {"epochs": epochs}
    if options.data == "synthetic":
        settings |= {"batch_size": None, "scheduler": "onecycle"}
        settings["optimizer"] = partial(torch.optim.AdamW, lr=options.lr, weight_decay=0.01)
    else:
        settings["batch_size"] = options.batch_size
        settings["optimizer"] = partial(torch.optim.SGD, lr=options.lr, momentum=0.9, weight_decay=1e-4)
    stages = training.ag_cnn_stages(options.order, **settings)
    if options.data == "synthetic" and len(stages) > 1 and stages[-1].name == "fusion":
        stages[-1] = replace(stages[-1], prepare=begin_with_global)
    return stages


@torch.no_grad()
def begin_with_global(model: nn.Module) -> None:
    """The fusion begins as the global branch's layer: a few epochs are too few to learn it anew."""
    layer, known = model.head.fc, model.global_branch.head.fc
    layer.weight.zero_()[:, : known.in_features] = known.weight
    layer.bias.copy_(known.bias)


def train(
    model: nn.Module,
    options: argparse.Namespace,
    data: Mapping[str, datasets.ChestDataset],
    stages: list[training.Stage],
    folder: Path,
) -> nn.Module:
    """Train the stages; the model lies in ``folder/model``."""
    images = recipe.loaders(model, options, data, None if options.data == "synthetic" else "ag_cnn")
    results = training.fit_stages(model, images, stages, output=folder, **recipe.run_settings(options))
    for stage, result in zip(stages, results, strict=True):
        print(f"{stage.name}: epoch {result.epoch + 1} of {stage.epochs}, validation AUROC {result.score:.3f}")
    return model


class AllOutputs(nn.Module):
    """The logits of all three side by side, (N, 3 K)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        everything = self.model.forward_all(x)
        return torch.cat([everything.global_logits, everything.local_logits, everything.logits], dim=1)


@training.first_process
def report(
    model: nn.Module, options: argparse.Namespace, data: Mapping[str, datasets.ChestDataset], folder: Path
) -> list[metrics.Report]:
    """Score the test images: global, local, fusion beside the paper's; the box against the true ones; pictures."""
    test = data["test"]
    found = training.predict(
        AllOutputs(model),
        test,
        batch_size=options.batch_size,
        num_workers=options.workers,
        transform=transform_for(model.input_spec),
        progress=options.progress,
    )
    scores = dict(zip(OUTPUTS, found.probabilities.chunk(3, dim=1), strict=True))
    findings = [k for k, label in enumerate(model.labels) if label != "No Finding"]  # which the mean leaves out
    labels, targets = [model.labels[k] for k in findings], found.targets[:, findings]
    published = thoraxlib.describe("ag_cnn").published
    reports = []
    for name, probabilities in scores.items():
        title = f"AG-CNN paper, table I, {TABLES.get(options.backbone, 'ResNet-50')}, {name}"
        reference = {label: published[title][label] for label in labels if label in published[title]}
        given = {"reference": reference or None, "patient_ids": test.patient_ids}
        reports.append(metrics.evaluate(targets, probabilities[:, findings], labels, **given))
        reports[-1].save(folder / name)
    gain = metrics.bootstrap_difference(
        targets, scores["fusion"][:, findings], scores["global"][:, findings], patient_ids=test.patient_ids
    )
    difference = reports[2].mean.auroc - reports[0].mean.auroc
    lines = [table(reports), f"fusion - global: {difference:+.4f} ({gain.macro_low:+.4f} to {gain.macro_high:+.4f})"]
    hits = cover(model, test)
    if hits is not None:
        lines.append(told(hits))
        plotting.save(draw(model, data), folder / "attention.png")
    print("\n".join(lines))
    (folder / "result.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(
        f"written: {folder}/ (result.txt, {', '.join(OUTPUTS)}, model{', attention.png' if hits is not None else ''})"
    )
    return reports


def table(reports: list[metrics.Report]) -> str:
    """AUROC of the three outputs, with 95 % intervals, and the paper's."""
    lines = ["", f"{'AUROC':<20}" + "".join(f"{name:>22}" for name in OUTPUTS) + "   the paper's (other images)"]
    for rows in [*zip(*(report.rows for report in reports), strict=True), tuple(report.mean for report in reports)]:
        ours = [f"{row.auroc:.3f} ({row.auroc_low:.3f}-{row.auroc_high:.3f})" for row in rows]
        theirs = [f"{row.reference:.3f}" if row.reference is not None else "" for row in rows]
        lines.append(f"{rows[0].label:<20}" + "".join(f"{cell:>22}" for cell in ours) + "   " + "  ".join(theirs))
    return "\n".join(lines)


def cover(model: nn.Module, test: datasets.ChestDataset) -> Tensor | None:
    """For each true box: its image, whether the attended box and a centred one of its size cover it, and their area."""
    rows = []
    for batch in recipe.boxed(model, test):
        with torch.inference_mode():
            attended = model.eval().forward_features(batch["image"]).attention.box.cpu().float()
        height, width = batch["image"].shape[-2:]
        half = (attended[:, 2:] - attended[:, :2]) / 2
        middle = torch.tensor([width, height]) / 2
        centred = torch.cat([middle - half, middle + half], dim=1)
        area = (4 * half.prod(dim=1)) / (width * height)
        for k, true in enumerate(batch["boxes"]):
            both = torch.stack([attended[k], centred[k]])
            for inside in (localization.box_iogt(both, true.as_subclass(Tensor)) >= 0.5).T.tolist():
                rows.append([float(batch["index"][k]), *map(float, inside), float(area[k])])
    return torch.tensor(rows) if rows else None


def told(hits: Tensor) -> str:
    """How often, with the bootstrap interval of the difference over images."""
    image, counts = hits[:, 0].unique(return_inverse=True)
    per_image = torch.zeros(len(image), 3).index_add_(
        0, counts, torch.cat([hits[:, 1:3], torch.ones(len(hits), 1)], dim=1)
    )
    rng = np.random.default_rng(0)
    drawn = torch.from_numpy(rng.multinomial(len(image), np.full(len(image), 1 / len(image)), size=1000)).float()
    attended, centred, boxes = (drawn @ per_image).unbind(dim=1)
    low, high = np.quantile(((attended - centred) / boxes).numpy(), [0.025, 0.975])
    ours, middle = hits[:, 1].mean(), hits[:, 2].mean()
    return (
        f"lesions covered by half or more ({len(hits)} on {len(image)} images): attended box {ours:.3f}, centred box "
        f"of equal size {middle:.3f}, difference {ours - middle:+.3f} ({low:+.3f} to {high:+.3f}); "
        f"median area of the box {hits[:, 3].median():.2f} of the image"
    )


def draw(model: nn.Module, data: Mapping[str, datasets.ChestDataset], images: int = 4) -> Any:
    """A row for each of some images: with true and attended box, heat, mask, crop."""
    batch = next(recipe.boxed(model, data["test"]))
    with torch.inference_mode():
        seen = model.eval().forward_features(batch["image"][:images]).attention
    mean, std = (torch.tensor(value)[:, None, None] for value in (model.input_spec.mean, model.input_spec.std))
    cells, titles = [], []
    for k in range(len(seen.box)):
        image, crop = ((x.cpu() * std + mean).clamp(0, 1) for x in (batch["image"][k], seen.crop[k]))
        names = ", ".join(model.labels[label] for label in batch["box_labels"][k].tolist())
        boxed = plotting.draw_boxes(
            plotting.draw_boxes(image, batch["boxes"][k], truth=True), seen.box[k : k + 1].cpu()
        )
        mask = 0.5 * seen.mask[k].float() + 0.5 * seen.component[k].float()
        cells += [boxed, plotting.overlay(image, seen.heat[k].cpu()), mask[None].cpu(), crop]
        titles += [names, "heat", "mask, largest component", "crop"]
    return plotting.panel(cells, titles, columns=4, legend=True)


def sweep(rows: list[tuple[str, list[metrics.Report]]]) -> str:
    """Mean AUROC of the three outputs for each variant."""
    lines = ["", f"{'mean AUROC':<16}" + "".join(f"{name:>10}" for name in OUTPUTS)]
    lines += [f"{name:<16}" + "".join(f"{each.mean.auroc:>10.3f}" for each in reports) for name, reports in rows]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
