from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from thoraxlib import segmentation
from thoraxlib.registry import OptionError, UnknownNameError
from thoraxlib.segmentation.base import ORGANS, RULES, Segmenter, foreground

NAMES = segmentation.names()
SMALL: dict[str, dict[str, Any]] = {
    "unet": {"width": 4},
    "xrv_pspnet": {"size": 64},
    "lungs-small": {"classes": ORGANS, "pretrained": False},  # its weights are for two classes
}
LARGE = [name for name in NAMES if "resnet101" in name]  # resnet50's with more of the same blocks


def built(name: str, **options: Any) -> Segmenter:
    if name.startswith("xrv_"):
        pytest.importorskip("torchxrayvision", reason="it needs the extra [xrv]")
    return segmentation.build(name, **{**SMALL.get(name, {}), **options})


@pytest.mark.parametrize("name", NAMES)
def test_every_segmenter(name: str) -> None:
    with torch.device("meta") if name in LARGE else torch.device("cpu"):
        net, x = built(name, classes=("background", "lungs", "heart", "spine")), torch.rand(2, 3, 33, 50)
    assert net.classes == ("background", "lungs", "heart", "spine")
    assert net.in_chans == 3
    logits = net(x)
    assert logits.shape == (2, 4, 33, 50)
    logits.square().mean().backward()
    assert all(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize("name", [name for name in NAMES if name not in LARGE])
@torch.no_grad()
def test_evaluation(name: str) -> None:
    net, x = built(name).eval(), torch.rand(2, 3, 40, 33)
    logits = net(x)
    assert logits.shape == (2, len(net.classes), 40, 33)
    torch.testing.assert_close(net(x[1:]), logits[1:], rtol=1e-3, atol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(net(x).float(), logits, rtol=0.1, atol=0.1)
    turned = copy.deepcopy(net).to(memory_format=torch.channels_last)
    torch.testing.assert_close(turned(x.to(memory_format=torch.channels_last)), logits, rtol=1e-3, atol=1e-4)
    for rule in RULES:
        mask = foreground(logits, rule)
        assert mask.shape == (2, 1, 40, 33)
        assert ((mask >= 0) & (mask <= 1)).all()


def test_sizes_of_the_unet() -> None:
    net = built("unet").eval()
    for size in ((1, 1), (5, 90), (16, 16), (17, 31), (63, 64)):
        assert net(torch.rand(1, 3, *size)).shape == (1, 3, *size)
    cropped = built("unet", fit="crop").eval()
    cropped.load_state_dict(net.state_dict())
    x = torch.rand(1, 3, 48, 64)
    assert torch.equal(cropped(x), net(x))  # of whole multiples, the same
    assert cropped(torch.rand(1, 3, 50, 70)).shape == (1, 3, 48, 64)
    with pytest.raises(ValueError, match="images of 15 x 64 pixels are smaller than 16; use fit='pad'"):
        cropped(torch.rand(1, 3, 15, 64))


@pytest.mark.parametrize("depth", [1, 2, 4])
@pytest.mark.parametrize("norm", [False, True])
def test_shapes_of_the_unet(depth: int, norm: bool) -> None:
    net = built("unet", depth=depth, norm=norm, in_chans=1)
    assert net(torch.rand(1, 1, 21, 34)).shape == (1, 3, 21, 34)
    assert any(isinstance(part, nn.BatchNorm2d) for part in net.modules()) == norm
    assert net.middle_conv.second.weight.shape[0] == 4 * 2**depth


def test_the_padding_does_not_matter() -> None:
    """The centre of an image does not depend on the padding of its border."""
    net = built("unet", depth=1).eval()
    x = torch.rand(1, 3, 31, 31)
    whole = net(nn.functional.pad(x, (0, 1, 0, 1), mode="replicate"))
    torch.testing.assert_close(net(x), whole[..., :31, :31])


def test_the_unet_learns_a_disc() -> None:
    y, x = torch.meshgrid(torch.linspace(-1, 1, 32), torch.linspace(-1, 1, 32), indexing="ij")
    centres = torch.rand(8, 2) - 0.5
    disc = ((x - centres[:, :1, None]) ** 2 + (y - centres[:, 1:, None]) ** 2 < 0.2).long()
    images = (0.7 * disc[:, None] + 0.1 * torch.rand(8, 1, 32, 32)).expand(-1, 3, -1, -1)
    net = built("unet", classes=("background", "disc"), depth=2, norm=True)
    optimiser = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(20):
        loss = nn.functional.cross_entropy(net(images), disc)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    mask = foreground(net(images))[:, 0]
    assert 2 * (mask * disc).sum() / (mask.sum() + disc.sum()) > 0.9


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000), st.integers(2, 5), st.floats(0.01, 50))
def test_foreground(seed: int, classes: int, scale: float) -> None:
    logits = scale * torch.randn(2, classes, 4, 5, generator=torch.Generator().manual_seed(seed))
    hard, soft = foreground(logits), foreground(logits, "soft")
    best = logits.argmax(dim=1)
    assert torch.equal(hard[:, 0], (best > 0).float())
    torch.testing.assert_close(soft[:, 0], 1 - logits.softmax(dim=1)[:, 0], atol=1e-6, rtol=1e-5)
    assert ((soft >= 0) & (soft <= 1)).all()
    if classes == 2:
        assert torch.equal(soft > 0.5, hard > 0)
    # the order of the organs does not matter
    torch.testing.assert_close(foreground(logits[:, [0, *range(classes - 1, 0, -1)]], "soft"), soft)


def test_gradients_of_the_rules() -> None:
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    assert not foreground(logits, "hard").requires_grad
    foreground(logits, "soft").sum().backward()
    assert logits.grad is not None
    assert logits.grad.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_small_probabilities_survive_16_bits(dtype: torch.dtype) -> None:
    logits = torch.tensor([9.0, 0.0, 0.0]).view(1, 3, 1, 1).to(dtype)
    mask = foreground(logits, "soft")
    assert mask.dtype == dtype
    expected = 1 - logits.double().softmax(dim=1)[:, :1]
    torch.testing.assert_close(mask.double(), expected, rtol=0.01, atol=0)


@pytest.mark.parametrize(
    ("logits", "rule", "error", "message"),
    [
        (torch.zeros(1, 3, 4, 4), "round", ValueError, "rule='round': allowed are 'hard', 'soft'"),
        (torch.zeros(1, 1, 4, 4), "hard", ValueError, r"background and organs, got \(1, 1, 4, 4\)"),
        (torch.zeros(3, 4, 4), "hard", ValueError, r"logits must be \(N, M, H, W\)"),
        ({"out": torch.zeros(1, 3, 4, 4)}, "soft", TypeError, r"must give logits \(N, M, H, W\), got dict"),
    ],
)
def test_logits_that_cannot_be(logits: Any, rule: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        foreground(logits, rule)


@pytest.mark.parametrize("name", ["unet", "lraspp_mobilenet_v3_large"])
@pytest.mark.parametrize("classes", [("lungs",), (), ("background", "lungs", "lungs")])
def test_bad_classes(name: str, classes: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="the background and at least one organ, no name twice; got"):
        built(name, classes=classes)
    with pytest.raises(ValueError, match="no name twice"):
        Segmenter(classes, 3)


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("unet", {"width": 0}, ValueError, "width and depth must be at least 1, got 0 and 4"),
        ("unet", {"depth": 0}, ValueError, "got 4 and 0"),
        ("unet", {"fit": "resize"}, ValueError, "fit='resize': allowed are 'pad', 'crop'"),
        ("lraspp_mobilenet_v3_large", {"in_chans": 1}, ValueError, "takes 3 channels, got in_chans=1"),
        ("lraspp_mobilenet_v3_large", {"pretraind": True}, OptionError, "did you mean 'pretrained'"),
        ("unett", {}, UnknownNameError, "segmentation: unknown name 'unett'; did you mean 'unet'"),
    ],
)
def test_bad_options(name: str, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        built(name, **options)


def test_describe() -> None:
    for name in NAMES:
        card = segmentation.describe(name)
        assert name.removeprefix("xrv_").removeprefix("lungs_") in card.summary.lower()
        assert {"classes", "in_chans"} <= set(card.options)


class Threshold(Segmenter):
    """Bright pixels are lung."""

    def __init__(self, *, at: float = 0.5, in_chans: int = 3) -> None:
        super().__init__(("background", "lungs"), in_chans)
        self.at = at

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        bright = x.mean(dim=1, keepdim=True) - self.at
        return torch.cat([-bright, bright], dim=1)


def test_a_segmenter_of_one_s_own() -> None:
    net = segmentation.registry.resolve(Threshold(at=0.3))
    assert foreground(net(torch.full((1, 3, 4, 4), 0.4))).mean() == 1
    assert foreground(net(torch.full((1, 3, 4, 4), 0.2))).mean() == 0
