"""CheXNet (Rajpurkar et al., 2017, arXiv 1711.05225): the paper's recipe; its hyper-parameters are the default flags.

    python examples/chexnet.py --data nih14 --root /data/nih        # the release: Data_Entry_2017*.csv, images*/
    python examples/chexnet.py --num-images 500 --size 64 --epochs 2     # a short run on synthetic images

DenseNet-121 from ImageNet weights, 224 x 224 pixels, Adam (0.9, 0.999) at a learning rate of 0.001, batches of 16,
random mirroring. The learning rate is divided by 10 when the validation loss stops falling, and the epoch of the lowest
validation loss is kept. The paper gives neither the number of epochs nor the split. `--labels pneumonia --loss
weighted_bce` is its model with one output.
"""

from __future__ import annotations

from functools import partial

import recipe
import torch

PUBLISHED = "CheXNet paper, table 2 (random split by patient, not released)"


def main(argv: list[str] | None = None) -> float:
    """Run the example and return the macro AUROC."""
    flags = recipe.parser("CheXNet: the paper's recipe.")
    paper = flags.add_argument_group("the paper's hyper-parameters")
    paper.add_argument(
        "--weights", choices=("imagenet", "none"), default="imagenet", help="initial weights of the backbone"
    )
    paper.add_argument("--backbone", default="densenet121", help="any of thoraxlib.backbones")
    paper.add_argument("--loss", default="bce", help="bce, or weighted_bce: the paper's loss for pneumonia alone")
    paper.add_argument("--epochs", type=int, default=20, help="number of epochs; not in the paper")
    paper.add_argument("--batch-size", type=int, default=16, help="images in a batch on each device")
    paper.add_argument("--lr", type=float, default=1e-3, help="learning rate")
    paper.add_argument("--betas", type=float, nargs=2, default=(0.9, 0.999), help="betas of Adam")
    paper.add_argument("--weight-decay", type=float, default=0.0, help="weight decay")
    paper.add_argument("--decay-factor", type=float, default=0.1, help="factor of the learning rate on a plateau")
    paper.add_argument(
        "--decay-patience", type=int, default=0, help="epochs without improvement before the learning rate falls"
    )
    paper.add_argument("--augmentation", default="chexnet", help="chexnet (mirroring), none, light, zoogzog, ...")
    paper.add_argument("--monitor", default="val/loss", help="score that selects the epoch: val/loss or val/auroc")
    options = recipe.parse(flags, "chexnet", argv)
    torch.manual_seed(options.seed)

    model = recipe.build("chexnet", options, backbone=options.backbone)
    data = recipe.parts(options, model)
    model = recipe.fit(
        model,
        options,
        data,
        augmentation=options.augmentation,
        loss=options.loss,
        optimizer=partial(
            torch.optim.Adam, lr=options.lr, betas=tuple(options.betas), weight_decay=options.weight_decay
        ),
        scheduler={"name": "plateau", "factor": options.decay_factor, "patience": options.decay_patience},
        monitor=options.monitor,
    )
    return recipe.report(model, options, data, published=PUBLISHED).macro_auroc


if __name__ == "__main__":
    main()
