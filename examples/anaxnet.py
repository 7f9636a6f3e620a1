"""AnaXNet (Agu et al., 2021, arXiv 2105.09937): regions, a graph over them, and findings in each.

    python examples/anaxnet.py                                                  # synthetic images, a quarter of an hour
    python examples/anaxnet.py --boxes given                                         # with the true regions
    python examples/anaxnet.py --adjacency jaccard positive identity full            # with other graphs
    python examples/anaxnet.py --data chest_imagenome --root /data/chest-imagenome --images /data/mimic-cxr-jpg

The script has five steps; each writes to --output and resumes there after an interruption. A Faster R-CNN is trained on
the 18 regions. Its features of the regions of every image are written to a store. The findings of the training images
are counted for the graph. Heads are trained on the stored features. The detector and the head of the first graph become
one model, which is saved and explains images.

The heads are the paper's region graph and its baseline, a linear layer on each region's features. --global-view trains
the other baseline, a CheXNet on whole images. For Chest ImaGenome: a ResNet-50 detector from COCO's weights, SGD at
1e-4 with a warm-up, batches of 16; heads with Adam at 1e-4, batches of 16, 5 epochs. On the synthetic data set
everything is smaller.

The tables show the scores of the detector, and the AUROC of each finding: the mean over regions as in the paper, over
all regions at once, and of images. The paper's mean is .93, on Chest ImaGenome.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import recipe
import torch
from torch import nn

import thoraxlib
from thoraxlib import datasets, detection, graphs, metrics, plotting, training
from thoraxlib import labels as label_sets
from thoraxlib.detection import FeatureStore
from thoraxlib.images import transform_for
from thoraxlib.metrics import RegionScores, evaluate_regions

SYNTHETIC: dict[str, Any] = {"size": 128, "num_images": 1000, "detector": "fasterrcnn_fpn", "detector_epochs": 5}
SYNTHETIC |= {"weights": "none", "batch_size": 8, "lr": 3e-3, "head_batch_size": 64, "epochs": 30, "cache": True}
IMAGENOME: dict[str, Any] = {"detector": "fasterrcnn_resnet50_fpn", "detector_epochs": 5, "batch_size": 16}
IMAGENOME |= {"weights": "coco", "lr": 1e-4, "head_batch_size": 16, "epochs": 5}
# a classifier for each region, as in the paper's figure; for few images and small features, also scaled scores
HEADS: dict[str, dict[str, Any]] = {
    "synthetic": {"scale": True, "normalize": "row", "classifier": "per_region"},
    "chest_imagenome": {},
}
# those of AnaXNet's nine findings that the synthetic data set has
SYNTHETIC_LABELS = [
    "pleural effusion",
    "atelectasis",
    "enlarged cardiac silhouette",
    "pulmonary edema/hazy opacity",
    "pneumothorax",
    "consolidation",
    "pneumonia",
]
ADJACENCY: dict[str, Any] = {
    "jaccard": "jaccard",  # the paper's
    "positive": {"name": "jaccard", "average": "positive", "threshold": 0.2},
    "identity": "identity",
    "full": "full",
}
COLORS = ("#e6194b", "#3cb44b", "#ffe119", "#4363d8", "#f58231", "#911eb4", "#46f0f0", "#f032e6", "#bcf60c")
PAPER = 0.93


def main(argv: list[str] | None = None) -> float:
    """Run the example and return the AUROC of the first graph, mean over findings and regions."""
    flags = recipe.parser("AnaXNet: findings in anatomical regions.", ("synthetic", "chest_imagenome"))
    flags.add_argument("--images", type=Path, help="folder of MIMIC-CXR-JPG, for --data chest_imagenome")
    flags.add_argument("--detector", help="detector, any of thoraxlib.detection")
    flags.add_argument("--detector-epochs", type=int, help="epochs of the detector; --global-view takes twice as many")
    flags.add_argument("--weights", choices=("coco", "none"), help="initial weights of the detector")
    flags.add_argument(
        "--boxes", choices=("detected", "given"), default="detected", help="boxes whose features the heads get"
    )
    flags.add_argument(
        "--adjacency", nargs="+", choices=list(ADJACENCY), default=["jaccard"], help="graphs of the regions"
    )
    flags.add_argument(
        "--minimum", type=int, default=10, help="least number of positives for a region to count in the mean"
    )
    flags.add_argument("--global-view", action="store_true", help="also train a CheXNet on whole images")
    flags.add_argument("--epochs", type=int, help="epochs of the heads")
    flags.add_argument("--batch-size", type=int, help="images in a batch of the detector")
    flags.add_argument("--head-batch-size", type=int, help="images in a batch of the heads")
    flags.add_argument("--lr", type=float, help="learning rate of the heads")
    defaults = {"synthetic": SYNTHETIC, "chest_imagenome": IMAGENOME}
    flags.set_defaults(**defaults.get(recipe.early(flags, argv), {}))
    options = recipe.parse(flags, "anaxnet", argv)
    if options.data == "chest_imagenome" and options.images is None:
        flags.error("--data chest_imagenome needs --images, the folder of MIMIC-CXR-JPG")
    data = parts(options)
    detector = find_regions(options, data)
    stores = {
        part: training.first_process(detection.extract)(
            detector,
            data[part],
            options.output / "features" / options.boxes / part,
            boxes=options.boxes,
            batch_size=options.batch_size,
            num_workers=options.num_workers,
            progress=options.progress,
        )
        for part in ("train", "val", "test")
    }
    counts = graphs.RegionCounts.of(
        stores["train"].region_targets, stores["train"].region_names, stores["train"].labels
    )
    rows: dict[str, RegionScores] = {}
    heads: dict[str, nn.Module] = {}
    found: dict[str, training.Predictions] = {}
    for name, model in variants(options, stores["train"], counts).items():
        folder = options.output / name.replace(" ", "_")
        heads[name] = train(model, options, stores, folder)
        found[name] = training.predict(heads[name], stores["test"], batch_size=64, progress=options.progress)
        rows[name] = score(found[name], options, stores["test"])
        if training.is_first_process():
            rows[name].save(folder)
    lines = [table(rows), difference(found, stores["test"])]
    if options.global_view:
        lines.append(global_view(options, data))
    first = next(name for name in rows if name.startswith("graph"))
    write(assemble(heads[first], detector), options, data, stores["val"], "\n".join(lines))
    folders = ", ".join(f"{name.replace(' ', '_')}/" for name in rows)
    print(f"written: {options.output}/ (regions.txt, result.txt, findings.png, graph_*.json, model/, {folders})")
    return rows[first].mean


@training.first_process
def write(
    model: nn.Module, options: argparse.Namespace, data: Mapping[str, Any], val: FeatureStore, tables: str
) -> None:
    """Write the tables, the whole model, and a figure of its findings."""
    print(tables)
    (options.output / "result.txt").write_text(f"{tables}\n", encoding="utf-8")
    thoraxlib.save_pretrained(model, options.output / "model")
    plotting.save(draw(model, options, data, val), options.output / "findings.png")


def parts(options: argparse.Namespace) -> dict[str, Any]:
    """Return train, val and test, disjoint in patients; "shown" has the test images in the size of the figures."""
    if options.data == "synthetic":
        labels = options.labels or SYNTHETIC_LABELS
        images = {
            "train": options.num_images,
            "val": max(options.num_images // 5, 8),
            "test": max(options.num_images // 2, 16),
        }
        shared = {"labels": labels, "balance": options.balance, "masks": False}
        seeds = dict(zip(images, range(3 * options.seed, 3 * options.seed + 3), strict=True))
        made: dict[str, Any] = {
            part: datasets.build("synthetic", size=options.size, length=images[part], seed=seeds[part], **shared)
            for part in images
        }
        large = datasets.build("synthetic", size=512, length=images["test"], seed=seeds["test"], **shared)
        return {**made, "shown": large}
    labels = label_sets.resolve(recipe.label_set(options.labels or ["imagenome9"]))
    return recipe.parts(options, SimpleNamespace(labels=labels))


def find_regions(options: argparse.Namespace, data: Mapping[str, Any]) -> detection.RegionDetector:
    """Train the detector, and print its scores on the test images."""
    torch.manual_seed(options.seed)
    parts: dict[str, Any] = {"regions": data["train"].region_names}
    if options.size:
        parts["input_spec"] = {"size": [options.size, options.size]}
    if options.data == "synthetic":
        parts |= {"backbone": "resnet18", "width": 64, "feature_dim": 256, "rois": 64, "proposals": 200, "in_chans": 1}
        settings: dict[str, Any] = {
            "optimizer": partial(torch.optim.AdamW, lr=1e-3, weight_decay=1e-4),
            "scheduler": "onecycle",
            "gradient_clip": 5.0,
        }
    else:
        settings = {key: value for key, value in training.ANAXNET_DETECTOR.items() if key != "max_steps"}
    detector = build_detector(options, parts)
    # no rotation: boxes around rotated boxes are too large
    augmentation = {"name": "light", "degrees": 0.0} if options.data == "synthetic" else None
    images = recipe.loaders(detector, options, data, augmentation, regions=True)
    result = training.fit(
        detector,
        images,
        output=options.output / "detector",
        epochs=options.detector_epochs,
        **{**recipe.run_settings(options), "channels_last": False},
        **settings,
    )
    print(f"detector: epoch {result.epoch + 1} of {options.detector_epochs}, validation IoU {result.score:.3f}")
    check_regions(detector, options, data["test"])
    return detector


@training.first_process
def check_regions(detector: detection.RegionDetector, options: argparse.Namespace, images: Any) -> None:
    """Print and write the scores of the detected regions."""
    found = detection.evaluate(detector, images, batch_size=options.batch_size, progress=options.progress)
    (options.output / "regions.txt").write_text(f"{found}\n", encoding="utf-8")
    print(found)


def build_detector(options: argparse.Namespace, parts: dict[str, Any]) -> Any:
    """Build the detector; if COCO's weights cannot be loaded, print the reason and build it without them."""
    if options.weights == "coco":
        try:
            frozen = {"pretrained": "coco", "trainable_layers": 3, "freeze_norm": True}
            return detection.build(options.detector, **parts, **frozen)
        except RuntimeError as error:
            print(f"{error}\nGoing on from scratch; --weights none does so without this message.", file=sys.stderr)
    return detection.build(options.detector, **parts)


def data_targets(store: FeatureStore) -> torch.Tensor:
    """Return the labels of the regions, NaN where the detector found no region."""
    return torch.where(store.region_present[..., None], store.region_targets, torch.nan)


def variants(options: argparse.Namespace, store: FeatureStore, counts: graphs.RegionCounts) -> dict[str, nn.Module]:
    """Build the heads on the stored features: the linear baseline, and a region graph for each adjacency."""
    shared = {"labels": store.labels, "regions": store.region_names, "in_features": store.feature_dim}
    torch.manual_seed(options.seed)
    head = HEADS[options.data]
    linear = {"name": "region_linear", "classifier": head.get("classifier", "shared")}
    made = {"no graph": thoraxlib.build("anaxnet", head=linear, **shared)}
    for kind in options.adjacency:
        graph = graphs.adjacency.region_graph(store.region_names, ADJACENCY[kind], counts)
        if training.is_first_process():
            graph.save(options.output / f"graph_{kind}.json")
        print(f"graph by {kind}: {len(graph.edges())} of {len(graph.nodes) * (len(graph.nodes) - 1)} edges")
        torch.manual_seed(options.seed)
        made[f"graph {kind}"] = thoraxlib.build(
            "anaxnet", head={"name": "region_graph", **head}, adjacency=graph, **shared
        )
    return made


def train(model: nn.Module, options: argparse.Namespace, stores: Mapping[str, FeatureStore], output: Path) -> nn.Module:
    """Train a head on stored features."""
    data = training.DataModule(stores["train"], stores["val"], batch_size=options.head_batch_size, seed=options.seed)
    settings = {**recipe.run_settings(options), "channels_last": False}
    result = training.fit(
        model,
        data,
        output=output,
        epochs=options.epochs,
        optimizer=partial(torch.optim.Adam, lr=options.lr),
        **settings,
    )
    print(f"{output.name}: epoch {result.epoch + 1} of {options.epochs}, validation AUROC {result.score:.3f}")
    return result.model


def score(found: training.Predictions, options: argparse.Namespace, store: FeatureStore) -> RegionScores:
    """Compute the AUROC of every finding in every region of the test images."""
    return evaluate_regions(
        found.targets,
        found.logits,
        regions=store.region_names,
        labels=store.labels,
        present=store.region_present,
        minimum=options.minimum,
        patient_ids=store.patient_ids,
    )


def table(rows: Mapping[str, RegionScores]) -> str:
    """Table of the AUROC of each finding and head: mean over regions, over all regions at once, of images."""
    first = next(iter(rows.values()))
    width = max(map(len, first.labels)) + 2
    lines = []
    for title, of in (("mean over regions", 0), ("all regions at once", 1), ("images", 2)):
        lines += ["", f"{'AUROC, ' + title:<{width}}" + "".join(f"{name:>24}" for name in rows)]
        for k, label in enumerate((*first.labels, "mean")):
            lines.append(f"{label:<{width}}" + "".join(f"{cell(each, of, k):>24}" for each in rows.values()))
    return "\n".join([*lines, f"AnaXNet's paper, Chest ImaGenome: mean {PAPER}"])


def cell(scores: RegionScores, of: int, k: int) -> str:
    """Format one score, with its interval if it has one."""
    if of == 0:
        return f"{[*scores.per_finding, scores.mean][k]:.3f}"
    report = scores.pooled if of == 1 else scores.images
    row = [*report.rows, report.mean][k]
    return f"{row.auroc:.3f} ({row.auroc_low:.3f}-{row.auroc_high:.3f})"


def difference(found: Mapping[str, training.Predictions], store: FeatureStore) -> str:
    """Describe the gain of each graph in mean AUROC over all regions at once, with its interval over patients."""
    targets = data_targets(store).flatten(0, 1)
    patients = [patient for patient in store.patient_ids for _ in store.region_names]
    lines = []
    for name in [name for name in found if name != "no graph"]:
        with_graph, without = (found[each].logits.flatten(0, 1) for each in (name, "no graph"))
        gain = metrics.bootstrap_difference(targets, with_graph, without, patient_ids=patients)
        values = [np.nanmean(metrics.auroc(targets, each)) for each in (with_graph, without)]
        lines.append(
            f"{name} - no graph, all regions at once: {values[0] - values[1]:+.4f} "
            f"({gain.macro_low:+.4f} to {gain.macro_high:+.4f})"
        )
    return "\n".join(lines)


def global_view(options: argparse.Namespace, data: Mapping[str, Any]) -> str:
    """Train and score the paper's other baseline: a network on whole images, without regions."""
    synthetic = options.data == "synthetic"
    asked = {"labels": list(data["train"].labels), "weights": "none" if options.weights == "none" else "imagenet"}
    small = {"backbone": "resnet18"} if synthetic else {}
    model = recipe.build("chexnet", argparse.Namespace(**{**vars(options), **asked}), **small)
    result = training.fit(
        model,
        recipe.loaders(model, options, data),
        output=options.output / "global_view",
        epochs=2 * options.detector_epochs,
        optimizer=partial(torch.optim.AdamW, lr=1e-3 if synthetic else 1e-4),
        scheduler="onecycle",
        **recipe.run_settings(options),
    )
    found = training.predict(result.model, data["test"], transform=transform_for(model.input_spec), progress=False)
    report = metrics.evaluate(
        found.targets, found.probabilities, found.labels, patient_ids=data["test"].patient_ids, n_bootstrap=1000
    )
    return f"\nglobal view, AUROC of images\n{report}"


def assemble(head: nn.Module, detector: detection.RegionDetector) -> nn.Module:
    """Build the model of images from the detector and the head that was trained on its features."""
    options = {**head.config["options"], "detector": detector}
    options.pop("in_features")
    whole = thoraxlib.build("anaxnet", **options)
    whole.head.load_state_dict(head.head.state_dict())
    return whole.eval()


def draw(
    model: nn.Module, options: argparse.Namespace, data: Mapping[str, Any], val: FeatureStore, images: int = 4
) -> Any:
    """Draw some test images with the true and the predicted regions of findings, coloured by finding."""
    known = training.predict(model, val, progress=False)
    present = val.region_present
    limits = metrics.best_thresholds(known.targets[present], known.probabilities[present])
    thresholds = {k: float(v) for k, v in zip(model.labels, np.nan_to_num(limits, nan=0.5), strict=True)}
    shown = data["shown"]
    chosen = (
        ((shown.targets == 1).sum(dim=1) == 2).nonzero().flatten()[:images].tolist()
    )  # more findings are hard to see
    chosen = chosen or list(range(images))
    cells, titles = [], []
    for index in chosen:
        sample = shown[index]
        (explained,) = thoraxlib.explain(model, sample["image"], threshold=thresholds, rule="specific")
        true = [(r, k) for r, k in (sample["region_labels"] == 1).nonzero().tolist()]
        boxes = sample["regions"].as_subclass(torch.Tensor)
        truth = plotting.draw_boxes(
            sample["image"], boxes[[r for r, _ in true]], color=[COLORS[k % 9] for _, k in true], truth=True
        )
        found = [(f.label, box) for f in explained.findings for box in f.boxes]
        colors = [COLORS[model.labels.index(label) % 9] for label, _ in found]
        cells += [
            truth,
            plotting.draw_boxes(sample["image"], torch.tensor([b for _, b in found]).reshape(-1, 4), color=colors),
        ]
        titles += ["true", "predicted"]
    colors = {label: COLORS[k % 9] for k, label in enumerate(model.labels)}
    return plotting.panel(cells, titles, columns=4, side=320, legend=colors)


if __name__ == "__main__":
    main()
