"""Measure how cost grows with batch, image size, labels and rows, and draw the curves for the documentation."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

import thoraxlib
from benchmarks import timing
from benchmarks.timing import Work, seconds
from thoraxlib.graphs import LabelCounts
from thoraxlib.utils.files import replacing

PACKAGES = ("timm", "torchvision", "numpy", "grad-cam", "pandas")


@dataclass
class Curves:
    """Seconds of several functions for each size, measured in turn."""

    name: str
    title: str
    axis: str
    sizes: Sequence[int]
    of: Callable[[int], dict[str, Work]]
    times: int = 5
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def measure(self) -> None:
        for size in self.sizes:
            works = self.of(size)
            for work in works.values():
                work()
            turns = range(min(self.times, timing.most_pairs))
            runs = [{name: seconds(work) for name, work in works.items()} for _ in turns]
            for name in works:
                self.seconds.setdefault(name, []).append(statistics.median(run[name] for run in runs))


def all_curves() -> Iterator[Curves]:
    yield Curves("batch", "Heat maps of 14 labels, DenseNet-121, 224 px", "images in a batch", (1, 2, 4, 8), _batch)
    yield Curves("size", "VAN-B0, inference, batch 2", "side of the image in pixels", (128, 224, 320, 448), _size)
    yield Curves("labels", "Heat maps, ResNet-18, 224 px, batch 2", "labels", (1, 3, 7, 14, 28), _labels, times=3)
    yield Curves("rows", "Co-occurrence of 14 labels, int64", "rows", (10_000, 100_000, 1_000_000), _rows, times=3)


def draw(docs: Path | None, conditions: str) -> None:
    """Measure all curves, draw a figure of each, and write the page that shows them."""
    lines = [f"*{conditions}*"]
    for curves in all_curves():
        curves.measure()
        for name, taken in curves.seconds.items():
            listed = ", ".join(f"{size:,}: {s:.3g} s" for size, s in zip(curves.sizes, taken, strict=True))
            print(f"{curves.title}: {name}: {listed}", flush=True)
        figure = f"_static/benchmarks/{curves.name}.png"
        lines += ["", f"![{curves.title}, cost against {curves.axis}]({figure})"]
        if docs is not None:
            _draw(curves, docs / figure)
    if docs is not None:
        with replacing(docs / "_benchmarks" / "scaling.md") as scratch:
            scratch.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _draw(curves: Curves, path: Path) -> None:
    """Draw curves on logarithmic axes; costs are multiples of the first curve's first point."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.4), layout="constrained")
    axes = figure.subplots()
    unit = next(iter(curves.seconds.values()))[0]
    for name, taken in curves.seconds.items():
        axes.loglog(curves.sizes, [s / unit for s in taken], marker="o", label=name)
    axes.set(title=curves.title, xlabel=curves.axis, ylabel="cost (first point of the first curve: 1)")
    axes.set_xticks(curves.sizes, [f"{size:,}" for size in curves.sizes], minor=False)
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    with replacing(path) as scratch:
        figure.savefig(scratch, dpi=110)


def _batch(size: int) -> dict[str, Work]:
    model, x = thoraxlib.build("chexnet").eval(), torch.randn(size, 3, 224, 224)
    works: dict[str, Work] = {"forward pass": torch.inference_mode()(lambda: model(x))}
    for name in ("gradcam", "gradcam++"):
        cam = thoraxlib.cams.build(name, model)
        works[name] = lambda cam=cam: cam(x)
    return works


def _size(size: int) -> dict[str, Work]:
    from benchmarks.lka import PlainVAN

    model = thoraxlib.build("van", labels="nih14").eval()
    plain = PlainVAN(14).eval()
    plain.load_state_dict(model.state_dict())
    fast, x = thoraxlib.optimize_for_inference(model), torch.randn(2, 3, size, size)
    nets = {"plain, NCHW": plain, "ours": model, "ours, optimize_for_inference": fast}
    return {name: torch.inference_mode()(lambda net=net: net(x)) for name, net in nets.items()}


def _labels(count: int) -> dict[str, Work]:
    labels = [f"label {k}" for k in range(count)]
    model = thoraxlib.build("classifier", labels=labels, backbone="resnet18").eval()
    x, cam = torch.randn(2, 3, 224, 224), thoraxlib.cams.build("gradcam", model)
    works: dict[str, Work] = {
        "forward pass": torch.inference_mode()(lambda: model(x)),
        "gradcam, all labels": lambda: cam(x),
    }
    try:
        from pytorch_grad_cam import GradCAM
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
    except ImportError:
        return works

    def peer() -> None:
        with GradCAM(model=model, target_layers=[model.neck]) as each:
            for k in range(count):
                each(x, [ClassifierOutputTarget(k)] * len(x))

    return {**works, "pytorch-grad-cam": peer}


def _rows(rows: int) -> dict[str, Work]:
    from benchmarks.graphs import LABELS, one_by_one

    targets = (np.random.default_rng(0).random((rows, len(LABELS))) < 0.05).astype("int64")
    works: dict[str, Work] = {
        "LabelCounts.of": lambda: LabelCounts.of(targets, LABELS),
        "NumPy, label by label": lambda: one_by_one(targets),
    }
    try:
        import pandas
    except ImportError:
        return works
    frame = pandas.DataFrame(targets)
    return {**works, "pandas, frame.T @ frame": lambda: frame.T @ frame}
