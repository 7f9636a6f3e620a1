"""Any model on PneumoniaMNIST or ChestMNIST (MedMNIST v2, Yang et al. 2023), scored as their paper does.

    python examples/medmnist.py                                             # ResNet-18; downloads 4 MB
    python examples/medmnist.py --root pneumoniamnist.npz --model van       # a file that is already here
    python examples/medmnist.py --data chestmnist --file-size 64 --model chexnet --size 128 --weights imagenet

The model trains on the official training images; the epoch with the best AUC of the validation images is kept. On the
test images it prints and writes AUC and accuracy with 95 % intervals. As in MedMNIST's own evaluator, a probability
above 0.5 is positive, and AUC and accuracy are means over the labels. MedMNIST has no patient ids: the intervals are
over images, and patients with several images make them too narrow.

--file-size is the side of MedMNIST's images, --size the side of the model's input, to which they are resized.

Models that train in stages, or on masks or regions that MedMNIST does not have, have scripts of their own.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import recipe
import torch

import thoraxlib
from thoraxlib import datasets, metrics, training
from thoraxlib.utils.files import write_json

LABELS = {"pneumoniamnist": "pneumonia", "chestmnist": "nih14"}
IN_STAGES = ("ag_cnn", "anaxnet")


def main(argv: list[str] | None = None) -> float:
    """Run the example and return the AUC of the test images."""
    flags = argparse.ArgumentParser(
        description="Any model on PneumoniaMNIST or ChestMNIST.", formatter_class=recipe.HelpFormatter
    )
    data = flags.add_argument_group("data")
    data.add_argument("--data", choices=tuple(LABELS), default="pneumoniamnist", help="data set")
    data.add_argument("--root", type=Path, help="MedMNIST's file, or its folder; default: download it")
    data.add_argument("--file-size", type=int, choices=(28, 64, 128, 224), default=28, help="side of MedMNIST's images")
    flags.add_argument("--model", choices=models(), default="classifier", metavar="NAME", help="a documented model")
    flags.add_argument("--backbone", help='backbone instead of the model\'s own; for "classifier": resnet18')
    flags.add_argument("--size", type=int, default=56, help="side of the input in pixels")
    flags.add_argument(
        "--weights", choices=("imagenet", "none"), default="none", help="initial weights of the backbone"
    )
    flags.add_argument("--augmentation", default="light", help="augmentation: light, chexnet, none, ...")
    flags.add_argument("--epochs", type=int, default=6, help="number of epochs")
    flags.add_argument("--batch-size", type=int, default=32, help="images in a batch on each device")
    flags.add_argument("--lr", type=float, default=1e-3, help="highest learning rate of the one-cycle schedule")
    recipe.run_flags(flags)
    flags.set_defaults(labels=[LABELS[recipe.early(flags, argv)]])
    options = recipe.parse(flags, "medmnist", argv, folder=None)
    torch.manual_seed(options.seed)

    backbone = options.backbone or ("resnet18" if options.model == "classifier" else None)
    model = recipe.build(options.model, options, **({"backbone": backbone} if backbone else {}))
    images = {
        part: datasets.build(options.data, root=options.root, split=part, size=options.file_size)
        for part in ("train", "val", "test")
    }
    model = recipe.fit(
        model,
        options,
        images,
        augmentation=options.augmentation,
        loss="bce",
        optimizer=partial(torch.optim.AdamW, lr=options.lr, weight_decay=0.05),
        scheduler="onecycle",
        monitor="val/auroc",
    )
    found = recipe.predictions(model, options, images["test"])
    report = recipe.report(model, options, {"test": images["test"]}, heat_maps=(), found=found)
    scores = medmnist_scores(found, report.mean)
    for name, (value, low, high) in scores.items():
        print(f"{name} {value:.3f} ({low:.3f} to {high:.3f})")
    if training.is_first_process():
        write_json(options.output / "scores.json", {"model": model.config, "scores": scores}, indent=2)
    return scores["AUC"][0]


def models() -> tuple[str, ...]:
    """Return the documented models that train in one call on images and their labels."""
    names = thoraxlib.models.registry.registered()
    return tuple(n for n in names if n not in IN_STAGES and not thoraxlib.describe(n).options.get("segmenter"))


def medmnist_scores(found: training.Predictions, mean: metrics.Row) -> dict[str, tuple[float, float, float]]:
    """Return AUC and accuracy by MedMNIST's definitions, each with the ends of its 95 % bootstrap interval."""
    right = ((found.probabilities > 0.5) == (found.targets == 1)).double()
    interval = metrics.bootstrap_mean(right)
    return {
        "AUC": (mean.auroc, mean.auroc_low, mean.auroc_high),
        "accuracy": (float(right.mean()), interval.macro_low, interval.macro_high),
    }


if __name__ == "__main__":
    main()
