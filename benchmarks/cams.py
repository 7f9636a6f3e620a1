"""All-label heat maps as a multiple of one inference forward pass of the same model, and against pytorch-grad-cam."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable, Iterator

import torch

import thoraxlib
from benchmarks.timing import Row, pair

CONDITIONS = "14 labels, 224 px, batch 8, 1 thread"
PEERS = {"gradcam": "GradCAM", "gradcam++": "GradCAMPlusPlus", "layercam": "LayerCAM"}


def run() -> Iterator[Row]:
    torch.set_num_threads(1)
    for backbone in ("densenet121", "resnet50"):
        model = thoraxlib.build("chexnet", backbone=backbone).eval()
        x = torch.randn(8, 3, 224, 224)

        @torch.inference_mode()
        def forward(model: torch.nn.Module = model, x: torch.Tensor = x) -> torch.Tensor:
            return model(x)

        for name in ("cam", "gradcam", "gradcam++", "xgradcam", "hirescam", "layercam"):
            cam = thoraxlib.cams.build(name, model)
            ratios = pair(lambda cam=cam, x=x: cam(x), forward, pairs=7)
            target = 1.05 if name in ("cam", "gradcam", "gradcam++") else None
            yield Row(f"{name}, {backbone}", "one forward pass", ratios, target, CONDITIONS)
            if name in PEERS and importlib.util.find_spec("pytorch_grad_cam"):
                ratios = pair(lambda cam=cam, x=x: cam(x), _peer(PEERS[name], model, x), pairs=1, warmup=0)
                target = 1 / 25 if name != "layercam" else None
                yield Row(f"{name}, {backbone}", "pytorch-grad-cam", ratios, target, CONDITIONS)
        alone = _peak_memory(backbone, "forward")
        for name in ("gradcam", "gradcam++"):
            ratio = _peak_memory(backbone, name) / alone
            yield Row(f"peak memory of {name}, {backbone}", "that of a forward pass", [ratio], None, CONDITIONS)


def _peak_memory(backbone: str, work: str) -> float:
    """Kilobytes that are resident at the worst moment beyond those before, in a process of its own (Linux)."""
    code = f"""
import re, torch, thoraxlib
torch.set_num_threads(1)
status = lambda key: int(re.search(key + r":\\s+(\\d+)", open("/proc/self/status").read())[1])
model, x = thoraxlib.build("chexnet", backbone={backbone!r}).eval(), torch.randn(8, 3, 224, 224)
cam = thoraxlib.cams.build("cam" if {work!r} == "forward" else {work!r}, model)
open("/proc/self/clear_refs", "w").write("5")  # the peak counts from here
before = status("VmRSS")
with torch.inference_mode():
    model(x) if {work!r} == "forward" else cam(x)
print(status("VmHWM") - before)
"""
    return float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)


def _peer(name: str, model: torch.nn.Module, x: torch.Tensor) -> Callable[[], None]:
    """The same maps by pytorch-grad-cam: label by label, as it is used."""
    import pytorch_grad_cam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    def work() -> None:
        with getattr(pytorch_grad_cam, name)(model=model, target_layers=[model.neck]) as cam:
            for k in range(len(model.labels)):
                cam(x, [ClassifierOutputTarget(k)] * len(x))

    return work
