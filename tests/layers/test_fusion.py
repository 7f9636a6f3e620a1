from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from thoraxlib import backbones
from thoraxlib.layers import fusion

NAMES = fusion.names()
BACKBONES = ("resnet10t", "convnext_atto", "swin_tiny_patch4_window7_224", "van_b0", "vit_tiny_patch16_224")
CHANNELS, SIZES = (4, 6, 8), ((16, 16), (8, 8), (4, 4))


def built(name: str, **options: Any) -> fusion.Fusion:
    part = fusion.registry.resolve({"name": name, **options}, channels=CHANNELS, sizes=SIZES)
    assert isinstance(part, fusion.Fusion)
    return part


def pyramid(n: int = 2, sizes: Any = SIZES, **options: Any) -> list[Tensor]:
    return [torch.randn(n, c, *size, **options) for c, size in zip(CHANNELS, sizes, strict=True)]


def some_masks(n: int = 2, size: tuple[int, int] = (64, 64)) -> Tensor:
    """A disc for each image, at different positions."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, size[0]), torch.linspace(-1, 1, size[1]), indexing="ij")
    return torch.stack([((x - 0.3 * k) ** 2 + y**2 < 0.4).float() for k in range(n)])[:, None]


@pytest.fixture(scope="module", params=BACKBONES)
def backbone(request: pytest.FixtureRequest) -> backbones.Backbone:
    return backbones.registry.resolve(request.param, img_size=(64, 64)).eval()  # type: ignore[return-value]


@pytest.mark.parametrize("name", NAMES)
def test_on_every_kind_of_backbone(name: str, backbone: backbones.Backbone) -> None:
    sizes = [(64 // stride, 64 // stride) for stride in backbone.strides]
    fuse = fusion.registry.resolve(name, channels=backbone.channels, sizes=sizes).eval()
    x, masks = torch.rand(2, 3, 64, 64), some_masks()
    with torch.no_grad():
        maps = backbone(fuse.image(x, masks))
        fused = fuse(maps, masks)
        assert tuple(m.shape[1] for m in fused) == fuse.channels
        assert all(m.isfinite().all() for m in fused)
        # an image alone is the same image in a batch
        alone = fuse(backbone(fuse.image(x[1:], masks[1:])), masks[1:])
        for one, two in zip(alone, fused, strict=True):
            torch.testing.assert_close(one, two[1:], rtol=1e-3, atol=1e-4)
        other = fuse(backbone(fuse.image(x, masks.flip(0))), masks.flip(0))
    same = all(torch.equal(one, two) for one, two in zip(fused, other, strict=True))
    assert same != fuse.uses_masks


@pytest.mark.parametrize("size", [(64, 64), (96, 64), (70, 50), (33, 47)])
@pytest.mark.parametrize("spec", [*({"name": name} for name in NAMES), {"name": "seg_pyramid", "affine": "position"}])
def test_every_size(spec: dict[str, Any], size: tuple[int, int]) -> None:
    fuse = built(**spec)
    maps = pyramid(sizes=[(-(-size[0] // s), -(-size[1] // s)) for s in (4, 8, 16)], requires_grad=True)
    fused = fuse(maps, some_masks(size=size))
    assert tuple(m.shape[1] for m in fused) == fuse.channels
    sum(m.square().sum() for m in fused).backward()  # type: ignore[union-attr]
    assert maps[-1].grad is not None
    assert all(p.grad is not None and p.grad.isfinite().all() for p in fuse.parameters())


def test_the_maps_that_come_out() -> None:
    maps = pyramid()
    assert built("pyramid")(maps) == maps
    assert built("pyramid", repeat_last=True)(maps) == [*maps, maps[-1]]
    assert built("pyramid", repeat_last=True).channels == (4, 6, 8, 8)
    assert built("seg_input")(maps) == maps[-1:]
    assert built("seg_pyramid").channels == (4, 6, 8, 8)
    assert built("seg_pyramid")(maps, some_masks())[-1] is maps[-1]
    x, masks = torch.rand(2, 3, 64, 64), some_masks()
    assert torch.equal(built("seg_input").image(x, masks), x * masks)
    for name in ("pyramid", "seg_pyramid"):
        assert built(name).image(x, masks) is x


def formula(fuse: Any, maps: list[Tensor], masks: Tensor) -> list[Tensor]:
    """(w m + b) M, position by position."""
    out = []
    for stage, m, size in zip(fuse.stages, maps, SIZES, strict=True):
        mask = F.interpolate(masks, size, mode="bilinear", antialias=True, align_corners=False).round()
        z = torch.zeros_like(m)
        for i in range(size[0]):
            for j in range(size[1]):
                w, b = (1.0, 0.0) if stage.weight is None else (stage.weight[i, j], stage.bias[i, j])
                z[:, :, i, j] = (w * m[:, :, i, j] + b) * mask[:, :, i, j]
        out.append(z)
    return out


@pytest.mark.parametrize("affine", ["none", "position"])
@pytest.mark.parametrize("start", ["one", "uniform"])
@torch.no_grad()
def test_seg_pyramid_is_its_formula(affine: str, start: str) -> None:
    fuse = built("seg_pyramid", affine=affine, start=start, norm="none")
    maps, masks = pyramid(), some_masks()
    for ours, expected in zip(fuse(maps, masks), formula(fuse, maps, masks), strict=False):
        torch.testing.assert_close(ours, expected)
    if start == "one":
        for ours, m, mask in zip(fuse(maps, masks), maps, fuse.stage_masks(maps, masks), strict=False):
            torch.testing.assert_close(ours, m * mask)


@torch.no_grad()
def test_norms() -> None:
    maps, masks = pyramid(4), some_masks(4)
    plain = built("seg_pyramid", norm="none")(maps, masks)[:-1]
    running, of_batch = built("seg_pyramid", norm="batch"), built("seg_pyramid", norm="batch_statistics")
    expected = [F.batch_norm(z, None, None, training=True) for z in plain]
    for fuse in (running.train(), of_batch.train()):
        for ours, z in zip(fuse(maps, masks), expected, strict=False):
            torch.testing.assert_close(ours, z)
    # in evaluation, one has running statistics, and the other still those of the batch
    for ours, z in zip(of_batch.eval()(maps, masks), expected, strict=False):
        torch.testing.assert_close(ours, z)
    for ours, z, stage in zip(running.eval()(maps, masks), plain, running.stages, strict=False):
        torch.testing.assert_close(ours, F.batch_norm(z, stage.norm.running_mean, stage.norm.running_var))
    alone = [m[:1] for m in maps]
    for ours in of_batch(alone, masks[:1])[:-1]:
        torch.testing.assert_close(ours.mean((2, 3)), torch.zeros(1, ours.shape[1]), atol=1e-5, rtol=0)


@torch.no_grad()
def test_mask_mean_is_the_mean_over_the_mask() -> None:
    maps, masks = pyramid(), some_masks()
    for round_masks in (True, False):
        fuse = built("seg_pyramid", norm="none", mask_mean=True, round_masks=round_masks)
        for z, m, mask in zip(fuse(maps, masks), maps, fuse.stage_masks(maps, masks), strict=False):
            weights = mask * mask  # the mask multiplies the map, and then its mean
            torch.testing.assert_close(z.mean((2, 3)), (m * weights).sum((2, 3)) / mask.sum((2, 3)))
    normed = built("seg_pyramid", mask_mean=True).train()
    for z, mask in zip(normed(maps, masks), normed.stage_masks(maps, masks), strict=False):
        assert (z[(mask == 0).expand_as(z)] == 0).all()  # what the norm adds outside does not count
    empty = normed(maps, torch.zeros(2, 1, 64, 64))
    assert all(torch.equal(z, torch.zeros_like(z)) for z in empty[:-1])


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 1000), st.booleans(), st.sampled_from([(64, 64), (50, 70), (17, 90)]))
def test_stage_masks(seed: int, soft: bool, size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(seed)
    masks = torch.rand(2, 1, *size, generator=generator)
    masks = masks if soft else masks.round()
    maps = pyramid()
    hard = built("seg_pyramid").stage_masks(maps, masks)  # type: ignore[operator]
    smooth = built("seg_pyramid", round_masks=False).stage_masks(maps, masks)  # type: ignore[operator]
    for one, two, m in zip(hard, smooth, maps, strict=True):
        assert one.shape == two.shape == (2, 1, *m.shape[2:])
        assert ((one == 0) | (one == 1)).all()
        assert ((two >= -1e-6) & (two <= 1 + 1e-6)).all()
        assert torch.equal(one, two.round())
    full = built("seg_pyramid", round_masks=False).stage_masks(maps, torch.ones(1, 1, *size))  # type: ignore[operator]
    for mask in full:
        torch.testing.assert_close(mask, torch.ones_like(mask))


def test_halves_go_to_the_even_number() -> None:
    fuse = fusion.build("seg_pyramid", channels=(2, 2), sizes=((2, 2), (1, 1)))
    masks = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).repeat(1, 1, 1, 1)
    assert fuse.stage_masks([torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 1, 1)], masks)[1].item() == 0


def test_soft_masks_have_gradients() -> None:
    masks = some_masks().mul(0.8).requires_grad_()
    soft = built("seg_pyramid", round_masks=False)
    soft(pyramid(), masks)[0].square().sum().backward()
    assert masks.grad is not None
    assert masks.grad.abs().sum() > 0


@torch.no_grad()
def test_position_weights_fit_other_sizes() -> None:
    fuse = built("seg_pyramid", affine="position", norm="none")
    for stage in fuse.stages:
        rows = torch.linspace(1, 2, stage.weight.shape[0])[:, None]
        stage.weight.copy_(rows.expand_as(stage.weight))
        stage.bias.fill_(0.5)
    sizes = [(2 * h, w // 2) for h, w in SIZES]
    maps = [torch.ones(1, c, *size) for c, size in zip(CHANNELS, sizes, strict=True)]
    for z in fuse(maps, torch.ones(1, 1, 128, 32))[:-1]:
        column = z[0, 0, :, 0]
        assert (column.diff() >= 0).all()  # the ramp, finer
        assert column.min() == pytest.approx(1.5, abs=1e-5)
        assert column.max() == pytest.approx(2.5, abs=1e-5)
        torch.testing.assert_close(z, column[None, None, :, None].expand_as(z))


@pytest.mark.parametrize("trained", [False, True])
def test_trained_or_not(trained: bool) -> None:
    fuse = built("seg_pyramid", affine="position", start="uniform", trained=trained)
    assert all(p.requires_grad == trained for p in fuse.parameters())
    shapes = {key: tuple(p.shape) for key, p in fuse.named_parameters()}
    assert shapes["stages.1.weight"] == shapes["stages.1.bias"] == (8, 8)
    weights = torch.cat([p.flatten() for key, p in fuse.named_parameters() if "norm" not in key])
    assert ((weights >= 0) & (weights < 1)).all()
    assert weights.std() > 0.2


@pytest.mark.parametrize("norm", ["batch", "batch_statistics", "none"])
@pytest.mark.parametrize("affine", ["none", "position"])
@torch.no_grad()
def test_the_state_holds_everything(norm: str, affine: str) -> None:
    options = {"norm": norm, "affine": affine, "start": "uniform"}
    fuse = built("seg_pyramid", **options)
    for _ in range(3):
        fuse(pyramid(4), some_masks(4))
    torch.manual_seed(5)
    other = built("seg_pyramid", **options)
    other.load_state_dict(copy.deepcopy(fuse.state_dict()))
    maps, masks = pyramid(), some_masks()
    for ours, theirs in zip(fuse.eval()(maps, masks), other.eval()(maps, masks), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("norm", ["batch", "batch_statistics", "none"])
@pytest.mark.parametrize("size", [(64, 64), (48, 80)])
@torch.no_grad()
def test_16_bits_and_channels_last(norm: str, size: tuple[int, int]) -> None:
    fuse = built("seg_pyramid", norm=norm, affine="position", start="uniform").eval()
    maps, masks = pyramid(sizes=[(size[0] // s, size[1] // s) for s in (4, 8, 16)]), some_masks(size=size)
    expected = fuse(maps, masks)
    turned = [m.contiguous(memory_format=torch.channels_last) for m in maps]
    for ours, theirs in zip(fuse(turned, masks), expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    half = [m.bfloat16() for m in maps]
    for ours, theirs in zip(copy.deepcopy(fuse).bfloat16()(half, masks.bfloat16()), expected, strict=True):
        assert ours.dtype == torch.bfloat16
        torch.testing.assert_close(ours.float(), theirs, rtol=0.1, atol=0.1)
    with torch.autocast("cpu", torch.bfloat16):
        for ours, theirs in zip(fuse(half, masks), expected, strict=True):
            torch.testing.assert_close(ours.float(), theirs, rtol=0.1, atol=0.1)
    for whole, rounded in zip(fuse.stage_masks(maps, masks), fuse.stage_masks(half, masks), strict=True):
        assert torch.equal(whole, rounded.float())


@pytest.mark.parametrize("name", NAMES)
def test_compiled(name: str) -> None:
    fuse: nn.Module = built(name).eval()
    maps, masks = pyramid(), some_masks()
    for ours, theirs in zip(
        torch.compile(fuse, backend="aot_eager", fullgraph=True)(maps, masks), fuse(maps, masks), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"affine": "channel"}, "affine='channel': allowed are 'none', 'position'"),
        ({"start": "zero"}, "start='zero': allowed are 'one', 'uniform'"),
        ({"norm": "layer"}, "norm='layer': allowed are 'batch', 'batch_statistics', 'none'"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        built("seg_pyramid", **options)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "seg_input"])
def test_a_backbone_with_too_few_stages(name: str) -> None:
    with pytest.raises(ValueError, match=r"needs a backbone with two maps or more, got channels=\(8,\)"):
        fusion.registry.resolve(name, channels=(8,), sizes=((4, 4),))


@pytest.mark.parametrize("name", [name for name in NAMES if built(name).uses_masks])
def test_masks_are_needed(name: str) -> None:
    fuse = built(name)
    with pytest.raises(ValueError, match="needs organ masks"):
        fuse(fuse.image(torch.rand(1, 3, 64, 64), None) if name == "seg_input" else pyramid())
