"""CheXNet on synthetic images, in about three minutes on two cores: AUROC beside the published one, heat maps, boxes.

    python examples/quickstart.py

The script trains from scratch on 1,300 images of 64 x 64 pixels and writes ``outputs/quickstart``. Synthetic findings
are far clearer than those of a patient: high numbers show only that the path from data to boxes works.

For such small images and such a short training, two components are replaced by name. The feature maps have a stride of
8 instead of 32. Logits of each location are pooled by log-sum-exp, instead of features by their average, so that the
location with the most evidence decides and the heat map has its peak there. ``examples/chexnet.py`` is the paper's
network.

In the end, a real radiograph is checked for its view and its lungs are outlined, by weights that are part of the
package.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import recipe
import torch

from thoraxlib import plotting, segmentation
from thoraxlib.explanation import ViewCheck
from thoraxlib.images import read

PUBLISHED = "CheXNet paper, table 2 (random split by patient, not released)"


def main(argv: list[str] | None = None) -> float:
    """Run the example and return the macro AUROC."""
    flags = recipe.parser("CheXNet on synthetic images, in about three minutes on two cores.")
    flags.add_argument("--epochs", type=int, default=3, help="number of epochs")
    flags.add_argument(
        "--batch-size", type=int, default=8, help="images in a batch; small, for many steps in little time"
    )
    flags.add_argument("--lr", type=float, default=1e-3, help="highest learning rate of the one-cycle schedule")
    flags.add_argument(
        "--weights", choices=("imagenet", "none"), default="none", help="initial weights of the backbone"
    )
    flags.set_defaults(size=64, num_images=1300, cache=True, overwrite=True)
    options = recipe.parse(flags, "quickstart", argv)
    torch.manual_seed(options.seed)

    model = recipe.build(
        "chexnet",
        options,
        backbone={"name": "densenet121", "output_stride": 8, "dilated": False},
        head="map",
        pool={"name": "lse", "r": 1.0},
    )
    data = recipe.parts(options, model)
    # initial probability: the prevalence, so that the first steps need not learn it
    torch.nn.init.constant_(model.head.conv.bias, float(data["train"].targets.mean().logit()))
    model = recipe.fit(
        model,
        options,
        data,
        loss="bce",
        optimizer=partial(torch.optim.AdamW, lr=options.lr, weight_decay=0.01),
        scheduler="onecycle",
    )
    score = recipe.report(model, options, data, published=PUBLISHED, heat_maps=("cam",)).macro_auroc
    check_radiograph(options.output)
    return score


def check_radiograph(output: Path) -> None:
    """Print the view of a real radiograph, and write it with its lungs outlined."""
    path = Path(__file__).with_name("images") / "radiograph.jpg"
    image = read(path)
    (view,) = ViewCheck()([image])
    (lungs,) = segmentation.find_organs(segmentation.build("lungs-small"), [image], ["lungs"])
    print(f"{path.name}: {view}; the lungs are {lungs.float().mean():.0%} of the image")
    plotting.save(plotting.outline(image, lungs), output / "radiograph.png")


if __name__ == "__main__":
    main()
