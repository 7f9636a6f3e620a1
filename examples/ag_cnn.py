"""AG-CNN (Guan et al., 2018, arXiv 1801.09927): global branch, attention-guided crop, local branch, fusion.

    python examples/ag_cnn.py                                             # the synthetic data set, minutes on two cores
    python examples/ag_cnn.py --data nih14 --root /data/nih               # the paper's recipe, ResNet-50
    python examples/ag_cnn.py --data nih14 --root /data/nih --backbone densenet121 --batch-size 32
    python examples/ag_cnn.py --taus 0.3 0.5 0.7 0.9                      # ablations: threshold
    python examples/ag_cnn.py --statistics max_abs l1 l2                  # ablations: heat map
    python examples/ag_cnn.py --order GLF                                 # ablations: order of training

Three stages train the global branch, the local branch on the crops of the global one, and the fusion layer over both.
The other modules are frozen in each stage, and the epoch that is best on the validation images goes on to the next
stage. For ChestX-ray14: ImageNet weights, SGD with momentum 0.9 at a learning rate of 0.01, divided by 10 after 20 of
50 epochs, weight decay 1e-4, batches of 128, 64 and 64, random crops and mirroring. On the synthetic data set
everything is smaller, with AdamW, feature maps of stride 8, and a fusion initialised with the global branch's layer.

If the global branch is trained in a stage of its own, several thresholds or statistics share it: it depends on neither.

The table has the AUROC of all three outputs. For images with true boxes, it also gives the share of lesions of which
the attended box covers half or more, and the same share for a box of equal size in the middle of the image.
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
    "num_images": 1000,
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
    """Run the example and return the mean AUROC of the last variant's fusion."""
    sources = ("synthetic", "nih14", *recipe.OWN)
    flags = recipe.parser("AG-CNN: global branch, attention-guided crop, local branch, fusion.", sources)
    flags.add_argument("--backbone", help="any of thoraxlib.backbones, for both branches")
    flags.add_argument("--pool", default="max", help="pooling: max, avg, lse, ...")
    flags.add_argument(
        "--order", default="G_L_F", choices=training.recipes.ORDERS, help="order of training; _ separates stages"
    )
    flags.add_argument(
        "--taus", type=float, nargs="+", default=[0.7], help="thresholds, as a share of the maximum of the heat map"
    )
    flags.add_argument(
        "--statistics", nargs="+", default=["max_abs"], help="heat map from the channels: max_abs, l1, l2, sum"
    )
    flags.add_argument("--weights", choices=("imagenet", "none"), help="initial weights of the backbone")
    flags.add_argument("--epochs", type=int, nargs="+", help="number of epochs of every stage, or of each")
    flags.add_argument("--batch-size", type=int, help="images in a batch on each device")
    flags.add_argument("--lr", type=float, help="learning rate")
    flags.set_defaults(**(SYNTHETIC if recipe.early(flags, argv) == "synthetic" else NIH))
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
    """Build the model; equal seeds give equal weights."""
    torch.manual_seed(options.seed)
    components: dict[str, Any] = {"backbone": options.backbone, "pool": options.pool}
    components["crop"] = {"name": "fixed", "tau": tau, "statistic": statistic}
    if options.order.endswith("*"):
        components["detach_branches"] = False
    if options.data == "synthetic":  # small images, drawn at the size of the input
        components["backbone"] = {"name": options.backbone, "output_stride": 8}
        components["input_spec"] = {"resize": "stretch", "crop_ratio": 1.0}
    return recipe.build("ag_cnn", options, **components)


def schedule(options: argparse.Namespace) -> list[training.Stage]:
    """Return the stages, with settings for the data set."""
    epochs = options.epochs[0] if len(options.epochs) == 1 else options.epochs
    if not isinstance(epochs, int):  # orders that train modules together have fewer stages
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
        stages[-1] = replace(stages[-1], prepare=start_from_global)
    return stages


@torch.no_grad()
def start_from_global(model: nn.Module) -> None:
    """Initialise the fusion with the global branch's layer: a few epochs do not train random weights."""
    layer, trained = model.head.fc, model.global_branch.head.fc
    layer.weight.zero_()[:, : trained.in_features] = trained.weight
    layer.bias.copy_(trained.bias)


def train(
    model: nn.Module,
    options: argparse.Namespace,
    data: Mapping[str, datasets.ChestDataset],
    stages: list[training.Stage],
    folder: Path,
) -> nn.Module:
    """Train the stages, and save the model to ``folder/model``."""
    images = recipe.loaders(model, options, data, None if options.data == "synthetic" else "ag_cnn")
    results = training.fit_stages(model, images, stages, output=folder, **recipe.run_settings(options))
    for stage, result in zip(stages, results, strict=True):
        print(f"{stage.name}: epoch {result.epoch + 1} of {stage.epochs}, validation AUROC {result.score:.3f}")
    return model


class AllOutputs(nn.Module):
    """Concatenate the logits of the three outputs, (N, 3 K)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        outputs = self.model.forward_all(x)
        return torch.cat([outputs.global_logits, outputs.local_logits, outputs.logits], dim=1)


@training.first_process
def report(
    model: nn.Module, options: argparse.Namespace, data: Mapping[str, datasets.ChestDataset], folder: Path
) -> list[metrics.Report]:
    """Score the three outputs on the test images beside the paper's scores, and the attended boxes; draw a figure."""
    test = data["test"]
    found = training.predict(
        AllOutputs(model),
        test,
        batch_size=options.batch_size,
        num_workers=options.num_workers,
        transform=transform_for(model.input_spec),
        progress=options.progress,
    )
    scores = dict(zip(OUTPUTS, found.probabilities.chunk(3, dim=1), strict=True))
    findings = [k for k, label in enumerate(model.labels) if label != "No Finding"]  # the mean leaves it out
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
        lines.append(coverage(hits))
        plotting.save(draw(model, data), folder / "attention.png")
    print("\n".join(lines))
    (folder / "result.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(
        f"written: {folder}/ (result.txt, {', '.join(OUTPUTS)}, model{', attention.png' if hits is not None else ''})"
    )
    return reports


def table(reports: list[metrics.Report]) -> str:
    """Table of the AUROC of the three outputs, with 95 % intervals, beside the paper's."""
    lines = ["", f"{'AUROC':<20}" + "".join(f"{name:>22}" for name in OUTPUTS) + "   published (other images)"]
    for rows in [*zip(*(report.rows for report in reports), strict=True), tuple(report.mean for report in reports)]:
        ours = [f"{row.auroc:.3f} ({row.auroc_low:.3f}-{row.auroc_high:.3f})" for row in rows]
        theirs = [f"{row.reference:.3f}" if row.reference is not None else "" for row in rows]
        lines.append(f"{rows[0].label:<20}" + "".join(f"{cell:>22}" for cell in ours) + "   " + "  ".join(theirs))
    return "\n".join(lines)


def cover(model: nn.Module, test: datasets.ChestDataset) -> Tensor | None:
    """Return a row for each true box: image, covered by the attended box, by a centred box of equal size, box area."""
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


def coverage(hits: Tensor) -> str:
    """Describe how often the boxes cover a lesion, with the bootstrap interval of the difference over images."""
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
    """Draw a row for each image: true and attended boxes, heat map, mask, crop."""
    batch = next(recipe.boxed(model, data["test"]))
    with torch.inference_mode():
        attention = model.eval().forward_features(batch["image"][:images]).attention
    mean, std = (torch.tensor(value)[:, None, None] for value in (model.input_spec.mean, model.input_spec.std))
    cells, titles = [], []
    for k in range(len(attention.box)):
        image, crop = ((x.cpu() * std + mean).clamp(0, 1) for x in (batch["image"][k], attention.crop[k]))
        names = ", ".join(model.labels[label] for label in batch["box_labels"][k].tolist())
        boxed = plotting.draw_boxes(
            plotting.draw_boxes(image, batch["boxes"][k], truth=True), attention.box[k : k + 1].cpu()
        )
        mask = 0.5 * attention.mask[k].float() + 0.5 * attention.component[k].float()
        cells += [boxed, plotting.overlay(image, attention.heat[k].cpu()), mask[None].cpu(), crop]
        titles += [names, "heat map", "mask, largest component", "crop"]
    return plotting.panel(cells, titles, columns=4, legend=True)


def sweep(rows: list[tuple[str, list[metrics.Report]]]) -> str:
    """Table of the mean AUROC of the three outputs for each variant."""
    lines = ["", f"{'mean AUROC':<16}" + "".join(f"{name:>10}" for name in OUTPUTS)]
    lines += [f"{name:<16}" + "".join(f"{each.mean.auroc:>10.3f}" for each in reports) for name, reports in rows]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
