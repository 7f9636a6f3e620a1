"""Leaderboard: every documented model under one protocol on one data set, in one table and one figure.

    python examples/leaderboard.py                                   # synthetic images, a quarter of an hour on a core
    python examples/leaderboard.py --models chexnet pcam ag_cnn --seeds 3
    python examples/leaderboard.py --no-train                             # parameters, FLOPs, speed; no new training
    python examples/leaderboard.py --data nih14 --root /data/nih --organs /data/ChestHeart

All models have the same protocol: images, split, input, augmentation, loss, optimiser, epochs, choice of the best epoch
(validation AUROC) and random seed. Models that are trained in stages divide the epochs among their stages, and
the notes give the numbers: AG-CNN (global branch, local branch, fusion), AnaXNet (region detector, then the head on its
features; an image's logit is the highest of its regions), and models with organ masks (a UNet, then the classifier).

On the synthetic data set, the default backbones are small ones of the paper's kind (--backbone small). "own" selects
the papers' backbones, and any other name is the backbone of all models. Heat maps are those of thoraxlib.explain. For
each image and finding with a true box, a box around the highest values of the heat map is compared with the true ones.

--output receives leaderboard.md, .csv, .json and .png, which are written again after every model. The same call resumes
after an interruption. If a model fails, its row gives the reason, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import math
import shutil
import statistics
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ag_cnn
import anaxnet
import recipe
import segfusion_vangcn
import torch
import unified_dcnn
from leaderboard_table import HITS, cells, plot, ranked
from torch import Tensor, nn
from torch.utils.benchmark import Timer
from torch.utils.data import Dataset
from torch.utils.flop_counter import FlopCounterMode

import thoraxlib
from thoraxlib import cams, datasets, detection, graphs, localization, metrics, training
from thoraxlib.explanation import Explanation
from thoraxlib.images import transform_for
from thoraxlib.input_spec import InputSpec
from thoraxlib.localization import Boxes, localization_table
from thoraxlib.utils import text_tables
from thoraxlib.utils.files import write_json, write_text

SYNTHETIC: dict[str, Any] = {
    "size": 64,
    "num_images": 500,
    "epochs": 6,
    "batch_size": 16,
    "lr": 2e-3,
    "backbone": "small",
}
SYNTHETIC |= {"weights": "none", "augmentation": "none", "cache": True}
REAL: dict[str, Any] = {"size": 224, "epochs": 6, "batch_size": 16, "lr": 1e-4, "backbone": "own"}
REAL |= {"weights": "imagenet", "augmentation": "light"}
LABELS = {"chexpert": "chexpert5", "mimic_cxr": "mimic14", "chest_imagenome": "imagenome9"}  # all others: nih14
DATA = (*recipe.DATA, "mimic_cxr", "chest_imagenome")

# Small backbones: the kind of the papers' backbones, with a few per cent of their size; stride 8 where possible.
SMALL: dict[str, dict[str, Any]] = {
    "resnet": {"layers": [1, 1, 1, 1], "channels": [16, 32, 64, 128], "output_stride": 8},
    "densenet": {"block_config": [2, 2, 2, 2], "growth_rate": 16, "output_stride": 8, "dilated": False},
    "van_": {"widths": [16, 32, 64, 128], "depths": [1, 1, 2, 1]},
    "dense_van": {"growth_rate": 2, "depths": [1, 1, 1, 1]},
    "vanillanet": {"widths": [128, 256, 512, 1024]},
    "swin": {"embed_dim": 24, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 4, 8]},
}
SMALL_HEADS: dict[str, dict[str, Any]] = {
    "vit_per_stage": {"width": 96, "depth": 1, "num_heads": 4},
    "query_decoder": {"channels": 128, "hidden": 256, "attention_heads": 4},
}
SMALL_DETECTOR: dict[str, Any] = {"width": 64, "feature_dim": 256, "rois": 64, "proposals": 200}
# Published tables, for models with several; the default is the first table of the card.
TABLES = {"unified_dcnn": unified_dcnn.PUBLISHED}
BOX = {"name": "threshold", "levels": (180,), "keep": 1}
NO_REGION = -20.0  # logit of a finding in an image without a detected region


def main(argv: list[str] | None = None) -> int:
    """Run the example and return the number of models that failed."""
    flags = recipe.parser("Every documented model under one protocol.", DATA)
    flags.add_argument("--models", nargs="+", metavar="NAME", help="models; default: all documented ones")
    flags.add_argument("--backbone", help="backbone: small, own, or a name for all models")
    flags.add_argument("--weights", choices=("imagenet", "none"), help="initial weights of backbones")
    flags.add_argument("--epochs", type=int, help="number of epochs of each model, over all its stages")
    flags.add_argument("--batch-size", type=int, help="images in a batch on each device")
    flags.add_argument("--lr", type=float, help="highest learning rate of the one-cycle schedule")
    flags.add_argument("--augmentation", help="augmentation: light, chexnet, none, ...")
    flags.add_argument(
        "--seeds", type=int, default=1, help="number of random seeds for each model; the images stay the same"
    )
    flags.add_argument(
        "--no-train",
        dest="train",
        action="store_false",
        help="train nothing: parameters, FLOPs and speed, and the scores of models that were trained before",
    )
    flags.add_argument(
        "--organs", type=Path, help="folder of images and organ labels to train the UNet; not for --data synthetic"
    )
    flags.add_argument("--images", type=Path, help="folder of MIMIC-CXR-JPG, for --data chest_imagenome")
    data = recipe.early(flags, argv)
    labels = None if data in recipe.OWN else [LABELS.get(data, "nih14")]
    flags.set_defaults(**(SYNTHETIC if data == "synthetic" else REAL), labels=labels)
    options = recipe.parse(flags, "leaderboard", argv)
    options.models = options.models or thoraxlib.models.registry.registered()
    unknown = [name for name in options.models if name not in thoraxlib.names()]
    if unknown:
        flags.error(f"--models: {', '.join(unknown)} are not among {', '.join(thoraxlib.names())}")
    if options.seeds < 1 or options.epochs < 1:
        flags.error(f"--seeds {options.seeds} --epochs {options.epochs}: at least 1 of each is needed")
    board = Board(options)
    board.begin()
    rows: list[dict[str, Any]] = []
    for name in options.models:
        print(f"\n== {name} ==", flush=True)
        try:
            rows.append(row(board, name))
        except Exception as error:  # the other models go on
            traceback.print_exc()
            rows.append({"model": name, "error": f"{type(error).__name__}: {error}".splitlines()[0]})
        publish(board, rows)
    print(f"\n{board.output / 'leaderboard.md'}\n\n" + "\n".join(text_tables.aligned(cells(rows)[0])))
    return sum("error" in each for each in rows)


# -- shared by all models ------------------------------------------------------------------------------------------


class Board:
    """The protocol, and the images, the UNet and the masks, which all models share."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.output = options, options.output
        self.labels = thoraxlib.labels.resolve(recipe.label_set(options.labels))
        self.spec = InputSpec(size=(options.size, options.size))

    def protocol(self) -> dict[str, Any]:
        """Return the settings that decide about the scores, as JSON."""
        keys = (
            "data",
            "size",
            "num_images",
            "balance",
            "epochs",
            "batch_size",
            "lr",
            "augmentation",
            "backbone",
            "weights",
        )
        kept = {key: getattr(self.options, key) for key in (*keys, "seed", "uncertain", "precision", "patience")}
        if self.options.data in recipe.OWN:
            own = ("table", "image", "patient", "labels_column", "split_column", "data_options")
            kept |= {key: str(getattr(self.options, key)) for key in own}
        return {**kept, "labels": list(self.labels), "root": str(self.options.root or "")}

    def begin(self) -> None:
        """Write the protocol, or compare it with that of an earlier call.

        Raises
        ------
        ValueError
            If the folder holds the results of another protocol.
        """
        path, now = self.output / "protocol.json", self.protocol()
        if path.exists() and not self.options.overwrite:
            before = json.loads(path.read_text(encoding="utf-8"))
            differing = [
                f"{key}: {before.get(key)} before, {now[key]} now" for key in now if before.get(key) != now[key]
            ]
            if differing:
                raise ValueError(
                    f"{self.output} holds a leaderboard of another protocol ({'; '.join(differing)}): change --output, "
                    "or --overwrite"
                )
        write_json(self.output / "protocol.json", now, indent=2)

    @cached_property
    def images(self) -> dict[str, Any]:
        """Return train, val and test, kept in memory with --cache."""
        # recipe.parts uses only the labels and the input size of a model
        made = recipe.parts(self.options, SimpleNamespace(labels=self.labels, input_spec=self.spec))
        kept = {part: made[part] for part in ("train", "val", "test")}
        return {part: InMemory(images) for part, images in kept.items()} if self.options.cache else kept

    @cached_property
    def organs(self) -> nn.Module:
        """Train the UNet for organ masks, in the first half of the epochs."""
        if self.options.data != "synthetic" and self.options.organs is None:
            raise ValueError("organ masks need --organs, a folder of images and organ labels to train the UNet")
        small = self.options.backbone == "small"
        settings = {"unet_epochs": shares(self.options.epochs, 2)[0], "unet_images": self.options.num_images}
        settings |= {"unet_width": 12 if small else 64, "unet_lr": self.options.lr}
        return segfusion_vangcn.train_unet(argparse.Namespace(**{**vars(self.options), **settings}))

    @cached_property
    def masked(self) -> dict[str, Any]:
        """Return the images for training with the UNet's masks."""
        folder, overwrite = self.output / "masks", self.options.overwrite
        with_masks = segfusion_vangcn.with_organ_masks
        return {part: with_masks(self.images[part], self.organs, folder / part, overwrite) for part in ("train", "val")}


class InMemory(Dataset[dict[str, Any]]):
    """Images that are read once for all models."""

    def __init__(self, images: datasets.ChestDataset) -> None:
        self.images = images
        self.samples = [images[index] for index in range(len(images))]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return dict(self.samples[index])

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "images":  # a copy in another process does not have it yet
            raise AttributeError(name)
        return getattr(self.images, name)


def shares(epochs: int, stages: int) -> list[int]:
    """Divide epochs equally among stages; earlier stages get the rest, and each gets at least one."""
    return [max(epochs // stages + (number < epochs % stages), 1) for number in range(stages)]


def learning(options: argparse.Namespace) -> dict[str, Any]:
    """Return optimiser and schedule of every training."""
    return {"optimizer": partial(torch.optim.AdamW, lr=options.lr, weight_decay=0.01), "scheduler": "onecycle"}


# -- building and training each model ------------------------------------------------------------------------------


def sized(component: Any, choice: str, small: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return a backbone or head in the size that --backbone selects: small, or the paper's own."""
    own = {"name": component} if isinstance(component, str) else dict(component)
    kinds = (options for kind, options in small.items() if own["name"].startswith(kind))
    return {**own, **next(kinds, {})} if choice == "small" else own


def build(board: Board, name: str, **components: Any) -> nn.Module:
    """Build an untrained model of whole images."""
    options, defaults = board.options, thoraxlib.describe(name).options
    if name == "anaxnet":
        return thoraxlib.build(
            name, labels=board.labels, detector=detector(board), head=region_head(board), **components
        )
    chosen = options.backbone if options.backbone not in ("small", "own") else defaults["backbone"]
    components["backbone"] = sized(chosen, options.backbone, SMALL)
    if "head" in defaults:
        components["head"] = sized(defaults["head"], options.backbone, SMALL_HEADS)
    if defaults.get("segmenter") and options.backbone == "small":
        components.setdefault("segmenter", {"name": "unet", "width": 12, "norm": True})
    if defaults.get("adjacency"):
        components["counts"] = recipe.label_counts(board.images["train"], board.labels)
    return recipe.build(name, options, input_spec=board.spec.to_json(), **components)


def detector(board: Board) -> detection.RegionDetector:
    """Build AnaXNet's region detector, not yet trained."""
    options, spec = board.options, {"input_spec": board.spec.to_json()}
    if options.backbone == "own":
        options = argparse.Namespace(
            detector="fasterrcnn_resnet50_fpn", weights=options.weights.replace("imagenet", "coco")
        )
        return anaxnet.build_detector(options, spec)
    backbone = {"name": "resnet18"} if options.backbone == "small" else {"name": options.backbone}
    small = {**SMALL["resnet"], "output_stride": 32} if options.backbone == "small" else {}
    return detection.build("fasterrcnn_fpn", backbone={**backbone, **small}, **SMALL_DETECTOR, **spec)


def region_head(board: Board) -> dict[str, Any]:
    """Return AnaXNet's head; with scaled scores for small features."""
    own = board.options.backbone == "own"
    return {"name": "region_graph", **anaxnet.HEADS["chest_imagenome" if own else "synthetic"]}


Trained = tuple[nn.Module, str]


def plain(board: Board, options: argparse.Namespace, name: str) -> Trained:
    """Train in one call."""
    model = build(board, name)
    augmentation = options.augmentation
    return recipe.fit(model, options, board.images, augmentation=augmentation, loss="bce", **learning(options)), ""


def masked(board: Board, options: argparse.Namespace, name: str) -> Trained:
    """Train the classifier on images with the UNet's masks; the trained model computes its masks itself."""
    first, then = shares(options.epochs, 2)
    own = argparse.Namespace(**{**vars(options), "epochs": then})
    model = build(board, name, segmenter=board.organs)
    augmentation = options.augmentation
    model = recipe.fit(model, own, board.masked, augmentation=augmentation, loss="bce", **learning(options))
    return model, f"UNet {first} (on organ masks) + classifier {then} epochs"


def staged(board: Board, options: argparse.Namespace, name: str) -> Trained:
    """Train AG-CNN: global branch, local branch, fusion, which starts from the global branch's layer."""
    epochs = shares(options.epochs, 3)
    stages = training.ag_cnn_stages("G_L_F", epochs=epochs, batch_size=None, **learning(options))
    stages[-1] = replace(stages[-1], prepare=ag_cnn.start_from_global)
    model = build(board, name)
    images = recipe.loaders(model, options, board.images, options.augmentation)
    training.fit_stages(model, images, stages, output=options.output, **recipe.run_settings(options))
    return model, "global {} + local {} + fusion {} epochs".format(*epochs)


def regional(board: Board, options: argparse.Namespace, name: str) -> Trained:
    """Train AnaXNet: the detector on the images' regions, then the head on the features of the detected regions."""
    if not hasattr(board.images["train"], "region_names"):
        raise ValueError(f"{name} learns from boxes and findings of regions, which {options.data} does not have")
    first, then = shares(options.epochs, 2)
    settings = {**recipe.run_settings(options), "channels_last": False, **learning(options)}
    region_detector = detector(board)
    # no augmentation: boxes do not rotate with the image
    images = recipe.loaders(region_detector, options, board.images, regions=True)
    training.fit(
        region_detector, images, output=options.output / "detector", epochs=first, gradient_clip=5.0, **settings
    )
    stores = {
        part: detection.extract(
            region_detector,
            board.images[part],
            options.output / "features" / part,
            batch_size=options.batch_size,
            num_workers=options.num_workers,
            progress=options.progress,
        )
        for part in ("train", "val")
    }
    store = stores["train"]
    counts = graphs.RegionCounts.of(store.region_targets, store.region_names, store.labels)
    names = {"labels": store.labels, "regions": store.region_names, "in_features": store.feature_dim}
    head = thoraxlib.build(name, head=region_head(board), counts=counts, **names)
    features = training.DataModule(stores["train"], stores["val"], batch_size=options.batch_size, seed=options.seed)
    training.fit(head, features, output=options.output, epochs=then, **settings)
    model = anaxnet.assemble(head, region_detector)
    thoraxlib.save_pretrained(model, options.output / "model")
    return model, f"detector {first} + head {then} epochs; learns from regions and the findings in them as well"


def trainer_of(name: str) -> Callable[[Board, argparse.Namespace, str], Trained]:
    """Return the function that trains a model."""
    if name in (special := {"ag_cnn": staged, "anaxnet": regional}):
        return special[name]
    return masked if thoraxlib.describe(name).options.get("segmenter") else plain


# -- measurements --------------------------------------------------------------------------------------------------


class OfImages(nn.Module):
    """Wrap a model of regions as one of images: logits (N, K), the highest of the detected regions."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.labels, self.input_spec = model, model.labels, model.input_spec

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model.forward_all(x).image_logits
        return logits.nan_to_num(nan=NO_REGION)


def of_images(model: nn.Module) -> nn.Module:
    """Return the model with logits of images."""
    return OfImages(model) if hasattr(model, "region_names") else model


def score(board: Board, options: argparse.Namespace, model: nn.Module) -> dict[str, Any]:
    """Compute the AUROC of the test images with its interval, and the shares of true boxes that heat maps hit."""
    test = board.images["test"]
    found = recipe.predictions(of_images(model), options, test)
    report = metrics.evaluate(found.targets, found.probabilities, board.labels, patient_ids=test.patient_ids)
    report.save(options.output)
    mean = report.mean
    return {"auroc": mean.auroc, "low": mean.auroc_low, "high": mean.auroc_high, **located(model, test)}


def located(model: nn.Module, test: datasets.ChestDataset) -> dict[str, Any]:
    """Compute the shares of true boxes hit by one box for each image and finding; {} for images without boxes.

    The shares are means over findings. The keys ``blind_...`` are those of a box in the middle of the image with half
    its sides.
    """
    rule = localization.build(**BOX)
    found, known, blind, kind = [], [], [], ""
    boxed = torch.nonzero(getattr(test, "boxed", torch.zeros(1))).flatten()
    for part in torch.split(boxed, 16):
        samples = [test[index] for index in part.tolist()]
        shown = thoraxlib.explain(model, [sample["image"] for sample in samples], threshold=0.0)
        kind = kind or heat_map(model, shown[0].method)
        for sample, image in zip(samples, shown, strict=True):
            truth = Boxes.from_lists([sample["boxes"]], [sample["box_labels"]])
            height, width = image.image.shape[-2:]
            middle = torch.tensor([width, height] * 2) * torch.tensor([0.25, 0.25, 0.75, 0.75])
            centred = truth._replace(xyxy=middle.expand(len(truth.label), 4))
            detected = rule(maps_of(image, test.labels), (height, width))
            for boxes, rows in ((detected, found), (truth, known), (centred, blind)):
                rows.append(boxes._replace(image=boxes.image + len(rows)))
    if not known:
        return {}
    truth = Boxes.concatenate(known)
    middle_box = hits(Boxes.concatenate(blind), truth, test.labels)
    scores = {**hits(Boxes.concatenate(found), truth, test.labels), **{f"blind_{k}": v for k, v in middle_box.items()}}
    return {**scores, "boxes": len(truth.label), "heat_map": kind}


def maps_of(image: Explanation, labels: Sequence[str]) -> Tensor:
    """Return the heat maps of an image (1, K, H, W) in its own pixels; NaN outside the input gets the lowest value."""
    maps = torch.zeros(1, len(labels), *image.image.shape[-2:])
    for finding in image.findings:
        lowest = float(finding.map.nan_to_num(nan=torch.inf).min())
        maps[0, labels.index(finding.label)] = finding.map.nan_to_num(nan=lowest)
    return maps


def heat_map(model: nn.Module, method: str) -> str:
    """Return the method of the heat maps and their size, as text."""
    if method == "regions":
        return method
    device = next(model.parameters()).device
    maps = cams.build(method, model)(torch.zeros(1, model.input_spec.channels, *model.input_spec.size, device=device))
    return f"{method}, {maps.shape[-2]} x {maps.shape[-1]}"


def hits(found: Boxes, truth: Boxes, labels: Sequence[str]) -> dict[str, float]:
    """Compute the shares of true boxes that a box of their finding overlaps, and that contain its centre."""
    centre = (found.xyxy[:, :2] + found.xyxy[:, 2:]) / 2
    points = found._replace(xyxy=torch.cat([centre - 0.01, centre + 0.01], dim=1))
    shares = {}
    for name, boxes, row in (("iou", found, ("iou", 0.1)), ("centre", points, ("iobb", 0.5))):
        shares[name] = localization_table(boxes, truth, labels, rows=[row], images="with_label").mean_accuracy(*row)
    return shares


def device_of(options: argparse.Namespace) -> torch.device:
    """Return the device for scores and speed."""
    return torch.device("cuda" if torch.cuda.is_available() and options.device != "cpu" else "cpu")


def cost(board: Board, model: nn.Module) -> dict[str, Any]:
    """Measure parameters, FLOPs of one image, and images per second."""
    options, test = board.options, board.images["test"]
    whole, transform = of_images(model).eval().requires_grad_(False).to(device_of(options)), transform_for(board.spec)
    images = [transform({"image": test[index]["image"]}) for index in range(min(options.batch_size, len(test)))]
    x = datasets.collate(images)["image"].to(device_of(options))
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # an untrained UNet's masks are empty
        whole(x)  # a first call, for everything that is computed once
        with FlopCounterMode(display=False) as counter:
            whole(x[:1])
        timer = Timer("model(x)", globals={"model": whole, "x": x}, num_threads=torch.get_num_threads())
        seconds = timer.blocked_autorange().median
    parameters = sum(parameter.numel() for parameter in whole.parameters())
    return {"parameters": parameters, "flops": counter.get_total_flops(), "images_per_second": len(x) / seconds}


def conditions(board: Board) -> str:
    """Describe the conditions of the speed."""
    batch, threads = min(board.options.batch_size, len(board.images["test"])), torch.get_num_threads()
    cpu = device_of(board.options).type == "cpu"
    where = f"CPU, {threads} thread{'s' * (threads > 1)}" if cpu else torch.cuda.get_device_name()
    return f"batches of {batch}, float32, {where}, torch {torch.__version__}"


# -- rows ----------------------------------------------------------------------------------------------------------


def finished(board: Board, name: str, seed: int) -> dict[str, Any] | None:
    """Return the scores of an earlier training, if it was completed."""
    path = board.output / name / f"seed{seed}" / "result.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() and not board.options.overwrite else None


def run(board: Board, name: str, seed: int) -> dict[str, Any]:
    """Train a model with one random seed, and return its scores."""
    options = argparse.Namespace(**{**vars(board.options), "seed": seed, "output": board.output / name / f"seed{seed}"})
    options.cache = False  # the images are in memory already
    if options.overwrite:
        shutil.rmtree(options.output, ignore_errors=True)
    torch.manual_seed(seed)
    start = time.perf_counter()
    model, note = trainer_of(name)(board, options, name)
    result = {
        "note": note,
        "seconds": time.perf_counter() - start,
        **score(board, options, model.to(device_of(options))),
    }
    wanted = board.options.weights == "imagenet" and "pretrained" in thoraxlib.describe(name).options
    if wanted and not model.config["options"].get("pretrained"):
        result["note"] = "; ".join(filter(None, [note, "from scratch: no ImageNet weights"]))
    result = {key: value for key, value in (result | cost(board, model)).items() if value == value}  # JSON has no NaN
    write_json(options.output / "result.json", result, indent=2)
    print(f"seed {seed}: AUROC {result.get('auroc', math.nan):.4f}, {result['seconds']:.0f} s", flush=True)
    return result


def row(board: Board, name: str) -> dict[str, Any]:
    """Return the row of a model: means over random seeds."""
    card, options = thoraxlib.describe(name), board.options
    known = {"model": name, "backbone": backbone_of(board, name)}
    chosen = TABLES.get(name, next(iter(card.published), None))
    if chosen is not None:
        table = card.published[chosen]
        known |= {"published": sum(table.values()) / len(table), "table": chosen}
    seeds = range(options.seed, options.seed + options.seeds)
    runs = [result for seed in seeds if (result := finished(board, name, seed)) is not None]
    if not options.train and len(runs) < len(seeds):
        torch.manual_seed(options.seed)
        return {**known, **cost(board, build(board, name))}
    runs = [finished(board, name, seed) or run(board, name, seed) for seed in seeds]
    keys = [key for key in ("auroc", "low", "high", *HITS) if all(key in each for each in runs)]
    means = {key: statistics.fmean(each[key] for each in runs) for key in keys}
    if len(runs) > 1 and "auroc" in means:
        means["spread"] = statistics.stdev(each["auroc"] for each in runs)
    return {**known, **runs[0], **means, "seeds": len(runs)}


def backbone_of(board: Board, name: str) -> str:
    """Return the backbone's name; a small one with "small" before it."""
    choice = board.options.backbone
    if choice not in ("small", "own"):
        return choice
    own = thoraxlib.describe(name).options.get("backbone") or ("resnet18" if choice == "small" else "resnet50")
    return f"{'small ' if choice == 'small' else ''}{own if isinstance(own, str) else own['name']}"


# -- table and figure ----------------------------------------------------------------------------------------------


def explained(board: Board, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the lines that explain the table."""
    options, side = board.options, board.options.size
    done = [each for each in rows if "auroc" in each]
    lines = [
        f"MFLOPs: a multiplication and an addition are two; of one image of {side} x {side} pixels, the whole model."
    ]
    lines.append(f"images/s: inference, {conditions(board)}.")
    if done:
        count = {part: len(images) for part, images in board.images.items()}
        lines[:0] = [
            f"Data: {options.data}, {count['train']} training, {count['val']} validation, {count['test']} test images, "
            f"{side} x {side} pixels, {len(board.labels)} labels ({', '.join(board.labels)}).",
            f"Training: AdamW, one cycle up to a rate of {options.lr:g}, weight decay 0.01, cross-entropy, batches of "
            f"{options.batch_size}, {options.epochs} epochs in all, augmentation: {options.augmentation}, weights: "
            f"{options.weights}, backbones: {options.backbone}, best epoch by validation AUROC, seed {options.seed}.",
            "AUROC: mean over labels, with the bootstrap interval over test patients"
            + (f"; mean ± standard deviation over {options.seeds} seeds, mean interval." if options.seeds > 1 else "."),
        ]
    hit = next((each for each in done if "iou" in each), None)
    if hit is not None:
        lines.insert(
            3,
            f"{', '.join(HITS.values())}: shares of the {hit['boxes']} true boxes that one box for each image "
            "and finding overlaps with this IoU, or that contain its centre; means over findings. It lies around "
            "the values above 180 of 255 in the heat map of thoraxlib.explain. A box in the middle of every image, "
            f"half as wide and high, has {hit['blind_iou']:.3f} and {hit['blind_centre']:.3f}.",
        )
    return lines


def publish(board: Board, rows: list[dict[str, Any]]) -> None:
    """Write the results so far: Markdown, CSV, JSON, and the figure if matplotlib is installed."""
    table, titles = cells(rows)
    notes = [f"- {line}" for line in explained(board, rows)]
    notes += [f"- [{n}] {title}: mean AUROC, on other images." for n, title in enumerate(titles, start=1)]
    keys = list(dict.fromkeys(key for each in ranked(rows) for key in each))
    text = io.StringIO()
    writer = csv.DictWriter(text, keys, lineterminator="\n")
    writer.writeheader()
    writer.writerows(ranked(rows))
    whole = {"protocol": board.protocol(), "conditions": conditions(board), "rows": ranked(rows)}
    files = {
        "leaderboard.md": text_tables.markdown(table) + "\n" + "\n".join(notes) + "\n",
        "leaderboard.csv": text.getvalue(),
        "leaderboard.json": json.dumps(whole, indent=2) + "\n",
    }
    for name, text in files.items():
        write_text(board.output / name, text)
    try:
        figure = plot(rows)
    except ImportError:
        print('no leaderboard.png: pip install "thoraxlib[plot]" draws it', file=sys.stderr)
        return
    figure.savefig(board.output / "leaderboard.png", dpi=110)


if __name__ == "__main__":
    sys.exit(1 if main() else 0)
