from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import compatibility as compat
import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet18

import thoraxlib
from thoraxlib.heads.label_graph import LabelGraphHead
from thoraxlib.heads.linear import LinearHead
from thoraxlib.layers.pointwise import MapGELU, PointwiseConv2d

OWN = [
    "van_b0",
    {"name": "van_b0", "gate": "lka_dilated"},
    {"name": "van_b0", "gate": "lka_multiscale"},
    "dense_van",
    "vanillanet_5",
    "densenet121",
    {"name": "densenet121", "final_act": False},
    {"name": "tf_efficientnet_b0", "conv_head": True},
    "googlenet",
    "resnet10t",
    "swin_tiny_patch4_window7_224",
    "x_ray_custom",
]


def _used(model: nn.Module) -> nn.Module:
    """`model` as if it was trained: no norm and no layer scale without an effect."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            for tensor in (module.bias, module.running_mean):
                nn.init.normal_(tensor, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    for name, parameter in model.named_parameters():
        if "layer_scale" in name:
            nn.init.uniform_(parameter, 0.1, 1)
    return model.eval()


def _assert_same(fast: nn.Module, model: nn.Module, x: Tensor) -> None:
    with torch.inference_mode():
        expected = model(x)
        assert float((fast(x) - expected).abs().max() / expected.abs().max()) < 1e-5


@pytest.mark.parametrize("backbone", OWN, ids=str)
def test_every_kind_of_backbone(backbone: Any) -> None:
    size = 8 if backbone == "dense_van" else 64  # that one never has a stride
    model = _used(thoraxlib.build("classifier", backbone=backbone, input_spec={"size": size}).double())
    _assert_same(thoraxlib.optimize_for_inference(model), model, torch.randn(2, 3, size, size, dtype=torch.float64))


@pytest.mark.parametrize("backbone", ["resnet50", "densenet121", "van_b0"])
def test_single_precision(backbone: str) -> None:
    """Whole backbones; of every documented model, the small form is in test_everything.py."""
    model = thoraxlib.build("classifier", backbone=backbone, input_spec={"size": 64})
    compat.used(model, *compat.example(model, 8))
    compat.assert_as_exact(thoraxlib.optimize_for_inference(model), model, compat.example(model))


def test_joined_layers_are_rounded_once() -> None:
    """VanillaNet's, of products of its weights: nearer to float64 than the layers one by one."""
    model = thoraxlib.build("vanillanet", input_spec={"size": 64})
    compat.used(model, *compat.example(model, 8))
    (x,) = compat.example(model, 6)
    fast, exact = thoraxlib.optimize_for_inference(model), copy.deepcopy(model).double()
    with torch.inference_mode():
        truth = exact(x.double())
        ours, plain = ((net(x) - truth).square().mean().sqrt() for net in (fast, model))
    assert 0 < ours < plain


def test_van_in_single_precision_and_layers() -> None:
    model = thoraxlib.build("vangcn", input_spec={"size": 64})
    for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.momentum = 1.0
    with torch.no_grad():
        model(torch.randn(8, 3, 64, 64))  # what the norms expect
    fast = thoraxlib.optimize_for_inference(model.eval())
    assert not any(isinstance(module, (nn.BatchNorm2d, LabelGraphHead)) for module in fast.modules())
    assert isinstance(fast.head, LinearHead)
    for size in (1, 8):
        _assert_same(fast, model, torch.randn(size, 3, 64, 64))
    cam = thoraxlib.cams.build("gradcam", fast)
    maps = thoraxlib.cams.build("gradcam", model)(x := torch.randn(2, 3, 64, 64))
    torch.testing.assert_close(cam(x), maps, rtol=1e-3, atol=1e-4 * float(maps.abs().max()))


@pytest.mark.parametrize("preset", ["paper", "released"])
def test_regions_of_images(preset: str) -> None:
    detector = {"name": "fasterrcnn_fpn", "backbone": "resnet10t", "proposals": 20, "score_threshold": 0.0}
    detector["input_spec"] = {"size": 64}
    model = _used(thoraxlib.build("anaxnet", preset=preset, detector=detector))  # torchvision's only runs in float32
    fast = thoraxlib.optimize_for_inference(model)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fast.modules())
    x = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        (logits, _, found), (expected, _, regions) = fast.forward_all(x), model.forward_all(x)
    assert regions.present.any()
    assert regions.features.any()
    for got, wanted in ((logits, expected), (found.boxes, regions.boxes), (found.features, regions.features)):
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()))


@pytest.mark.parametrize("preset", ["paper", "released"])
def test_features_of_regions(preset: str) -> None:
    model, x = _used(thoraxlib.build("anaxnet", preset=preset)), torch.randn(2, 18, 1024)
    with pytest.raises(ValueError, match="AnaXNet has no input_spec: give an example"):
        thoraxlib.optimize_for_inference(model)
    _assert_same(thoraxlib.optimize_for_inference(model, x), model, x)


def test_other_libraries_models() -> None:
    model, x = _used(resnet18()).double(), torch.randn(2, 3, 64, 64, dtype=torch.float64)
    fast = thoraxlib.optimize_for_inference(model, x)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fast.modules())
    _assert_same(fast, model, x)


class Odd(nn.Module):
    """Norms behind convolutions that may not be folded, and one that may."""

    def __init__(self) -> None:
        super().__init__()
        self.twice, self.seen, self.plain, self.returned = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(4))
        self.norms = nn.ModuleList(nn.BatchNorm2d(3) for _ in range(6))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.norms[1](self.twice(self.norms[0](self.twice(x)).relu()))  # one convolution, two norms
        also = self.seen(x)
        x = self.norms[2](also) + also
        x = self.norms[3](self.norms[3](x))
        plain = self.plain(x)
        returned = self.returned(x)
        return torch.cat([self.norms[4](plain), self.norms[5](returned)]), returned


def test_outputs_with_other_uses_are_not_folded() -> None:
    model, x = _used(Odd()), torch.randn(2, 3, 8, 8)
    fast = thoraxlib.optimize_for_inference(model, (x,))
    assert [index for index, norm in enumerate(fast.norms) if isinstance(norm, nn.Identity)] == [4]
    for got, expected in zip(fast(x), model(x), strict=True):
        torch.testing.assert_close(got, expected)


def test_masks_as_an_example() -> None:
    model = thoraxlib.build("segfusion_van", segmenter=None, backbone="resnet10t", input_spec={"size": 64})
    _used(model)
    x, masks = torch.randn(2, 3, 64, 64), torch.ones(2, 1, 64, 64)
    with pytest.raises(ValueError, match="needs organ masks"):
        thoraxlib.optimize_for_inference(model)
    fast = thoraxlib.optimize_for_inference(model, (x, masks))
    torch.testing.assert_close(fast(x, masks), model(x, masks), rtol=1e-4, atol=1e-5)


class Doubled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + x

    def fuse(self) -> nn.Module:
        return nn.Identity()


class Refusing(Doubled):
    def fuse(self) -> nn.Module:
        raise ValueError("not now")


class WithArguments(Doubled):
    def fuse(self, maps: Tensor) -> Tensor:  # type: ignore[override]
        return maps


def test_fuse_is_a_convention() -> None:
    model = nn.Sequential(Doubled(), nn.Sequential(Refusing(), WithArguments())).eval()
    fast = thoraxlib.optimize_for_inference(model, torch.ones(1))
    assert fast(torch.ones(1)).tolist() == [4]
    assert model(torch.ones(1)).tolist() == [8]


def test_errors(tmp_path: Path) -> None:
    model = thoraxlib.build("classifier", backbone="resnet10t", input_spec={"size": 64})
    with pytest.raises(ValueError, match="eval mode"):
        thoraxlib.optimize_for_inference(model)
    model.eval().backbone.train()
    with pytest.raises(ValueError, match="first backbone"):
        thoraxlib.optimize_for_inference(model)
    with pytest.raises(ValueError, match="no input_spec: give an example"):
        thoraxlib.optimize_for_inference(nn.Conv2d(3, 3, 1).eval())
    fast = thoraxlib.optimize_for_inference(model.eval())
    with pytest.raises(TypeError, match="save the model that they come from"):
        thoraxlib.save_pretrained(fast, tmp_path / "folder")
    thoraxlib.save_pretrained(model, tmp_path / "folder")


@pytest.mark.parametrize("size", [(8, 7, 7), (8, 12, 9), (1, 7, 7), (1, 14, 14), (3, 1, 1), (20, 4, 4), (0, 4, 4)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("threads", [1, 2])
def test_pointwise_layers(size: tuple[int, int, int], layout: torch.memory_format, threads: int) -> None:
    torch.manual_seed(0)
    n, *sides = size
    ours = nn.Sequential(PointwiseConv2d(6, 10), MapGELU())
    plain = nn.Sequential(nn.Conv2d(6, 10, 1), nn.GELU())
    plain.load_state_dict(ours.state_dict())
    x = torch.randn(n, 6, *sides).contiguous(memory_format=layout).requires_grad_()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        results = []
        for net in (ours, plain):
            out = net(x)
            gradients = torch.autograd.grad(out.square().sum(), [x, *net.parameters()])
            results.append([out, *gradients])
    finally:
        torch.set_num_threads(before)
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected)
