"""Compare heat maps of all labels with one forward pass of the same model, and with other libraries."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

import thoraxlib
from benchmarks.timing import Row, Work, compare, optional

DEVICES = ("cpu", "cuda")
PACKAGES = ("torchvision", "timm", "grad-cam", "torchcam")
WITH_TARGET = ("cam", "gradcam", "gradcam++")
METHODS = {"densenet121": (*WITH_TARGET, "xgradcam", "hirescam", "layercam"), "resnet50": ("gradcam", "gradcam++")}
GRAD_CAM = {"gradcam": "GradCAM", "gradcam++": "GradCAMPlusPlus", "layercam": "LayerCAM"}


def run(device: torch.device) -> Iterator[Row]:
    for backbone in ("densenet121", "resnet50"):
        model, x = _model(backbone, device), torch.randn(8, 3, 224, 224, device=device)
        forward = torch.inference_mode()(lambda model=model, x=x: model(x))
        forward()
        for name in METHODS[backbone]:
            row, target = f"{name}, {backbone}", 1.05 if name in WITH_TARGET else None
            goal = {"target": target, "pairs": 5 if target else 3, "warmup": 0}
            yield compare(row, "a forward pass", _ours(name, model, x), forward, **goal, **_of(x))
    dense, deep = _model("densenet121", device), _model("resnet50", device)
    x = torch.randn(8, 3, 224, 224, device=device)
    yield from optional("gradcam", "pytorch-grad-cam", _against_grad_cam("gradcam", "densenet121", dense, x))
    for name in GRAD_CAM:
        yield from optional(name, "pytorch-grad-cam", _against_grad_cam(name, "resnet50", deep, x[:1]))
    yield from optional("gradcam", "torchcam", _against_torchcam("densenet121", dense, x))


def _model(backbone: str, device: torch.device) -> nn.Module:
    return thoraxlib.build("chexnet", backbone=backbone).eval().to(device)


def _of(x: Tensor) -> dict[str, str]:
    return {"conditions": f"14 labels, 224 px, batch {len(x)}"}


def _ours(name: str, model: nn.Module, x: Tensor) -> Work:
    cam = thoraxlib.cams.build(name, model)
    return lambda: cam(x)


def _against_grad_cam(name: str, backbone: str, model: nn.Module, x: Tensor) -> Iterator[Row]:
    """Run pytorch-grad-cam label by label, as it is used; timed once."""
    import pytorch_grad_cam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    def peer() -> None:
        with getattr(pytorch_grad_cam, GRAD_CAM[name])(model=model, target_layers=[model.neck]) as cam:
            for k in range(len(model.labels)):
                cam(x, [ClassifierOutputTarget(k)] * len(x))

    target = 1 / 25 if name in WITH_TARGET else None
    row = f"{name}, {backbone}"
    goal = {"target": target, "pairs": 3, "slow": True}
    yield compare(row, "pytorch-grad-cam", _ours(name, model, x), peer, **goal, **_of(x))


def _against_torchcam(backbone: str, model: nn.Module, x: Tensor) -> Iterator[Row]:
    """Run torchcam with one graph for all labels, and with a forward pass for each label, as documented."""
    from torchcam.methods import GradCAM

    def maps(scores_of: Callable[[int], Tensor], **options: bool) -> None:
        with GradCAM(model, target_layer=model.neck) as extractor:
            for k in range(len(model.labels)):
                extractor(k, scores_of(k), **options)

    def one_graph() -> None:
        kept: list[Tensor] = []

        def scores(k: int) -> Tensor:
            if not kept:
                kept.append(model(x))
            return kept[0]

        maps(scores, retain_graph=True)

    ours, row = _ours("gradcam", model, x), f"gradcam, {backbone}"
    as_documented = lambda: maps(lambda k: model(x))  # noqa: E731
    yield compare(row, "torchcam, graph retained", ours, one_graph, pairs=5, warmup=0, **_of(x))
    yield compare(row, "torchcam, as documented", ours, as_documented, pairs=3, warmup=0, slow=True, **_of(x))
