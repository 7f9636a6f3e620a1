"""Models whose head sees several maps, and organ masks."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import thoraxlib
from thoraxlib import backbones, cams, segmentation
from thoraxlib.layers import fusion
from thoraxlib.models.fusion import FusionClassifier
from thoraxlib.segmentation.base import foreground

SMALL: dict[str, Any] = {"backbone": "resnet10t", "input_spec": {"size": 64, "mean": 0.0, "std": 1.0}}
UNET = {"name": "unet", "width": 4}
MASKED = [name for name in fusion.names() if fusion.registry.factory(name).uses_masks]  # type: ignore[attr-defined]

PRESETS = [
    (name, preset)
    for name in ("segfusion_vangcn", "segfusion_van", "seg_vangcn", "fusion_van")
    for preset in (None, *thoraxlib.describe(name).presets)
]
pytestmark = pytest.mark.filterwarnings("ignore:the organ masks of")  # an untrained UNet's are all or nothing


def built(name: str = "classifier", **options: Any) -> FusionClassifier:
    given = {"fusion": "seg_pyramid"} if name == "classifier" else {}
    model = thoraxlib.build(name, **{**SMALL, **given, **options}).eval()
    assert isinstance(model, FusionClassifier)
    return model


class Bright(nn.Module):
    """Places brighter than a half are organs; remembers what it was given."""

    def __init__(self, output: Any = None) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(4.0))
        self.seen, self.output = torch.empty(0), output

    def forward(self, x: Tensor) -> Any:
        self.seen = x.detach()
        bright = self.gain * (x.mean(dim=1, keepdim=True) - 0.5)
        logits = torch.cat([-bright, bright], dim=1)
        return logits if self.output is None else self.output(logits)


@pytest.fixture
def x() -> Tensor:
    return torch.rand(3, 3, 64, 64)


def discs(n: int = 3, size: tuple[int, int] = (64, 64)) -> Tensor:
    y, x = torch.meshgrid(torch.linspace(-1, 1, size[0]), torch.linspace(-1, 1, size[1]), indexing="ij")
    return torch.stack([((x - 0.3 * k) ** 2 + y**2 < 0.4).float() for k in range(n)])[:, None]


@pytest.mark.parametrize("name", MASKED)
@torch.no_grad()
def test_masks_made_or_given(name: str, x: Tensor) -> None:
    model, without = built(fusion=name, segmenter=Bright()), built(fusion=name)
    without.load_state_dict({key: value for key, value in model.state_dict().items() if "segmenter" not in key})
    masks = model.organ_masks(x)
    assert torch.equal(masks, (x.mean(dim=1, keepdim=True) > 0.5).float())
    logits = model(x)
    torch.testing.assert_close(model(x, masks), logits)
    for dtype in (torch.float32, torch.float64, torch.uint8, torch.bool):
        torch.testing.assert_close(without(x, masks.to(dtype)), logits)
    assert not torch.allclose(model(x, discs()), logits)  # given masks count, not the segmenter's
    everything = model.forward_all(x, discs())
    assert torch.equal(everything.masks, discs())
    assert torch.equal(everything.logits, model(x, discs()))
    torch.testing.assert_close(model.forward_head(model.forward_features(x, discs())), everything.logits)
    assert [m.shape[1] for m in everything.fused] == list(model.fusion.channels)
    assert len(everything.maps) == len(model.backbone.channels)


@pytest.mark.parametrize("name", fusion.names())
@pytest.mark.parametrize("backbone", ["convnext_atto", "van_b0"])
@torch.no_grad()
def test_images_of_another_size(name: str, backbone: str) -> None:
    model = built(fusion=name, backbone=backbone, segmenter=UNET if name in MASKED else None, labels=["a", "b"])
    assert model(torch.rand(1, 3, 80, 96)).shape == (1, 2)


@pytest.mark.parametrize("name", MASKED)
def test_masks_are_needed(name: str, x: Tensor) -> None:
    model = built(fusion=name)
    for call in (model, model.predict_proba, model.forward_all, cams.build("gradcam", model)):
        with pytest.raises(ValueError, match=r"needs organ masks: give them, model\(x, masks\).*segmenter='unet'"):
            call(x)


@pytest.mark.parametrize(
    ("masks", "error", "message"),
    [
        (torch.ones(3, 1, 64, 32), ValueError, r"at the images' size, \(3, 1, 64, 64\), got \(3, 1, 64, 32\)"),
        (torch.ones(3, 1, 224, 224), ValueError, r"got \(3, 1, 224, 224\)"),
        (torch.ones(1, 1, 64, 64), ValueError, r"got \(1, 1, 64, 64\)"),
        (torch.ones(3, 64, 64), ValueError, r"got \(3, 64, 64\)"),
        (torch.ones(3, 3, 64, 64), ValueError, r"got \(3, 3, 64, 64\)"),
        (torch.full((3, 1, 64, 64), 255, dtype=torch.uint8), ValueError, r"in \[0, 1\], got values from 255 to 255"),
        (torch.full((3, 1, 64, 64), -0.5), ValueError, "got values from -0.5 to -0.5"),
        (torch.full((3, 1, 64, 64), float("nan")), ValueError, "got values from nan"),
        (np.ones((3, 1, 64, 64)), TypeError, r"masks must be a tensor \(N, 1, H, W\), got ndarray"),
    ],
)
def test_masks_that_cannot_be(masks: Any, error: type[Exception], message: str, x: Tensor) -> None:
    with pytest.raises(error, match=message):
        built()(x, masks)


def test_empty_masks_are_warned_of(x: Tensor) -> None:
    model = built(segmenter=Bright())
    masks = discs()
    masks[1] = 0
    with pytest.warns(UserWarning, match=r"masks of 1 of 3 images are empty \(batch positions \[1\]\)"):
        logits = model(x, masks)
    assert logits.isfinite().all()
    with pytest.warns(UserWarning, match="masks of 3 of 3 images are empty"):
        model(torch.zeros_like(x))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(x)
        model(x, discs())


@pytest.mark.parametrize("mean_std", [([0.0], [1.0]), ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]), ([0.5], [0.25])])
@torch.no_grad()
def test_the_segmenter_sees_pixels(mean_std: tuple[list[float], list[float]], x: Tensor) -> None:
    mean, std = mean_std
    model = built(segmenter=Bright(), input_spec={"size": 64, "mean": mean, "std": std})
    normalised = (x - torch.tensor(mean).view(1, -1, 1, 1)) / torch.tensor(std).view(1, -1, 1, 1)
    model(normalised)
    torch.testing.assert_close(model.segmenter.seen, x)
    assert torch.equal(model.organ_masks(normalised), (x.mean(dim=1, keepdim=True) > 0.5).float())


def test_a_frozen_segmenter_stays_as_it_is(x: Tensor) -> None:
    model = built(segmenter={**UNET, "norm": True})
    before = {key: value.clone() for key, value in model.segmenter.state_dict().items()}
    optimiser = torch.optim.SGD(model.parameters(), 0.1, weight_decay=0.1)
    for mode in (True, False, True):
        model.train(mode)
        assert not any(part.training for part in model.segmenter.modules())
        assert all(part.training == mode for part in model.fusion.modules())
        model(x).sum().backward()
        optimiser.step()
    assert all(torch.equal(value, before[key]) for key, value in model.segmenter.state_dict().items())
    assert all(p.grad is None for p in model.segmenter.parameters())
    assert all(p.grad is not None for key, p in model.named_parameters() if not key.startswith("segmenter"))


@pytest.mark.parametrize("name", MASKED)
def test_a_trained_segmenter_learns_from_the_labels(name: str, x: Tensor) -> None:
    model = built(fusion=name, segmenter=Bright(), mask="soft", train_segmenter=True)
    model.train()
    assert model.segmenter.training
    model(x).square().sum().backward()
    assert model.segmenter.gain.grad is not None
    assert model.segmenter.gain.grad != 0
    masks = model.organ_masks(x)
    assert ((masks > 0) & (masks < 1)).all()
    assert torch.equal(masks, foreground(model.segmenter(x), "soft"))
    with torch.no_grad():
        assert not model(x).requires_grad


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_segmenter": True}, "a hard or rounded mask has no gradient: train_segmenter=True needs mask='soft'"),
        (
            {"train_segmenter": True, "mask": "soft", "fusion": {"name": "seg_pyramid", "round_masks": True}},
            "round_masks=False",
        ),
        ({"mask": "smooth"}, "mask='smooth': allowed are 'hard', 'soft'"),
        ({"fusion": "pyramid"}, "the fusion Pyramid uses no masks: build the model without a segmenter"),
        ({"fusion": None}, "segmenter= makes masks for a fusion"),
        ({"segmenter": {**UNET, "in_chans": 1}}, "the segmenter takes 1 channels, the model's images have 3"),
        ({"neck": "transition"}, "with fusion= leave them out"),
        ({"pool": "pcam"}, "weighs the locations of one map for each label, and there are 6 maps"),
        ({"head": "map"}, "the head 'map' takes one map"),
        ({"head": "classwise"}, "the head 'classwise' takes one map"),
        ({"head": "vit_per_stage", "fusion": "seg_input"}, "two maps or more, got 512"),
    ],
)
def test_components_that_do_not_fit(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        built(**{"segmenter": UNET, **options})


def test_a_segmenter_that_is_no_module() -> None:
    with pytest.raises(TypeError, match=r"segmenter must be a name, a mapping with 'name', or an nn\.Module, got int"):
        built(segmenter=3)


@pytest.mark.parametrize(
    ("output", "error", "message"),
    [
        (lambda logits: {"out": logits}, TypeError, r"must give logits \(N, M, H, W\), got dict"),
        (lambda logits: logits[:, :1], ValueError, r"background and organs, got \(3, 1, 64, 64\)"),
        (lambda logits: logits[..., :32], ValueError, r"logits are \(64, 32\) for images of \(64, 64\).*fit='pad'"),
    ],
)
@pytest.mark.parametrize("name", MASKED)
def test_segmenters_that_cannot_be(name: str, output: Any, error: type[Exception], message: str, x: Tensor) -> None:
    with pytest.raises(error, match=message):
        built(fusion=name, segmenter=Bright(output))(x)


class OneStage(nn.Module):
    channels: tuple[int, ...] = (8,)
    strides: tuple[int, ...] = (4,)

    def __init__(self, gives: int = 1) -> None:
        super().__init__()
        self.conv, self.gives = nn.Conv2d(3, 8, 4, 4), gives

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.conv(x)] * self.gives


class TwoStages(OneStage):
    channels = (8, 8)
    strides = (4, 8)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.conv(x), self.conv(x)[..., ::2, ::2]]


@pytest.mark.parametrize("name", ["segfusion_vangcn", "segfusion_van", "fusion_van", "segfusion_vanvit"])
def test_a_backbone_with_too_few_stages(name: str) -> None:
    with pytest.raises(ValueError, match=r"needs a backbone with two maps or more, got channels=\(8,\)"):
        thoraxlib.build(name, backbone=OneStage())
    with pytest.raises(ValueError, match="stage=5: the backbone has 5 maps"):
        thoraxlib.build("classifier", backbone="resnet10t", stage=5)


def test_one_stage_is_enough_for_masked_images(x: Tensor) -> None:
    assert built(fusion="seg_input", backbone=OneStage(), segmenter=Bright())(x).shape == (3, 14)
    with pytest.raises(ValueError, match="the backbone gives 2 maps and says that it has 1"):
        built(fusion="seg_input", backbone=OneStage(2), segmenter=Bright())(x)


def test_small_images_of_a_vit_per_stage() -> None:
    small = {"head": {"name": "vit_per_stage", "width": 12, "depth": 1, "num_heads": 2}, "backbone": "resnet10t"}
    model = thoraxlib.build("fusion_van", **small, input_spec={"size": 96}).eval()
    assert model(torch.rand(1, 3, 96, 96)).shape == (1, 14)
    assert model(torch.rand(1, 3, 128, 100)).shape == (1, 14)
    x = torch.rand(1, 3, 64, 64)  # whose last masked map, 2 x 2, is smaller than its patch of 3
    head, maps = model.head, model.forward_all(x).fused
    vit = head.vits[-1](nn.functional.pad(maps[-2], (0, 1, 0, 1)))
    others = [
        v(m[..., : m.shape[-2] // 3 * 3, : m.shape[-1] // 3 * 3]) for v, m in zip(head.vits, maps[:-2], strict=False)
    ]
    torch.testing.assert_close(model(x), head.linear(maps[-1]) + vit + sum(others))


@pytest.mark.parametrize("name", MASKED)
@torch.no_grad()
def test_grey_images(name: str) -> None:
    """A grey UNet has as many classes as any other: its mask is not empty."""
    model = built(fusion=name, segmenter=UNET, in_chans=1, labels=["a"])
    assert model.segmenter.in_chans == 1
    nn.init.constant_(model.segmenter.final_conv.bias[1:], 5.0)
    x = torch.rand(2, 1, 64, 64)
    assert model(x).shape == (2, 1)
    assert model.organ_masks(x).mean() == 1


@pytest.mark.parametrize(("name", "preset"), PRESETS)
@torch.no_grad()
def test_what_is_saved_is_the_model(name: str, preset: str | None, x: Tensor, tmp_path: Path) -> None:
    """Everything that affects the output: another instance, made by other random numbers, gives the same."""
    segmenter = {} if name == "fusion_van" else {"segmenter": UNET}
    model = built(name, preset=preset, **segmenter).train()
    model(x)  # running statistics move
    model.eval()
    thoraxlib.save_pretrained(model, tmp_path)
    torch.manual_seed(1)
    other = built(name, preset=preset, **segmenter)
    torch.manual_seed(2)
    loaded = thoraxlib.load_pretrained(tmp_path)
    logits = model(x, discs())
    assert not torch.equal(other(x, discs()), logits)
    assert torch.equal(loaded(x, discs()), logits)
    assert torch.equal(loaded(x), model(x))
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(x, discs()), logits)
    if preset != "original" or name == "seg_vangcn":  # whose norms take the batch's statistics
        torch.testing.assert_close(loaded(x[1:2], discs()[1:2]), logits[1:2], rtol=1e-4, atol=1e-5)


def test_a_frozen_segmenter_is_frozen_after_loading(x: Tensor, tmp_path: Path) -> None:
    model = built(segmenter=UNET)
    thoraxlib.save_pretrained(model, tmp_path)
    loaded = thoraxlib.load_pretrained(tmp_path).train()
    assert not any(p.requires_grad for p in loaded.segmenter.parameters())
    assert not loaded.segmenter.training


@pytest.mark.parametrize("stage", [0, 1, -1])
def test_heat_maps_by_stage(stage: int, x: Tensor) -> None:
    model = built(segmenter=UNET, labels=["a", "b", "c"])
    maps = cams.build("gradcam", model, stage)(x, ["b"])
    features = model.forward_features(x)
    leaves = [m.detach().requires_grad_() for m in features.maps]
    model.forward_head(features._replace(maps=leaves))[:, 1].sum().backward()
    leaf = leaves[stage]
    weights = leaf.grad.mean(dim=(2, 3), keepdim=True)
    torch.testing.assert_close(maps[:, 0], (weights * leaf).sum(dim=1).relu().detach(), rtol=1e-4, atol=1e-6)
    assert maps.shape[2:] == leaf.shape[2:]


def test_heat_maps_of_the_unmasked_map_reach_beyond_the_mask(x: Tensor) -> None:
    """The last map counts twice, once without the mask; the others only under it."""
    model = built(segmenter=Bright(), labels=["a"])
    half = x.clone()
    half[..., 32:] = 0
    outside = lambda stage: cams.build("layercam", model, stage, relu=False)(half).abs()[..., -1].max()  # noqa: E731
    assert outside(0) == 0
    assert outside(-1) > 0
    model = built(segmenter=Bright(), labels=["a"], fusion={"name": "seg_pyramid", "norm": "none"})
    assert model.logit_maps(model.forward_features(half)).shape == (3, 1, 32, 32)


def test_logit_maps_sum_up_to_the_logits(x: Tensor) -> None:
    model = built("segfusion_vangcn", segmenter=UNET)
    with torch.no_grad():
        features = model.forward_features(x)
        torch.testing.assert_close(model.logit_maps(features).mean(dim=(2, 3)), model(x), rtol=1e-4, atol=1e-5)
    maps, logits = cams.build("cam", model)(x), model(x)
    assert maps.shape == (3, len(model.labels), 32, 32)
    assert logits.shape == (3, len(model.labels))


def test_a_stage_that_there_is_not(x: Tensor) -> None:
    with pytest.raises(ValueError, match="target=5: FusionClassifier has 5 maps"):
        cams.build("gradcam", built(segmenter=UNET), 5)(x)
    with pytest.raises(ValueError, match="target=1: Classifier has one map; name a layer instead"):
        cams.build("gradcam", thoraxlib.build("van", **SMALL), 1)


def test_explain() -> None:
    model = built(segmenter=UNET)
    images = np.random.default_rng(0).integers(0, 255, (90, 70), np.uint8)
    (study,) = thoraxlib.explain(model, images)
    assert study.findings
    assert all(finding.map.shape == (90, 70) for finding in study.findings)


@pytest.mark.parametrize("name", MASKED)
def test_compiled_and_exported_with_given_masks(name: str, x: Tensor) -> None:
    model, masks = built(fusion=name, backbone=TwoStages()), discs()
    expected = model(x, masks)
    torch.testing.assert_close(torch.compile(model, backend="aot_eager", fullgraph=True)(x, masks), expected)
    n = torch.export.Dim("n")
    program = torch.export.export(model, (x, masks), dynamic_shapes=({0: n}, {0: n}))
    torch.testing.assert_close(program.module()(x[:2], masks[:2]), expected[:2], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mask", ["hard", "soft"])
@torch.no_grad()
def test_16_bits_and_channels_last(mask: str, x: Tensor) -> None:
    model = built(segmenter=Bright(), mask=mask, fusion={"name": "seg_pyramid", "affine": "position"})
    expected = model(x)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(model(x).float(), expected, rtol=0.1, atol=0.1)
    model.to(memory_format=torch.channels_last)
    torch.testing.assert_close(model(x.to(memory_format=torch.channels_last)), expected, rtol=1e-3, atol=1e-4)
    half = model.bfloat16()(x.bfloat16())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), expected, rtol=0.2, atol=0.2)


def test_torchvision_segmenter_in_a_model(x: Tensor) -> None:
    model = built(segmenter="lraspp_mobilenet_v3_large")
    assert model(x).shape == (3, 14)
    assert isinstance(model.segmenter, segmentation.Segmenter)
    assert isinstance(model.backbone, backbones.Backbone)
