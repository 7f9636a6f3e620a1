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
from thoraxlib.cams.gradcam import collapse
from thoraxlib.registry import OptionError, UnknownNameError
from thoraxlib.reproduce.jaydurant import to_uint8

#: Those of `thoraxlib.reproduce` are held by the parity records.
METHODS = [name for name in cams.names() if not name.startswith("x_ray_")]
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
        transition={"kind": "conv1x1", "out_channels": 64},
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


@pytest.mark.parametrize("name", ["gradcam", "gradcam++", "xgradcam", "hirescam", "layercam"])
def test_a_gradient_that_is_one_for_all_places_is_as_any_other(name: str) -> None:
    """Behind the library's average it is a view of one place; behind torch's it is not."""

    class Mean(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean(dim=(2, 3))

    x = torch.rand(2, 3, 64, 96)
    shapes, found = [], []
    for pool in ("avg", Mean()):
        model = small(pool)
        cam = cams.build(name, model)
        features = model.forward_features(x).detach()
        shapes += [tuple(collapse(gradients).shape[3:]) for gradients in cam._gradients(features, None)]
        found.append(cam(x))
    assert shapes == [(1, 1), (2, 3)]
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("name", METHODS)
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
        with pytest.raises(IndexError, match="labels: 3 of 3"):
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
        if name == "scorecam" and architecture not in ("resnet10t", "vit_tiny_patch16_224"):
            pytest.skip("one pass of the network for each of many channels")
        if name in ("cam", "pcam") and architecture.startswith(("vit", "convnext")):  # a norm after the pooling
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
        if name in ("eigencam", "scorecam"):
            pytest.skip("a mixture of channels, not that of the label")

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


def test_features_that_are_no_map() -> None:
    pit = timm.create_model("pit_ti_224", num_classes=2).eval()
    with pytest.raises(ValueError, match="one token.*no locations.*PoolingVisionTransformer"):
        cams.build("gradcam", pit)(torch.randn(1, 3, 224, 224))
    with pytest.raises(TypeError, match="forward_features of CrossVit gives list.*target="):
        cams.build("gradcam", timm.create_model("crossvit_tiny_240", num_classes=2).eval())(torch.randn(1, 3, 240, 240))


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
    assert to_uint8(maps).dtype == torch.uint8


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
    with pytest.raises(ValueError, match="has no layer 'neck.layer.1'; did you mean one of .'neck.layers.1'"):
        cams.build("cam", model, target="neck.layer.1")

    class Opaque(nn.Module):
        def forward_features(self, x: Tensor) -> Tensor:
            return x

        def forward_head(self, features: Tensor) -> Tensor:
            return features.amax(dim=(2, 3))

        def logit_maps(self, features: Tensor, *, bias: bool = True) -> Tensor:
            raise NotImplementedError("Opaque has no per-location logits; use a gradient-based CAM")

    with pytest.raises(TypeError, match="CAM: Opaque.*gradient-based"):
        cams.build("cam", Opaque())(torch.randn(1, 3, 4, 4))
    assert cams.build("gradcam", Opaque())(torch.randn(1, 3, 4, 4)).shape == (1, 3, 4, 4)


FORMULAS: dict[str, Any] = {
    "xgradcam": lambda a, g: ((a * g).sum((1, 2), keepdim=True) / a.sum((1, 2), keepdim=True)).nan_to_num() * a,
    "hirescam": lambda a, g: g * a,
    "layercam": lambda a, g: g.relu() * a,
}


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("pool", POOLS)
def test_formulas(name: str, pool: object) -> None:
    """A pass and a backward pass for each image and label, with the method's formula for (C, h, w)."""
    model, x = small(pool), torch.randn(2, 3, 64, 64)
    maps = cams.build(name, model)(x)
    with torch.no_grad():
        features = model.forward_features(x)
    for n in range(2):
        for k in range(3):
            a = features[n].clone().requires_grad_()
            (g,) = torch.autograd.grad(model.forward_head(a[None])[0, k], a)
            expected = FORMULAS[name](a.detach(), g).sum(dim=0).relu()
            torch.testing.assert_close(maps[n, k], expected, rtol=1e-4, atol=1e-6)


def test_scorecam_is_what_a_loop_gives() -> None:
    model, x = small(), torch.randn(2, 3, 64, 64)
    maps = cams.build("scorecam", model, batch_size=7)(x)
    with torch.no_grad():
        features = model.forward_features(x)
        for n in range(2):
            scores = []
            for channel in features[n]:
                mask = nn.functional.interpolate(channel[None, None], (64, 64), mode="bilinear")
                mask = (mask - mask.min()) / (mask.max() - mask.min()) if mask.max() > mask.min() else mask * 0
                scores.append(model(x[n : n + 1] * mask)[0])
            weights = torch.stack(scores).softmax(dim=0)
            expected = torch.einsum("ck,chw->khw", weights, features[n]).relu()
            torch.testing.assert_close(maps[n], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pool", POOLS)
def test_ablationcam_is_what_a_loop_gives(pool: object) -> None:
    model, x = small(pool), torch.randn(2, 3, 64, 64)
    maps = cams.build("ablationcam", model, batch_size=7)(x)
    with torch.no_grad():
        features, logits = model.forward_features(x), model(x)
        drops = []
        for c in range(features.shape[1]):
            without = features.clone()
            without[:, c] = 0
            drops.append((logits - model.forward_head(without)) / logits.abs())
        expected = torch.einsum("cnk,nchw->nkhw", torch.stack(drops), features).relu()
    torch.testing.assert_close(maps, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("size", [64, 512])  # fewer places than channels, and more
@pytest.mark.parametrize("center", [False, True])
def test_eigencam_is_the_first_component(size: int, center: bool) -> None:
    model, x = small(), torch.randn(2, 3, size, size)
    maps = cams.build("eigencam", model, center=center, relu=False)(x)
    with torch.no_grad():
        features = model.forward_features(x)
    for n in range(2):
        places = features[n].flatten(1).T
        places = places - places.mean(dim=0) if center else places
        component = places @ torch.linalg.svd(places, full_matrices=False).Vh[0]
        expected = component.view(features.shape[2:])
        expected = expected * torch.sign((expected * features[n].sum(dim=0)).sum())
        torch.testing.assert_close(maps[n, 1], expected, rtol=1e-3, atol=1e-4)


def test_pcam_is_the_probability_of_places() -> None:
    model, x = small("pcam"), torch.randn(2, 3, 64, 64)
    maps = cams.build("pcam", model)(x)
    logit_maps = model.logit_maps(model.forward_features(x))
    torch.testing.assert_close(maps, logit_maps.sigmoid())
    torch.testing.assert_close((maps * logit_maps).sum((2, 3)) / maps.sum((2, 3)), model(x))
    torch.testing.assert_close(cams.build("x_ray_pcam", model)(x), logit_maps)


def test_score() -> None:
    model, x = small({"name": "lse", "r": 3.0}), torch.randn(2, 3, 64, 64)
    logit, probability = (cams.build("gradcam", model, score=score)(x) for score in ("logit", "probability"))
    p = model.predict_proba(x)[..., None, None]
    torch.testing.assert_close(probability, logit * p * (1 - p), rtol=1e-4, atol=1e-8)
    with pytest.raises(ValueError, match="score='p': allowed are 'logit', 'probability'"):
        cams.build("gradcam", model, score="p")
    with pytest.raises(ValueError, match="denominator='torchcam': allowed are 'paper', 'product', 'one'"):
        cams.build("gradcam++", model, denominator="torchcam")
    with pytest.raises(ValueError, match="batch_size=0: at least 1"):
        cams.build("scorecam", model, batch_size=0)


@pytest.mark.parametrize("name", ["cam", "gradcam", "eigencam"])
def test_labels_by_a_mask(name: str) -> None:
    model, x = small(), torch.randn(1, 3, 64, 64)
    cam = cams.build(name, model)
    every = cam(x)
    chosen = np.array([True, False, True])
    for mask in (chosen, torch.from_numpy(chosen), chosen.tolist(), list(chosen), list(torch.from_numpy(chosen))):
        torch.testing.assert_close(cam(x, labels=mask), every[:, [0, 2]])
    assert cam(x, labels=np.zeros(3, bool)).shape == (1, 0, 2, 2)
    torch.testing.assert_close(cam(x, labels=[-1, 0, 0]), every[:, [2, 0, 0]])
    torch.testing.assert_close(cam(x, labels=torch.tensor([1, 0, 1], dtype=torch.uint8)), every[:, [1, 0, 1]])


@pytest.mark.parametrize(
    ("labels", "error", "words"),
    [
        ([True, False], ValueError, "labels: 2 booleans among 2 values; a mask of 3"),
        (torch.ones(4, dtype=torch.bool), ValueError, "4 booleans.*a mask of 3"),
        (np.ones((3, 3), bool), TypeError, "labels: .*is no whole number"),
        ([True, 1, False], ValueError, "2 booleans among 3 values"),
        (["a", True, False], ValueError, "2 booleans among 3 values"),
        (True, ValueError, "1 booleans among 1 values"),
        (1.0, TypeError, "labels: 1.0 is no whole number"),
        ([0.0, 2.0], TypeError, "labels: 0.0 is no whole number"),
        (torch.tensor([0.0, 1.0, 0.0]), TypeError, "is no whole number"),
        ([None], TypeError, "None is no whole number"),
        (-4, IndexError, "labels: -4 of 3"),
    ],
)
def test_labels_that_are_none(labels: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        cams.build("gradcam", small())(torch.randn(1, 3, 64, 64), labels=labels)


class TestSplit:
    """Networks that know nothing of the library."""

    @pytest.mark.parametrize(
        "name",
        [
            pytest.param(name, marks=pytest.mark.slow if name in ("ablationcam", "scorecam") else ())
            for name in sorted(set(METHODS) - {"cam", "pcam"})
        ],
    )
    def test_torchvision(self, name: str) -> None:
        from torchvision import models

        torch.manual_seed(0)
        net = models.resnet18(num_classes=3).eval()
        x = torch.randn(2, 3, 64, 64)
        options = {"batch_size": 256} if name in ("scorecam", "ablationcam") else {}
        maps = cams.build(name, net, target="layer2.1" if name == "layercam" else "layer4", **options)(x)
        assert maps.shape == (2, 3, *((8, 8) if name == "layercam" else (2, 2)))
        # the same network through the library, whose last map is layer4's
        if name != "layercam":
            model = thoraxlib.build("chexnet", backbone="resnet18", labels=("a", "b", "c")).eval()
            thoraxlib.load_checkpoint(model, net.state_dict(), labels=model.labels)
            expected = cams.build(name, model, **options)(x)
            torch.testing.assert_close(maps, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
        assert not any(module._forward_hooks for module in net.modules())
        assert all(p.grad is None and p.requires_grad for p in net.parameters())

    def test_a_layer_of_a_model_of_the_library(self) -> None:
        model, x = small(), torch.randn(1, 3, 64, 64)
        inner = cams.build("layercam", model, target="backbone.net.layer2")(x, labels=["c"])
        assert inner.shape == (1, 1, 8, 8)
        last = cams.build("gradcam", cams.Split(model, "neck"))(x)
        torch.testing.assert_close(last, cams.build("gradcam", model)(x), rtol=1e-4, atol=1e-6)

    @pytest.mark.parametrize("training", [False, True])
    @pytest.mark.parametrize("way", ["in place", "wrapped", "a part"])
    def test_compiled_networks(self, way: str, training: bool) -> None:
        model, x = small(), torch.randn(2, 3, 64, 64)
        layer = "backbone.net.layer2"
        expected = [cams.build("gradcam", model, target)(x) for target in (layer, None)]
        net: Any = model.train(training)
        if way == "in place":
            model.compile(backend="eager")
        elif way == "wrapped":
            net = torch.compile(model, backend="eager")
        else:
            model.backbone.net = torch.compile(model.backbone.net, backend="eager")
        if not training:
            with torch.no_grad():
                net(x)  # compiled now: for a hook it is too late
        found = [cams.build("gradcam", net, target)(x) for target in (layer, None)]
        for maps, of_plain in zip(found, expected, strict=True):
            torch.testing.assert_close(maps, of_plain, rtol=1e-5, atol=1e-7)
        if way == "wrapped":
            assert torch.equal(cams.build("gradcam", net, f"_orig_mod.{layer}")(x), found[0])
        with pytest.raises(ValueError, match="has no layer 'backbone.net.layer22'; did you mean .*layer2"):
            cams.build("gradcam", net, "backbone.net.layer22")

    def test_tokens_of_a_transformer_with_a_class_token(self) -> None:
        model = timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=2).eval()
        nn.init.normal_(model.head.weight)
        maps = cams.build("gradcam", model, target="blocks.10")(torch.randn(2, 3, 64, 64))
        assert maps.shape == (2, 2, 4, 4)
        assert maps.std() > 0

    @pytest.mark.parametrize("name", ["gradcam", "layercam", "eigencam"])
    def test_tokens_and_layouts_that_the_model_does_not_tell(self, name: str) -> None:
        from torchvision import models

        torch.manual_seed(0)
        x = torch.randn(1, 3, 64, 96)
        net = models.swin_t(num_classes=2).eval()  # (N, h, w, C), and no attribute says so
        features = cams.Split(net, "features.1").forward_features(x)
        assert features.shape == (1, 16, 24, 96)
        if name == "eigencam":
            places = features.flatten(1, 2)[0]
            component = places @ torch.linalg.svd(places).Vh[0]
            expected = (component * (component @ places.sum(dim=1)).sign()).relu().view(16, 24)
            torch.testing.assert_close(
                cams.build(name, net, target="features.1")(x)[0, 0], expected, rtol=1e-3, atol=1e-3
            )
        assert cams.build(name, net, target="features.1")(x).shape == (1, 2, 16, 24)
        assert cams.build(name, net, target="features.0.0")(x).shape == (1, 2, 16, 24)  # (N, C, h, w)
        vit = models.VisionTransformer(64, 16, 2, 2, 32, 64, num_classes=2).eval()
        nn.init.normal_(vit.heads.head.weight)
        x, layer = torch.randn(1, 3, 64, 64), "encoder.layers.encoder_layer_0"
        with pytest.raises(ValueError, match="17 tokens form no grid.*num_prefix_tokens=1"):
            cams.build(name, vit, target=layer)(x)
        assert cams.build(name, cams.Split(vit, layer, num_prefix_tokens=1))(x).shape == (1, 2, 4, 4)
        with pytest.raises(ValueError, match="num_prefix_tokens=-1: at least 0"):
            cams.Split(vit, layer, num_prefix_tokens=-1)

    def test_a_layer_before_the_class_token(self) -> None:
        model = timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=2).eval()
        nn.init.normal_(model.head.weight)
        assert cams.build("gradcam", model, target="patch_embed")(torch.randn(1, 3, 64, 64)).shape == (1, 2, 4, 4)
        swin = timm.create_model("swin_tiny_patch4_window7_224", num_classes=2).eval()  # says NHWC, here is NCHW
        nn.init.normal_(swin.head.fc.weight)
        maps = cams.build("gradcam", swin, target="patch_embed.proj")(torch.randn(1, 3, 224, 224))
        assert maps.shape == (1, 2, 56, 56)

    @pytest.mark.parametrize("name", sorted(set(METHODS) - {"cam", "pcam"}))
    def test_autocast(self, name: str) -> None:
        model, x = small(), torch.randn(2, 3, 64, 64)
        expected = cams.build(name, model, target="neck")(x)
        with torch.autocast("cpu", torch.bfloat16):
            half = cams.build(name, model, target="neck")(x)
        assert half.dtype == torch.float32
        torch.testing.assert_close(half, expected, rtol=0.1, atol=0.1 * float(expected.abs().max()))

    def test_the_backbone_runs_once_and_without_gradients(self) -> None:
        model, x = small(), torch.randn(1, 3, 64, 64)
        runs = []
        first = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
        first.register_forward_hook(lambda m, i, o: runs.append(o.requires_grad))
        cams.build("gradcam++", model, target="backbone.net.layer3")(x)
        assert runs == [False]

    def test_the_network_s_own_errors_leave_no_hook(self) -> None:
        model = small()
        with pytest.raises(ValueError, match="channels"):
            cams.build("gradcam", model, target="neck")(torch.randn(1, 5, 64, 64))
        assert not any(module._forward_hooks for module in model.modules())

    def test_errors(self) -> None:
        class Net(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.conv, self.unused, self.pair = nn.Conv2d(3, 2, 1), nn.Conv2d(2, 2, 1), nn.LSTM(4, 4)

            def forward(self, x: Tensor) -> Tensor:
                return self.pair(x[:, 0])[0].mean(dim=1) if x.shape[1] == 1 else self.conv(x).argmax(dim=1).flatten(1)

        x = torch.randn(1, 3, 4, 4)
        with pytest.raises(ValueError, match="layer 'unused' of Net does not run"):
            cams.build("gradcam", Net(), target="unused")(x)
        with pytest.raises(ValueError, match="no gradient for its features.*'scorecam' or 'eigencam'"):
            cams.build("gradcam", Net(), target="conv")(x)
        with pytest.raises(ValueError, match="layer 'pair' gives tuple, not a map"):
            cams.build("gradcam", Net(), target="pair")(torch.randn(1, 1, 4, 4))
        with pytest.raises(TypeError, match="or the name of a layer: target="):
            cams.build("gradcam", Net())
        with pytest.raises(ValueError, match=r"must give logits \(N, K\), got a tensor \(1, 2, 4, 4\)"):
            cams.build("gradcam", nn.Sequential(nn.Conv2d(3, 2, 1)), target="0")(x)


def test_maps_that_are_not_finite_are_refused() -> None:
    model = small()
    nn.init.constant_(model.head.fc.weight, float("inf"))
    with pytest.raises(ValueError, match="CAM gives NaN or infinite values"):
        cams.build("cam", model)(torch.randn(1, 3, 64, 64))


@pytest.mark.parametrize("architecture", ["pcam", "jf_top1", "x_ray"])
@pytest.mark.parametrize("name", ["gradcam", "gradcam++", "layercam", "eigencam", "ablationcam"])
def test_attention_before_each_label(architecture: str, name: str) -> None:
    options = {"backbone": "resnet10t", "labels": ["Edema", "Mass"], "input_spec": {"size": [64, 64]}}
    options |= {"attention": "spatial_attention", "attention_mode": "cumulative"}
    model = thoraxlib.build(architecture, **options).eval()
    extra = {"batch_size": 256} if name == "ablationcam" else {}
    maps = cams.build(name, model, **extra)(torch.randn(2, 3, 64, 64))
    assert maps.shape == (2, 2, 2, 2)
    assert maps.isfinite().all()


def test_the_head_runs_only_for_what_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x, runs = thoraxlib.build("chexnet", backbone="resnet10t").eval(), torch.rand(1, 3, 64, 64), []
    forward = model.forward_head
    monkeypatch.setattr(model, "forward_head", lambda features: runs.append(1) or forward(features))
    cam = cams.build("cam", model)
    maps = cam(x)
    assert runs == []  # the linear layer's weights are enough
    logits, again = cam.with_logits(x)
    assert len(runs) == 1
    assert torch.equal(again, maps)
    assert torch.allclose(logits, forward(model.forward_features(x)))
