"""CheXNet on the phantom, in about two minutes on two cores: AUROC beside the published one, heat maps, true boxes.

    python examples/quickstart.py

trains from scratch on 2,500 films of 96 x 96 pixels and writes ``outputs/quickstart``. The phantom's findings are far
clearer than a patient's, so high numbers here say that the path from data to boxes works, no more.
"""

from __future__ import annotations

from functools import partial

import recipe
import torch

PUBLISHED = "CheXNet paper, table 2 (random split by patient, not released)"


def main(argv: list[str] | None = None) -> float:
    """Run it; the macro AUROC."""
    flags = recipe.parser("CheXNet on the phantom, in about two minutes on two cores.")
    flags.add_argument("--epochs", type=int, default=3)
    flags.add_argument("--batch-size", type=int, default=32)
    flags.add_argument("--lr", type=float, default=3e-3, help="highest rate of the one-cycle schedule")
    flags.add_argument("--weights", choices=("imagenet", "none"), default="none")
    flags.set_defaults(size=96, films=2500, cache=True, restart=True)
    options = recipe.parse(flags, "quickstart", argv)
    torch.manual_seed(options.seed)

    # a stride of 16 instead of 32: maps of 6 x 6 on so small a film
    model = recipe.build("chexnet", options, backbone={"name": "densenet121", "output_stride": 16})
    data = recipe.parts(options, model)
    model = recipe.fit(
        model,
        options,
        data,
        loss="bce",
        optimizer=partial(torch.optim.AdamW, lr=options.lr, weight_decay=0.01),
        scheduler="onecycle",
        channels_last=True,
    )
    return recipe.report(model, options, data["test"], published=PUBLISHED).macro_auroc


if __name__ == "__main__":
    main()
