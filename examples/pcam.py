"""PCAM (Ye et al., 2020, arXiv 2005.14480) and the CheXpert recipe of its authors (jfhealthcare/Chexpert).

    python examples/pcam.py                                               # synthetic images, three minutes on two cores
    python examples/pcam.py --compare avg                                 # also the same network with average pooling
    python examples/pcam.py --data chexpert --root /data/CheXpert-v1.0-small     # the authors' recipe
    python examples/pcam.py --data nih14 --root /data/nih                        # the paper's ResNet-34 on ChestX-ray14

The authors' recipe: DenseNet-121 from ImageNet weights, their input (equalised, blurred, 512 pixels), their affine
augmentation, a cross-entropy with weights for each label and batch, Adam at 1e-4, divided by 10 after two of three
epochs, batches of 24, and a second copy of every image with Cardiomegaly or Consolidation. For ChestX-ray14, only the
network is the paper's; epochs, schedule and mirroring are ours. On the synthetic data set everything is smaller, and
the feature maps are finer (stride 8), as in examples/quickstart.py.

A box lies around each region of the probability map above a level. The level is chosen on the validation images.
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

import recipe
import torch

from thoraxlib import datasets

PUBLISHED = None  # the code's README gives means only
SYNTHETIC = {"size": 80, "num_images": 1400, "epochs": 3, "batch_size": 8, "lr": 1e-3, "weights": "none", "cache": True}
CHEXPERT = {"labels": ["chexpert5"], "epochs": 3, "batch_size": 24, "lr": 1e-4, "weights": "imagenet"}
OWN = {"epochs": 20, "batch_size": 24, "lr": 1e-4, "weights": "imagenet"}
NIH = {**OWN, "labels": ["nih14"]}
LEVELS = [(level,) for level in (128, 153, 179, 204, 217, 230, 242)]


def main(argv: list[str] | None = None) -> float:
    """Run the example and return the macro AUROC."""
    flags = recipe.parser("PCAM: probability maps for pooling and as heat maps.")
    flags.add_argument("--pool", default="pcam", help="pooling: pcam, avg, lse, exp, linear, max")
    flags.add_argument("--compare", help="also train the same network with this pooling, e.g. avg")
    flags.add_argument("--attention", help="channel_attention, spatial_attention or pyramid_attention")
    flags.add_argument("--weights", choices=("imagenet", "none"), help="initial weights of the backbone")
    flags.add_argument("--epochs", type=int, help="number of epochs")
    flags.add_argument("--batch-size", type=int, help="images in a batch on each device")
    flags.add_argument("--lr", type=float, help="learning rate")
    defaults = {"synthetic": SYNTHETIC, "chexpert": CHEXPERT, "nih14": NIH, **dict.fromkeys(recipe.OWN, OWN)}
    flags.set_defaults(**defaults.get(recipe.early(flags, argv), {}))
    options = recipe.parse(flags, "pcam", argv)
    score = train(options, options.pool)
    if options.compare:
        options.output = options.output.with_name(f"{options.output.name}_{options.compare}")
        train(options, options.compare)
    return score


def train(options: argparse.Namespace, pool: str) -> float:
    """Train and score the network with one pooling, and return the macro AUROC."""
    torch.manual_seed(options.seed)
    components: dict[str, Any] = {"pool": pool}
    if options.attention:
        components["attention"] = options.attention
    if options.data == "synthetic":
        components["backbone"] = {"name": "densenet121", "output_stride": 8, "dilated": False}
    elif options.data == "chexpert":
        components["preset"] = "jfhealthcare"
    model = recipe.build("pcam", options, **components)
    data = recipe.parts(options, model)
    # initial probability: the prevalence, so that the first steps need not learn it
    prevalence = data["train"].targets.nanmean().clamp(0.01, 0.99)
    torch.nn.init.constant_(model.head.fc.bias, float(prevalence.logit()))
    if options.data == "synthetic":
        settings: dict[str, Any] = {
            "loss": "bce",
            "optimizer": partial(torch.optim.AdamW, lr=options.lr, weight_decay=0.01),
            "scheduler": "onecycle",
        }
    else:
        settings = {
            "loss": {"name": "bce", "pos_weight": "batch", "skip_absent": True, "reduction": "label_sum"},
            "optimizer": partial(torch.optim.Adam, lr=options.lr),
            "scheduler": {"name": "multistep", "milestones": [2]} if options.data == "chexpert" else "plateau",
            "augmentation": "jfhealthcare" if options.data == "chexpert" else "chexnet",
        }
        rare = [label for label in ("Cardiomegaly", "Consolidation") if label in model.labels]
        if options.data == "chexpert" and rare:
            data = {**data, "train": datasets.oversample(data["train"], rare)}
    model = recipe.fit(model, options, data, **settings)
    method = "pcam" if pool == "pcam" else "cam"
    rule = recipe.tuned(model, data["val"], method, "threshold", levels=LEVELS)
    return recipe.report(
        model, options, data, published=PUBLISHED, heat_maps=(method,), rules={method: rule}
    ).macro_auroc


if __name__ == "__main__":
    main()
