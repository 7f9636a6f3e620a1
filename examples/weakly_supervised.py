"""Weakly supervised localisation (alinstein/X_RAY): any pooling, any attention, any heat map, boxes.

    python examples/weakly_supervised.py                             # synthetic images, about two minutes on two cores
    python examples/weakly_supervised.py --pool lse --attention pyramid_attention --maps cam gradcam++ layercam
    python examples/weakly_supervised.py --data nih14 --root /data/nih --preset densenet121 --pool lse
    python examples/weakly_supervised.py --data chexpert --root /data/CheXpert-v1.0-small --labels chexpert5

The repository's recipe, for --data nih14 and chexpert: ImageNet weights, 224 x 224 pixels, Adam at 1e-4, batches of 32,
20 epochs, mirroring, a cross-entropy averaged over images and summed over labels, and the epoch of the best validation
AUROC. On the synthetic data set everything is smaller, and the feature maps are finer (stride 8).

For each heat map, the threshold of its boxes is chosen on the validation images. The repository chose it on the images
that it reports.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import recipe
import torch

SYNTHETIC = {"preset": "densenet121_pcam", "size": 80, "num_images": 1400, "epochs": 3, "batch_size": 8}
SYNTHETIC |= {"lr": 1e-3, "weights": "none", "cache": True}
REAL = {"preset": "resnet18", "size": 224, "epochs": 20, "batch_size": 32, "lr": 1e-4, "weights": "imagenet"}
LEVELS = [(level,) for level in (128, 153, 179, 204, 217, 230, 242)]


def main(argv: list[str] | None = None) -> float:
    """Run the example and return the macro AUROC."""
    flags = recipe.parser("X_RAY: classification from labels of whole images, and boxes from its heat maps.")
    flags.add_argument(
        "--preset", help="preset of x_ray: resnet18, densenet121, efficientnet_b0, custom, resnet18_pcam, ..."
    )
    flags.add_argument("--pool", help="max, lse, avg, pcam, exp, linear, avg_max, avg_max_lse, instead of the preset's")
    flags.add_argument("--attention", help="channel_attention, spatial_attention or pyramid_attention")
    flags.add_argument("--maps", nargs="+", default=["cam", "gradcam", "gradcam++"], help="heat maps to compare")
    flags.add_argument("--weights", choices=("imagenet", "none"), help="initial weights of the backbone")
    flags.add_argument("--epochs", type=int, help="number of epochs")
    flags.add_argument("--batch-size", type=int, help="images in a batch on each device")
    flags.add_argument("--lr", type=float, help="learning rate")
    synthetic = recipe.early(flags, argv) == "synthetic"
    flags.set_defaults(**(SYNTHETIC if synthetic else REAL))
    options = recipe.parse(flags, "weakly_supervised", argv)
    torch.manual_seed(options.seed)

    components: dict[str, Any] = {"preset": options.preset}
    components |= {name: value for name in ("pool", "attention") if (value := getattr(options, name))}
    if synthetic and options.preset.startswith("densenet121"):
        components["backbone"] = {"name": "densenet121", "final_act": False, "output_stride": 8, "dilated": False}
    model = recipe.build("x_ray", options, **components)
    data = recipe.parts(options, model)
    model = recipe.fit(
        model,
        options,
        data,
        augmentation=None if synthetic else "x_ray",
        loss={"name": "bce", "reduction": "label_sum"},
        optimizer=partial(torch.optim.Adam, lr=options.lr),
        scheduler="onecycle" if synthetic else None,
        monitor="val/auroc",
    )
    rules = {method: recipe.tuned(model, data["val"], method, "threshold", levels=LEVELS) for method in options.maps}
    return recipe.report(model, options, data, heat_maps=tuple(options.maps), rules=rules).macro_auroc


if __name__ == "__main__":
    main()
