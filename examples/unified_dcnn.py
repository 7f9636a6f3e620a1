"""Unified DCNN (Wang et al., ChestX-ray8, CVPR 2017, arXiv 1705.02315): the paper's recipe.

    python examples/unified_dcnn.py --data nih14 --root /data/nih --backbone resnet50 --size 1024
    python examples/unified_dcnn.py --num-images 500 --size 128 --epochs 2     # a short run on synthetic images

A backbone from ImageNet weights (alexnet, googlenet, vgg16, resnet50), transition layer, log-sum-exp pooling with
r = 10, prediction layer; W-CEL loss; SGD over batches of 80 by accumulation. The paper gives no learning rate, momentum
or weight decay: the defaults are those of Caffe (0.01, 0.9, 0.0005). It trained its ResNet-50 for about 10,000
iterations.
"""

from __future__ import annotations

from functools import partial

import recipe
import torch

PUBLISHED = "ChestX-ray14, ResNet-50, published split (table 17)"


def main(argv: list[str] | None = None) -> float:
    """Run the example and return the macro AUROC."""
    flags = recipe.parser("Unified DCNN: the paper's recipe.")
    paper = flags.add_argument_group("the paper's hyper-parameters")
    paper.add_argument(
        "--weights", choices=("imagenet", "none"), default="imagenet", help="initial weights of the backbone"
    )
    paper.add_argument("--backbone", default="resnet50", help="alexnet, googlenet, vgg16, resnet50, or any other")
    paper.add_argument("--transition", choices=("conv1x1", "conv3x3", "none"), default="conv1x1", help="layer")
    paper.add_argument("--pool", choices=("avg", "max", "lse"), default="lse", help="pooling")
    paper.add_argument("--sharpness", type=float, default=10.0, help="r of log-sum-exp pooling")
    paper.add_argument("--loss", default="w_cel", help="w_cel, or bce: the paper's unweighted loss")
    paper.add_argument("--batch-size", type=int, default=8, help="images in a batch on each device")
    paper.add_argument("--iterations", type=int, default=10_000, help="most steps of the optimiser")
    paper.add_argument("--epochs", type=int, default=10, help="most epochs; not in the paper")
    paper.add_argument("--lr", type=float, default=0.01, help="learning rate; not in the paper")
    paper.add_argument("--momentum", type=float, default=0.9, help="momentum of SGD; not in the paper")
    paper.add_argument("--weight-decay", type=float, default=5e-4, help="weight decay; not in the paper")
    paper.add_argument("--augmentation", default="none", help="none, chexnet, light, ...; not in the paper")
    paper.add_argument("--monitor", default="val/auroc", help="score that selects the epoch; not in the paper")
    flags.set_defaults(accumulate=10)  # 10 batches of 8 are the paper's 80 images
    options = recipe.parse(flags, "unified_dcnn", argv)
    torch.manual_seed(options.seed)

    pool = {"name": "lse", "r": options.sharpness} if options.pool == "lse" else options.pool
    model = recipe.build("unified_dcnn", options, backbone=options.backbone, transition=options.transition, pool=pool)
    data = recipe.parts(options, model)
    model = recipe.fit(
        model,
        options,
        data,
        augmentation=options.augmentation,
        loss=options.loss,
        optimizer=partial(torch.optim.SGD, lr=options.lr, momentum=options.momentum, weight_decay=options.weight_decay),
        max_steps=options.iterations,
        monitor=options.monitor,
    )
    report = recipe.report(model, options, data, published=PUBLISHED, heat_maps=("cam",), rules={"cam": "threshold"})
    return report.macro_auroc


if __name__ == "__main__":
    main()
