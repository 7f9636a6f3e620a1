"""Compare `explain` and the boxes of heat maps with the forward pass, and with loops over other libraries."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

import thoraxlib
from benchmarks.timing import Row, compare, optional

DEVICES = ("cpu", "cuda")
PACKAGES = ("torchvision", "timm", "scipy", "grad-cam")


def run(device: torch.device) -> Iterator[Row]:
    model = thoraxlib.build("chexnet").eval().to(device)
    dataset = thoraxlib.datasets.build("synthetic", size=512, length=8, masks=False)
    images = [dataset[index]["image"] for index in range(8)]
    preprocess = thoraxlib.preprocess_for(model)
    x = torch.cat([preprocess(image) for image in images]).to(device)
    forward = torch.inference_mode()(lambda: model(x))
    conditions = "DenseNet-121, 8 images of 512 px, input 224 px"
    for threshold, labels in ((0.5, "labels above 0.5"), (0.0, "all 14 labels")):
        work = lambda t=threshold: thoraxlib.explain(model, images, threshold=t)  # noqa: E731
        yield compare(f"explain, {labels}", "the forward pass", work, forward, pairs=3, conditions=conditions)
    yield from optional("explain", "by hand", _by_hand(model, images[:2]))
    maps = thoraxlib.cams.build("cam", model)(x)
    for name in thoraxlib.localization.names():
        rule = thoraxlib.localization.build(name)
        work = lambda rule=rule: rule(maps, 224)  # noqa: E731
        row = f"boxes by {name}, 14 maps for each image"
        yield compare(row, "the forward pass", work, forward, pairs=3, conditions=conditions)


def _by_hand(model: nn.Module, images: list[Tensor]) -> Iterator[Row]:
    """Loop over images and labels with torchvision's transforms, pytorch-grad-cam, SciPy's components; timed once."""
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
    from scipy import ndimage
    from torchvision import transforms
    from torchvision.transforms.functional import to_pil_image

    spec = model.input_spec
    chain = transforms.Compose(
        [transforms.Resize(spec.size), transforms.ToTensor(), transforms.Normalize(spec.mean, spec.std)]
    )
    device = next(model.parameters()).device

    def peer() -> list[Any]:
        found: list[Any] = []
        with GradCAM(model=model, target_layers=[model.neck]) as cam:
            for image in images:
                x = chain(to_pil_image(image).convert("RGB"))[None].to(device)
                with torch.inference_mode():
                    probabilities = model(x).sigmoid()[0].tolist()
                for k, probability in enumerate(probabilities):
                    heat = cam(x, [ClassifierOutputTarget(k)])[0]
                    labels, _ = ndimage.label(heat > 180 / 255)
                    found.append((probability, ndimage.find_objects(labels)))
        return found

    conditions = f"DenseNet-121, {len(images)} images of 512 px, 14 labels"
    ours = lambda: thoraxlib.explain(model, images, method="gradcam", threshold=0)  # noqa: E731
    peer_name = "torchvision + pytorch-grad-cam + SciPy, image by image"
    yield compare("explain, all 14 labels", peer_name, ours, peer, pairs=3, slow=True, conditions=conditions)
