"""Count the operations of the papers' recipes on their archives; a rate gives the hours."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import thoraxlib
from thoraxlib import detection

WHERE, PACKAGES = "Counted, not timed", ("torchvision", "timm")
HEADER = """\
| recipe | stage | passes x images | GFLOP for each image | PFLOP | hours at 1.7 TFLOP/s | at 17 TFLOP/s |
|---|---|---|---|---|---|---|"""

NIH, IMAGENOME, PADCHEST = (
    86_524,
    166_521,
    130_461,
)  # training images in the lists of the releases and of the repository
CHEXPERT = (
    224_316  # all images (Irvin et al. 2019); images with rare findings count once, although the recipe doubles them
)
RATE = 1.7e12  # FLOP/s
TRAINING = 3  # a backward pass has twice the operations of the forward pass


@dataclass(frozen=True)
class Stage:
    """One row of the table: for each image, a number of each of the `calls`; `passes` over all `images`."""

    recipe: str
    name: str
    passes: float
    images: int
    calls: Sequence[tuple[float, Callable[[], object]]]

    def __str__(self) -> str:
        each = sum(times * flops(call) for times, call in self.calls)
        total = each * self.passes * self.images
        hours = [f"{total / rate / 3600:,.1f}" for rate in (RATE, 10 * RATE)]
        cells = [
            self.recipe,
            self.name,
            f"{self.passes:g} x {self.images:,}",
            f"{each / 1e9:.1f}",
            f"{total / 1e15:,.0f}",
        ]
        return f"| {' | '.join([*cells, *hours])} |"


def run(device: torch.device) -> Iterator[Stage]:
    yield whole("chexnet", "zoogzog's 100 epochs", "chexnet", 100, 78_468)
    yield whole("chexnet", "20 epochs", "chexnet", 20, NIH)
    yield whole("unified_dcnn", "10,000 steps of 80 images", "unified_dcnn", 10_000, 80, side=1024)
    yield whole("padchest_openi", "20 epochs, all layers", "unified_dcnn_padchest", 20, PADCHEST)
    yield whole("pcam, CheXpert", "3 epochs", "jf_top1", 3, CHEXPERT)
    yield whole("x_ray", "20 epochs", "x_ray", 20, NIH)

    x = images(224)
    model = thoraxlib.build("ag_cnn").eval()
    branch = lambda: model.global_branch(x)  # noqa: E731  # the local branch is the same network
    for name, trained, run_only in (("global branch", 1, 0), ("local branch", 1, 1), ("fusion", 0, 2)):
        yield Stage("ag_cnn", f"{name}, 50 epochs, 224 px", 50, NIH, [(TRAINING * trained + run_only, branch)])

    fused = thoraxlib.build("segfusion_vangcn").eval()
    segmenter, fused.segmenter = fused.segmenter, None
    masks = torch.ones(1, 1, 224, 224)
    yield Stage("segfusion_vangcn", "masks by the UNet, once, 224 px", 1, NIH, [(1, lambda: segmenter(x))])
    classify = lambda: fused(x, masks)  # noqa: E731
    yield Stage("segfusion_vangcn", "5 epochs with the masks, 224 px", 5, NIH, [(TRAINING, classify)])

    detector = detection.build("fasterrcnn_resnet50_fpn").eval()
    side = max(detector.input_spec.size)
    find = lambda: detector(images(side))  # noqa: E731
    yield Stage("anaxnet", f"detector, 5 epochs, {side} px", 5, IMAGENOME, [(TRAINING, find)])
    yield Stage("anaxnet", f"features of regions, once, {side} px", 1, IMAGENOME, [(1, find)])


def whole(recipe: str, stage: str, name: str, passes: float, count: int, side: int | None = None) -> Stage:
    """Stage that trains a whole model."""
    model = thoraxlib.build(name).eval()
    x = images(side or max(model.input_spec.size), model.input_spec.channels)
    return Stage(recipe, f"{stage}, {x.shape[-1]} px", passes, count, [(TRAINING, lambda: model(x))])


def images(side: int, channels: int = 3) -> Tensor:
    return torch.rand(1, channels, side, side)


@torch.no_grad()
def flops(call: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()
