"""Heat maps against hooks and closed forms, on the library's models and timm's, without a trace on the model."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

import thoraxlib
from thoraxlib import cams
from thoraxlib.registry import OptionError, UnknownNameError

TIMM = {
    "resnet10t": (64, {}),
    "vit_tiny_patch16_224": (64, {"img_size": 64, "global_pool": "avg"}),
    "swin_tiny_patch4_window7_224": (224, {}),
    "convnext_atto": (64, {}),
    "mixer_s32_224": (224, {}),
}


def small(pool: object = "avg", **options: object) -> nn.Module:
    torch.manual_seed(0)
    return thoraxlib.build(
        "unified_dcnn",
        backbone="resnet10t",
        labels=("a", "b", "c"),
        pool=pool,
        input_spec={"size": [64, 64]},
        **options,
    ).eval()


def mean(a: Tensor, g: Tensor) -> Tensor:
    """Grad-CAM's weights of one image: features (C, h, w), gradients of one logit."""
    return g.mean(dim=(1, 2))


def plusplus(a: Tensor, g: Tensor, eps: float = 0.0) -> Tensor:
    """Grad-CAM++'s, as the paper writes them: alpha, then the sum of alpha relu(g)."""
    a, g = a.double(), g.double()
    bottom = 2 * g**2 + a.sum(dim=(1, 2), keepdim=True) * g**3 + eps
    alpha = torch.where(bottom != 0, g**2 / bottom, 0.0)
    return (alpha * g.relu()).sum(dim=(1, 2)).float()


def by_hooks(model: nn.Module, x: Tensor, weigh: Any = mean, relu: bool = True) -> Tensor:
    """A gradient CAM as everybody writes it: one pass and one backward pass for each image and label, with a hook."""
    maps = []
    for image in x:
        kept: list[Tensor] = []
        handle = model.neck.register_forward_hook(lambda module, args, output, kept=kept: kept.append(output))
        logits = model(image[None])
        handle.remove()
        row = []
        for logit in logits[0]:
            (gradient,) = torch.autograd.grad(logit, kept[0], retain_graph=True)
            row.append((weigh(kept[0][0], gradient[0])[:, None, None] * kept[0][0]).sum(dim=0))
        maps.append(torch.stack(row))
    result = torch.stack(maps).detach()
    return result.relu() if relu else result


POOLS = ["avg", "max", {"name": "lse", "r": 5.0}]


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("eps", [0.0, 1e-6])
def test_gradcam_plusplus_is_what_hooks_give(pool: object, eps: float) -> None:
    model, x = small(pool), torch.randn(3, 3, 64, 64)
    expected = by_hooks(model, x, partial(plusplus, eps=eps))
    assert expected.std() > 0
    scale = float(expected.abs().max())
    torch.testing.assert_close(cams.build("gradcam++", model, eps=eps)(x), expected, rtol=1e-4, atol=1e-5 * scale)


def test_gradcam_plusplus_with_signed_features_and_large_logits() -> None:
    class Signed(nn.Module):
        def forward_features(self, x: Tensor) -> Tensor:
            return x

        def forward_head(self, features: Tensor) -> Tensor:
            return 1000 * features.mean(dim=(2, 3))

    # 2 + sum(A) g would be 0 in channel 0: the sum counts as 0 there
    x = torch.tensor([-0.0005, 0.0005]).reshape(1, 2, 1, 1).expand(1, 2, 2, 2) + torch.zeros(1, 2, 2, 2)
    maps = cams.build("gradcam++", Signed())(x)
    assert maps.isfinite().all()
    assert maps[0, 0].max() == 0
    weight = 4 * 250 / (2 + 0.002 * 250)
    torch.testing.assert_close(maps[0, 1], torch.full((2, 2), weight * 0.0005))


@pytest.mark.parametrize("pool", POOLS)
def test_gradcam_is_what_hooks_give(pool: object) -> None:
    model, x = small(pool), torch.randn(3, 3, 64, 64)
    torch.testing.assert_close(cams.build("gradcam", model)(x), by_hooks(model, x), rtol=1e-4, atol=1e-5)
    signed = cams.build("gradcam", model, relu=False)(x)
    torch.testing.assert_close(signed, by_hooks(model, x, relu=False), rtol=1e-4, atol=1e-5)


def test_cam_averages_to_the_logit_and_gradcam_is_cam_over_the_area() -> None:
    model, x = small(), torch.randn(2, 3, 64, 96)
    maps = cams.build("cam", model)(x)
    assert maps.shape == (2, 3, 2, 3)
    torch.testing.assert_close(maps.mean(dim=(2, 3)) + model.head.fc.bias, model(x))
    torch.testing.assert_close(cams.build("gradcam", model, relu=False)(x) * 6, maps, rtol=1e-4, atol=1e-5)


def test_large_maps_go_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    from thoraxlib.cams import gradcam

    model, x = small({"name": "lse", "r": 3.0}), torch.randn(2, 3, 64, 64)
    for name in ("gradcam", "gradcam++"):
        monkeypatch.setattr(gradcam, "_ON_CPU", 2**21)
        whole = cams.build(name, model)(x)
        monkeypatch.setattr(gradcam, "_ON_CPU", 1)
        torch.testing.assert_close(cams.build(name, model)(x), whole)


@pytest.mark.parametrize("name", cams.names())
class TestEvery:
    def test_labels(self, name: str) -> None:
        model, x = small(), torch.randn(2, 3, 64, 64)
        cam = cams.build(name, model)
        every = cam(x)
        assert every.shape == (2, 3, 2, 2)
        assert every.dtype == torch.float32
        torch.testing.assert_close(cam(x, labels=["c", 0]), every[:, [2, 0]])
        torch.testing.assert_close(cam(x, labels="b"), every[:, [1]])
        torch.testing.assert_close(cam(x, labels=-1), every[:, [2]])
        torch.testing.assert_close(cam(x, labels=torch.tensor([1, 0])), every[:, [1, 0]])
        torch.testing.assert_close(cam(x, labels=np.arange(2)), every[:, :2])
        assert cam(x, labels=[]).shape == (2, 0, 2, 2)
        assert cam(x[:0]).shape == (0, 3, 2, 2)
        with pytest.raises(ValueError, match="no label 'bb'.*did you mean 'b'"):
            cam(x, labels="bb")
        with pytest.raises(IndexError, match="label 3.*3"):
            cam(x, labels=3)

    def test_it_leaves_no_trace(self, name: str) -> None:
        model = small().train()
        model.backbone.eval()
        model.head.fc.weight.requires_grad_(False)
        state = {key: value.clone() for key, value in model.state_dict().items()}
        modes = [module.training for module in model.modules()]
        x = torch.randn(2, 3, 64, 64, requires_grad=True)
        maps = cams.build(name, model)(x)
        assert [module.training for module in model.modules()] == modes
        assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
        assert all(p.grad is None for p in model.parameters())
        assert x.grad is None
        assert not maps.requires_grad
        assert not model.head.fc.weight.requires_grad
        assert not any(module._forward_hooks or module._backward_hooks for module in model.modules())
        assert torch.is_grad_enabled()

    @pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
    def test_the_callers_mode_does_not_matter(self, name: str, mode: type) -> None:
        model, x = small(), torch.randn(1, 3, 64, 64)
        expected = cams.build(name, model)(x)
        with mode():
            torch.testing.assert_close(cams.build(name, model)(x + 0), expected)

    def test_autocast_half_and_channels_last(self, name: str) -> None:
        model, x = small(), torch.randn(1, 3, 64, 64)
        expected = cams.build(name, model)(x)
        with torch.autocast("cpu", torch.bfloat16):
            half = cams.build(name, model)(x)
        assert half.dtype == torch.float32
        torch.testing.assert_close(half, expected, rtol=0.1, atol=0.1 * float(expected.abs().max()))
        last = model.to(memory_format=torch.channels_last)
        torch.testing.assert_close(
            cams.build(name, last)(x.to(memory_format=torch.channels_last)), expected, rtol=1e-4, atol=1e-5
        )
        assert cams.build(name, model.to(torch.bfloat16))(x.bfloat16()).dtype == torch.float32

    @pytest.mark.parametrize("architecture", TIMM)
    def test_timm_models_unchanged(self, name: str, architecture: str) -> None:
        torch.manual_seed(0)
        size, options = TIMM[architecture]
        model = timm.create_model(architecture, num_classes=4, **options).eval()
        nn.init.normal_(model.get_classifier().weight)
        x = torch.randn(2, 3, size, size)
        if name == "cam" and architecture.startswith(("vit", "convnext")):  # a norm after the pooling
            with pytest.raises(TypeError, match="use 'gradcam'"):
                cams.build(name, model)(x)
            return
        maps = cams.build(name, model)(x)
        assert maps.shape[:2] == (2, 4)
        assert maps.shape[2] == maps.shape[3] > 1
        assert maps.isfinite().all()
        assert maps.std() > 0

    def test_a_bright_spot_is_found(self, name: str) -> None:
        class Spot(nn.Module):
            labels = ("spot",)

            def forward_features(self, x: Tensor) -> Tensor:
                return nn.functional.avg_pool2d(x, 4)

            def logit_maps(self, features: Tensor, *, bias: bool = True) -> Tensor:
                return features * 2 - 1

            def forward_head(self, features: Tensor) -> Tensor:
                return self.logit_maps(features).mean(dim=(2, 3))

        x = torch.zeros(1, 1, 16, 24)
        x[..., 4:8, 16:20] = 1
        maps = cams.build(name, Spot())(x)
        assert divmod(int(maps.argmax()), 6) == (1, 4)

    def test_features_that_are_the_images_of_inference_mode(self, name: str) -> None:
        class Pooled(nn.Module):
            def forward_features(self, x: Tensor) -> Tensor:
                return x

            def logit_maps(self, features: Tensor, *, bias: bool = True) -> Tensor:
                return features

            def forward_head(self, features: Tensor) -> Tensor:
                return features.mean(dim=(2, 3))

        with torch.inference_mode():
            x = torch.rand(1, 2, 4, 4)
            maps = cams.build(name, Pooled())(x)
        assert divmod(int(maps[0, 1].argmax()), 4) == divmod(int(x[0, 1].argmax()), 4)

    def test_a_timm_label_out_of_range(self, name: str) -> None:
        model = timm.create_model("resnet10t", num_classes=4).eval()
        with pytest.raises(IndexError):
            cams.build(name, model)(torch.randn(1, 3, 64, 64), labels=4)


def test_rectangular_token_grids() -> None:
    options = {"num_classes": 2, "global_pool": "avg"}
    model = timm.create_model("vit_tiny_patch16_224", img_size=(64, 96), **options).eval()
    assert cams.build("gradcam", model)(torch.randn(1, 3, 64, 96)).shape == (1, 2, 4, 6)
    model = timm.create_model("vit_tiny_patch16_224", dynamic_img_size=True, **options).eval()
    assert cams.build("gradcam", model)(torch.randn(1, 3, 64, 128)).shape == (1, 2, 4, 8)


def test_a_class_token_has_no_map() -> None:
    model = timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=2).eval()
    nn.init.normal_(model.head.weight)
    with pytest.raises(ValueError, match="class token.*global_pool='avg'"):
        cams.build("gradcam", model)(torch.randn(1, 3, 64, 64))


def test_normalize_and_upsample() -> None:
    maps = torch.randn(2, 3, 4, 5)
    maps[0, 0] = 7.0
    ranged = cams.normalize(maps)
    assert (ranged[0, 0] == 0).all()
    assert ranged.amin(dim=(2, 3)).eq(0).all()
    assert ranged.amax(dim=(2, 3)).flatten()[1:].eq(1).all()
    assert cams.upsample(maps, 20).shape == (2, 3, 20, 20)
    assert cams.upsample(maps, (8, 10)).shape == (2, 3, 8, 10)
    assert cams.to_uint8(maps).dtype == torch.uint8


def test_errors() -> None:
    model = small()
    with pytest.raises(UnknownNameError, match="'gradcam'"):
        cams.build("grad-cam", model)
    with pytest.raises(OptionError, match="'relu'"):
        cams.build("gradcam", model, rleu=True)
    with pytest.raises(ValueError, match="eps=-1"):
        cams.build("gradcam++", model, eps=-1)
    with pytest.raises(TypeError, match="forward_features and no forward_head"):
        cams.build("cam", nn.Linear(2, 2))
    with pytest.raises(ValueError, match="target='layer3'"):
        cams.build("cam", model, target="layer3")

    class Opaque(nn.Module):
        def forward_features(self, x: Tensor) -> Tensor:
            return x

        def forward_head(self, features: Tensor) -> Tensor:
            return features.amax(dim=(2, 3))

        def logit_maps(self, features: Tensor, *, bias: bool = True) -> Tensor:
            raise NotImplementedError("Opaque has no per-location logits; use a gradient-based CAM")

    with pytest.raises(TypeError, match="cam: Opaque.*gradient-based"):
        cams.build("cam", Opaque())(torch.randn(1, 3, 4, 4))
    assert cams.build("gradcam", Opaque())(torch.randn(1, 3, 4, 4)).shape == (1, 3, 4, 4)
