"""SegFusionVANGCN (Biomedical Signal Processing and Control 100, 2024): large kernels, organ masks, a label graph.

    python examples/segfusion_vangcn.py                # the synthetic data set: UNet, then four classifiers
    python examples/segfusion_vangcn.py --variants both --num-images 4000 --epochs 10
    python examples/segfusion_vangcn.py --data nih14 --root /data/nih --organs /data/ChestHeart
    python examples/segfusion_vangcn.py --data chexpert --root /data/CheXpert-v1.0-small --masks /data/chexmask_png

There are two stages, as published. First a UNet is trained on organ masks (Adam at 1e-4, cross-entropy plus Dice,
batches of 16): the masks of the synthetic data set, or --organs, a folder with train/image, train/label, valid/image,
valid/label whose label images have the values 0, 1 and 2. Its masks of all images are written once, so that no later
step runs the UNet. --masks names a folder of existing masks instead. Then the classifiers are trained: Adam at 1e-3,
times 0.9 after every epoch, batches of 32, the focal loss of the batch, affine augmentation, pixels in [0, 1].

The variants are the paper's ablation: the backbone alone, with the masks, with the label graph, with both.

The label graph is counted on the training labels, without NaN; its threshold is the published 0.3.
"""

from __future__ import annotations

import argparse
import contextlib
from functools import partial
from pathlib import Path
from typing import Any

import recipe
import torch
from torch import nn

from thoraxlib import datasets, graphs, metrics, plotting, segmentation, training

VARIANTS = {"backbone": "van", "segmentation": "segfusion_van", "graph": "vangcn", "both": "segfusion_vangcn"}
SYNTHETIC: dict[str, Any] = {"size": 64, "num_images": 1600, "epochs": 5, "batch_size": 16, "lr": 1e-3, "loss": "bce"}
SYNTHETIC |= {"variants": list(VARIANTS), "unet_width": 12, "unet_epochs": 4, "unet_images": 600, "unet_lr": 3e-3}
REAL: dict[str, Any] = {"epochs": 5, "batch_size": 32, "lr": 1e-3, "loss": "batch_focal", "variants": ["both"]}
REAL |= {"unet_width": 64, "unet_epochs": 500, "unet_images": 0, "unet_lr": 1e-4}
DEFAULTS = {
    "synthetic": SYNTHETIC | {"cache": True},
    "nih14": REAL | {"labels": ["nih14"]},
    "chexpert": REAL | {"labels": ["chexpert5"], "epochs": 6},
    "mimic_cxr": REAL | {"labels": ["mimic14"], "epochs": 3, "uncertain": "ones"},
    **dict.fromkeys(recipe.OWN, REAL),
}


def main(argv: list[str] | None = None) -> float:
    """Run the example and return the macro AUROC of the last variant."""
    flags = recipe.parser("SegFusionVANGCN: large kernels, organ masks, a label graph.", tuple(DEFAULTS))
    flags.add_argument("--variants", nargs="+", choices=VARIANTS, help="variants to train, in this order")
    flags.add_argument("--backbone", default="van_b0", help="any of thoraxlib.backbones with several stages")
    flags.add_argument(
        "--embeddings", default="ppmi", help="label embeddings: ppmi, onehot, learned, word_vectors (the paper's kind)"
    )
    flags.add_argument("--threshold", type=float, default=0.3, help="threshold of the label graph")
    flags.add_argument(
        "--weights", choices=("imagenet", "none"), default="none", help="initial weights of the backbone"
    )
    flags.add_argument("--epochs", type=int, help="number of epochs")
    flags.add_argument("--batch-size", type=int, help="images in a batch on each device")
    flags.add_argument("--lr", type=float, help="learning rate")
    flags.add_argument("--loss", help="bce, batch_focal (the paper's code), focal, ...")
    flags.add_argument("--organs", type=Path, help="folder of images and organ labels to train the UNet")
    flags.add_argument("--masks", type=Path, help="folder of organ masks, <image id>.png; no UNet is trained")
    flags.add_argument("--unet-width", type=int, help="channels of the UNet's first level; the paper's is 64")
    flags.add_argument("--unet-epochs", type=int, help="epochs of the UNet")
    flags.add_argument("--unet-images", type=int, help="training images of the UNet, on the synthetic data set")
    flags.add_argument("--unet-lr", type=float, help="learning rate of the UNet")
    flags.set_defaults(**DEFAULTS.get(recipe.early(flags, argv), {}))
    options = recipe.parse(flags, "segfusion_vangcn", argv)
    masked = {"segmentation", "both"} & set(options.variants)
    if options.data != "synthetic" and masked and not (options.organs or options.masks):
        flags.error("real images need --organs, to train a UNet, or --masks, existing masks")
    torch.manual_seed(options.seed)

    data = recipe.parts(options, recipe.build("van", options))
    organs = train_unet(options) if masked and options.masks is None else None
    with_masks = data
    if masked:
        folder = options.masks or options.output / "masks"
        parts = ("train", "val", "test")
        with_masks = {name: with_organ_masks(data[name], organs, folder / name, options.overwrite) for name in parts}
        with_masks["shown"] = data["shown"]
    reports = {}
    for variant in options.variants:
        print(f"\n== {variant}: {VARIANTS[variant]} ==")
        own = argparse.Namespace(**{**vars(options), "output": options.output / variant})
        model = build(variant, own, organs, data["train"])
        images = with_masks if variant in ("segmentation", "both") else data
        reports[variant] = train(model, own, images)
    print(ablation(reports))
    return reports[options.variants[-1]].macro_auroc


def train_unet(options: argparse.Namespace) -> segmentation.Segmenter:
    """First stage: train the UNet."""
    unet = segmentation.build("unet", width=options.unet_width, norm=options.data == "synthetic")
    if options.size:
        unet.input_spec = unet.input_spec.updated({"size": [options.size, options.size]})
    images = organ_images(options, min(unet.input_spec.size))
    loaders = recipe.loaders(unet, options, images, batch_size=16, masks=True)
    result = training.fit(
        unet,
        loaders,
        output=options.output / "unet",
        epochs=options.unet_epochs,
        optimizer=partial(torch.optim.Adam, lr=options.unet_lr),
        **recipe.run_settings(options),
    )
    report = training.first_process(segmentation.evaluate)(unet, images["test"])
    print(f"\nUNet, best epoch {result.epoch + 1}\n{report}")
    return unet


def organ_images(options: argparse.Namespace, side: int) -> dict[str, Any]:
    """Return images with organ masks: synthetic ones, or those of --organs."""
    if options.organs is not None:
        parts = {"train": "train", "val": "valid", "test": "valid"}
        return {
            name: datasets.build("image_mask", root=options.organs / folder, classes=["lungs", "heart"], pair="order")
            for name, folder in parts.items()
        }
    lengths = {"train": options.unet_images, "val": max(options.unet_images // 6, 8), "test": 100}
    return {
        name: datasets.build("synthetic", size=side, length=length, seed=100 + 3 * options.seed + number)
        for number, (name, length) in enumerate(lengths.items())
    }


def with_organ_masks(
    part: Any, organs: segmentation.Segmenter | None, folder: Path, overwrite: bool
) -> datasets.WithOrganMasks:
    """Return the images with masks from files; the UNet writes those that are missing, or all with `overwrite`."""
    if organs is not None:
        training.first_process(segmentation.predict_masks)(organs, part, folder, overwrite=overwrite)
    return datasets.WithOrganMasks(part, folder if organs is not None else folder.parent)


def build(variant: str, options: argparse.Namespace, organs: nn.Module | None, train_images: Any) -> nn.Module:
    """Build the classifier, with the label graph of the training labels."""
    components: dict[str, Any] = {"backbone": options.backbone}
    if variant in ("segmentation", "both"):
        components["segmenter"] = organs
    if variant in ("graph", "both"):
        components["counts"] = recipe.label_counts(train_images, train_images.labels)
        components["adjacency"] = {"name": "mlgcn", "threshold": options.threshold, "isolated": "ignore"}
        components["embeddings"] = options.embeddings
    model = recipe.build(VARIANTS[variant], options, **components)
    if variant in ("graph", "both"):
        graph = graphs.adjacency.build(**components["adjacency"])(components["counts"])
        print(f"label graph: {graph}")
        if training.is_first_process():
            draw_graph(graph, options.output)
    return model


def draw_graph(graph: graphs.Graph, folder: Path) -> None:
    """Write the graph and its figure."""
    folder.mkdir(parents=True, exist_ok=True)
    graph.save(folder / "label_graph.json")
    with contextlib.suppress(ImportError):  # matplotlib is an extra
        plotting.plot_graph(graph).savefig(folder / "label_graph.png")


def train(model: nn.Module, options: argparse.Namespace, data: dict[str, Any]) -> metrics.Report:
    """Second stage: train one classifier and score it on the test images."""
    synthetic = options.data == "synthetic"
    model = recipe.fit(
        model,
        options,
        data,
        augmentation=None if synthetic else "cxr_lka",
        loss=options.loss,
        optimizer=partial(torch.optim.Adam, lr=options.lr),
        scheduler="onecycle" if synthetic else "exponential",
    )
    heat_maps: tuple[str, ...] = ("gradcam",)
    if hasattr(model, "fusion"):
        # "cam" adds the contributions of all stages, on the grid of the first one. With masks from files there are no
        # heat maps, because the report gives the model images without masks.
        heat_maps = ("cam", "gradcam") if model.segmenter is not None else ()
    return recipe.report(model, options, data, heat_maps=heat_maps)


def ablation(reports: dict[str, metrics.Report]) -> str:
    """Table of the variants."""
    lines = ["", f"{'variant':<14}{'model':<20}{'macro AUROC (95 %)':>28}"]
    for variant, report in reports.items():
        mean = report.mean
        shown = f"{mean.auroc:.3f} ({mean.auroc_low:.3f} to {mean.auroc_high:.3f})"
        lines.append(f"{variant:<14}{VARIANTS[variant]:<20}{shown:>28}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
