"""Maps against pytorch-grad-cam and torchcam, where their conventions are the same."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from thoraxlib import cams

LAYERS = {"resnet50": "layer4", "densenet121": "features.denseblock4"}
LABELS = 3


@cache
def network(name: str) -> nn.Module:
    from torchvision import models

    torch.manual_seed(0)
    net = getattr(models, name)(num_classes=LABELS).eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):  # as after training: the maps of an untrained network are nearly flat
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return net


def images() -> Tensor:
    return torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(1))


def assert_same(ours: Tensor, theirs: Tensor) -> None:
    """Within 1e-4, after both are stretched to [0, 1]; a map that is 0 throughout is not compared."""
    ours, theirs = cams.normalize(ours), cams.normalize(theirs)
    some = (ours.flatten(2).amax(2) > 0) & (theirs.flatten(2).amax(2) > 0)
    assert some.float().mean() > 0.5
    torch.testing.assert_close(ours[some], theirs[some], rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize(
    ("method", "options", "peer"),
    [
        ("gradcam", {}, "GradCAM"),
        ("gradcam++", {"eps": 1e-6}, "GradCAMPlusPlus"),
        ("xgradcam", {}, "XGradCAM"),
        ("hirescam", {}, "HiResCAM"),
        ("layercam", {}, "LayerCAM"),
    ],
)
def test_pytorch_grad_cam(name: str, method: str, options: dict[str, Any], peer: str) -> None:
    peers = pytest.importorskip("pytorch_grad_cam", reason="pip install grad-cam")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    if method == "gradcam++" and name == "densenet121":
        pytest.skip("its features are signed: there the library counts a channel's sum as at least 0")
    net, x = network(name), images()
    ours = cams.build(method, net, target=LAYERS[name], **options)(x)
    with getattr(peers, peer)(model=net, target_layers=[net.get_submodule(LAYERS[name])]) as cam:
        theirs = [torch.from_numpy(cam(x, [ClassifierOutputTarget(k)] * len(x))) for k in range(LABELS)]
    # they stretch first and enlarge then
    assert_same(cams.upsample(cams.normalize(ours), 128), torch.stack(theirs, dim=1))


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize(
    ("method", "options", "peer"),
    [
        ("gradcam", {}, "GradCAM"),
        ("gradcam++", {"denominator": "one"}, "GradCAMpp"),
        ("xgradcam", {}, "XGradCAM"),
        ("layercam", {}, "LayerCAM"),
    ],
)
def test_torchcam(name: str, method: str, options: dict[str, Any], peer: str) -> None:
    methods = pytest.importorskip("torchcam.methods", reason="pip install torchcam")
    net, x = network(name), images()
    ours = cams.build(method, net, target=LAYERS[name], **options)(x)
    theirs = []
    with getattr(methods, peer)(net, LAYERS[name]) as extractor:
        for k in range(LABELS):
            (maps,) = extractor(k, net(x))
            theirs.append(maps.detach())
    assert_same(ours, torch.stack(theirs, dim=1))
