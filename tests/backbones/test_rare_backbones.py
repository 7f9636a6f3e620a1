from __future__ import annotations

import pytest
import torch
from torch import nn

from thoraxlib import backbones, heads
from thoraxlib.backbones.vanillanet import VanillaNet

COUNTS = {  # with its classifier of 14 labels
    "vanillanet_5": 17_286_396,
    "vanillanet_6": 51_074_300,
    "vanillanet_7": 51_627_772,
    "vanillanet_8": 60_133_116,
    "vanillanet_9": 68_638_460,
    "vanillanet_10": 77_143_804,
    "vanillanet_11": 85_649_148,
    "vanillanet_12": 94_154_492,
    "vanillanet_13": 102_659_836,
    "vanillanet_13_x1_5": 229_880_316,
    "vanillanet_13_x1_5_ada_pool": 229_880_316,
}


@pytest.mark.parametrize("name", COUNTS)
def test_vanillanets(name: str) -> None:
    with torch.device("meta"):
        backbone = backbones.build(name).eval()
        head = heads.build("vanilla", in_channels=backbone.channels[-1], num_labels=14)
        maps = backbone(torch.empty(1, 3, 320, 320))
    assert sum(p.numel() for part in (backbone, head) for p in part.parameters()) == COUNTS[name]
    assert [m.shape[1] for m in maps] == list(backbone.channels)
    assert [320 // m.shape[2] for m in maps] == list(backbone.strides) == [4, 8, 16, 32]
    # the number in the name: one stem, the stages, one classifier
    assert len(backbone.stages) + 2 == int(name.split("_")[1])


def test_names() -> None:
    assert backbones.names("vanillanet*") == list(COUNTS)


def test_ada_pool_fixes_the_sizes_of_the_maps() -> None:
    with torch.device("meta"):
        backbone = backbones.build("vanillanet_13_x1_5_ada_pool")
        sizes = [tuple(m.shape[2:]) for m in backbone(torch.empty(2, 3, 224, 256))]
    assert sizes == [(56, 64), (40, 40), (20, 20), (10, 10)]


def randomised(**options: object) -> VanillaNet:
    net = VanillaNet((8, 8, 16, 24), (1, 2, 2), **options)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias)
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
        elif isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    return net


@pytest.mark.parametrize("options", [{}, {"in_chans": 1}, {"pool_sizes": (5, 3)}])
@torch.inference_mode()
def test_fused_is_the_same(options: dict[str, object]) -> None:
    net = randomised(**options).eval()
    x = torch.randn(2, net.in_chans, 48, 32)
    expected, count = net(x), sum(p.numel() for p in net.parameters())
    assert net.fuse() is net
    for ours, theirs in zip(net(x), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in net.modules())
    assert sum(p.numel() for p in net.parameters()) < count
    with pytest.raises(ValueError, match="fused=True"):
        net.fuse()


def test_the_slope_is_used_and_can_be_changed() -> None:
    net = randomised(activation_slope=0.0).eval()
    x = torch.randn(2, 3, 32, 32)
    bent = net(x)
    expected = net.stem2(net.stem1(x).relu())
    first = net.stages[0]
    torch.testing.assert_close(bent[0], first.act(first.pool(first.conv2(first.conv1(expected).relu()))))
    with pytest.raises(ValueError, match=r"got training=False, activation_slope=0.0, fused=False"):
        net.fuse()
    net.activation_slope = 1
    assert not torch.allclose(net(x)[-1], bent[-1])
    with pytest.raises(ValueError, match="got training=True"):
        net.train().fuse()


def test_gradients_reach_everything() -> None:
    for net in (randomised(activation_slope=0.5).train(), backbones.build("dense_van").train()):
        x = torch.randn(2, 3, 16, 16, requires_grad=True)
        (net(x)[-1] * torch.randn(1)).square().sum().backward()
        assert x.grad is not None
        assert x.grad.abs().sum() > 0
        assert all(p.grad is not None for p in net.parameters())


def test_dense_van() -> None:
    backbone = backbones.build("dense_van", in_chans=1).eval()
    with torch.inference_mode():
        maps = backbone(torch.randn(1, 1, 9, 14))
    assert [tuple(m.shape) for m in maps] == [(1, width, 9, 14) for width in backbone.channels]
    assert sum(p.numel() for p in backbone.parameters()) == 17_489_006 - 385 * 14 - 2 * 25 * 32


def test_small_ones() -> None:
    """Narrower and shallower, by options."""
    asked = [
        ("dense_van", {"growth_rate": 2, "depths": (1, 1, 1, 1)}, (18, 20, 22, 24)),
        ("vanillanet_5", {"widths": (16, 32, 64, 128)}, (16, 32, 64, 128)),
        ("van_b0", {"widths": (8, 16, 24, 32), "depths": (1, 1, 2, 1)}, (8, 16, 24, 32)),
    ]
    for name, options, channels in asked:
        backbone = backbones.build(name, **options).eval()
        assert tuple(m.shape[1] for m in backbone(torch.randn(1, 3, 32, 32))) == backbone.channels == channels
    assert len(backbone.block3) == 2
    with pytest.raises(ValueError, match=r"growth_rate=0, depths=\(3, 3, 5, 2\): at least 1, and four depths"):
        backbones.build("dense_van", growth_rate=0)
    with pytest.raises(ValueError, match="widths must be one more than strides"):
        backbones.build("vanillanet_6", widths=(16, 32))


def test_errors() -> None:
    with pytest.raises(ValueError, match="widths must be one more than strides"):
        VanillaNet((8, 16), (1, 2))
    with pytest.raises(ValueError, match=r"pool_sizes must be 1, one for each stride above 1, got \(4, 2\)"):
        VanillaNet((8, 16, 16), (1, 2), pool_sizes=(4, 2))
    with pytest.raises(ValueError, match="VanillaNet: pretrained=True needs published="):
        VanillaNet((8, 16), (2,), pretrained=True)
    with pytest.raises(ValueError, match="dense_van: no weights are published"):
        backbones.build("dense_van", pretrained=True)
    with pytest.raises(ValueError, match=r"widths=\(8, 16\), depths=.* must have four numbers each"):
        backbones.build("van_b0", widths=(8, 16))
    with pytest.raises(ValueError, match=r"van_b0: the published weights have widths \(32, 64, 160, 256\) and"):
        backbones.build("van_b0", widths=(32, 64, 128, 256), pretrained=True)
    with pytest.raises(ValueError, match=r"depths \(3, 3, 5, 2\), got \(32, 64, 160, 256\) and \(1, 1, 1, 1\)"):
        backbones.build("van_b0", depths=(1, 1, 1, 1), pretrained=True)
