from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

from thoraxlib import backbones
from thoraxlib.input_spec import IMAGENET_MEAN, IMAGENET_STD, InputSpec
from thoraxlib.registry import OptionError, UnknownNameError
from thoraxlib.weights import download

# One small member of each family that the documented models or the issue name: (name, input size, options).
FAMILIES = [
    ("alexnet", 96, {}),
    ("googlenet", 64, {}),
    ("vgg11_bn", 64, {}),
    ("resnet18", 64, {}),
    ("resnest14d", 64, {}),
    ("densenet121", 64, {}),
    ("efficientnet_b0", 64, {}),
    ("convnext_atto", 64, {}),
    ("inception_v3", 128, {}),
    ("mobilenetv3_small_050", 64, {}),
    ("regnetx_002", 64, {}),
    ("vit_tiny_patch16_224", 64, {"img_size": 64}),
    ("deit_tiny_patch16_224", 96, {"img_size": 96}),
    ("swin_tiny_patch4_window7_224", 224, {}),
    ("swin_tiny_patch4_window7_224", 112, {"img_size": 112}),
    ("swinv2_cr_tiny_ns_224", 64, {"img_size": 64}),
    ("mambaout_femto", 64, {}),
    ("pvt_v2_b0", 64, {}),
    ("hiera_tiny_224", 224, {}),
]


CASES = [
    pytest.param(name, size, options, in_chans, id=f"{name}-{size}px-{in_chans}ch")
    for name, size, options in FAMILIES
    for in_chans in ((1, 3, 4) if name in {"resnet18", "alexnet", "googlenet", "vit_tiny_patch16_224"} else (1, 3))
]


@pytest.mark.parametrize(("name", "size", "options", "in_chans"), CASES)
def test_pyramids(name: str, size: int, options: dict[str, int], in_chans: int) -> None:
    backbone = backbones.build(name, in_chans=in_chans, **options).eval()
    with torch.inference_mode():
        maps = backbone(torch.randn(2, in_chans, size, size))
    assert len(maps) == len(backbone.channels) == len(backbone.strides)
    assert [m.shape[1] for m in maps] == list(backbone.channels)
    assert all(m.shape[0] == 2 and m.isfinite().all() for m in maps)
    sides = [m.shape[2] for m in maps]
    assert sides == sorted(sides, reverse=True)
    assert sides[-1] == pytest.approx(size / backbone.strides[-1], abs=2)  # Inception does not pad


def test_every_timm_architecture_has_a_name() -> None:
    assert set(timm.list_models()) <= set(backbones.names())
    assert "resnet50.a1_in1k" in backbones.registry  # with the tag of its weights


def test_densenet_with_and_without_its_last_relu() -> None:
    torch.manual_seed(0)
    with_relu = backbones.build("densenet121").eval()
    without = backbones.build("densenet121", final_act=False).eval()
    without.load_state_dict(with_relu.state_dict())
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        a, b = with_relu(x)[-1], without(x)[-1]
    assert b.min() < 0
    torch.testing.assert_close(a, b.relu())
    with pytest.raises(OptionError, match="resnet18.*'final_act'"):
        backbones.build("resnet18", final_act=False)


@pytest.mark.parametrize("output_stride", [4, 8, 16, 32])
def test_densenet_output_stride_keeps_weights_and_centre(output_stride: int) -> None:
    torch.manual_seed(0)
    plain = backbones.build("densenet121").eval()
    finer = backbones.build("densenet121", output_stride=output_stride).eval()
    finer.load_state_dict(plain.state_dict())
    assert finer.strides == tuple(min(stride, output_stride) for stride in plain.strides)
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        coarse, fine = plain(x), finer(x)
    assert fine[-1].shape[2] == 64 // output_stride
    torch.testing.assert_close(fine[1], coarse[1])
    kernels = [
        m
        for m in backbones.build("densenet121", output_stride=output_stride, dilated=False).modules()
        if hasattr(m, "dilation")
    ]
    assert {m.dilation for m in kernels} <= {1, (1, 1)}
    with pytest.raises(ValueError, match="output_stride=2: allowed are"):
        backbones.build("densenet121", output_stride=2)


def test_alexnet_and_googlenet_are_torchvisions() -> None:
    from torchvision import models

    x = torch.randn(1, 3, 96, 96)
    for name, theirs in (
        ("alexnet", models.alexnet()),
        ("googlenet", models.googlenet(init_weights=True, aux_logits=False)),
    ):
        ours = backbones.build(name).eval()
        pairs = ours.checkpoint_keys(theirs.state_dict())
        assert len(pairs) == len(ours.state_dict())
        ours.load_state_dict({own: theirs.state_dict()[key] for own, key in pairs.items()})
        theirs.eval()
        if name == "alexnet":
            expected = theirs.features(x)
        else:
            grabbed = []
            theirs.inception5b.register_forward_hook(lambda _m, _i, out, to=grabbed: to.append(out))
            theirs(x)
            expected = grabbed[0]
        torch.testing.assert_close(ours(x)[-1], expected)


def test_one_channel_weights_are_the_sum_over_colours() -> None:
    from timm.models import adapt_input_conv

    conv = torch.randn(4, 3, 3, 3)
    torch.testing.assert_close(adapt_input_conv(1, conv), conv.sum(1, keepdim=True))


@pytest.mark.parametrize("bad", [0, -1, 1.5, "3"])
@pytest.mark.parametrize("name", ["resnet18", "alexnet"])
def test_bad_in_chans(name: str, bad: object) -> None:
    with pytest.raises(ValueError, match=f"in_chans must be a positive int, got {bad!r}"):
        backbones.build(name, in_chans=bad)


def test_bad_options() -> None:
    with pytest.raises(OptionError, match=r"resnet18.*unexpected keyword argument 'nonsense'"):
        backbones.build("resnet18", nonsense=1)
    with pytest.raises(OptionError, match="'alexnet' has no option 'drop_rate'"):
        backbones.build("alexnet", drop_rate=0.1)
    with pytest.raises(ValueError, match="pretrained=True needs in_chans=3"):
        backbones.build("googlenet", pretrained=True, in_chans=1)


def test_pretrained_offline_is_a_clear_error(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(RuntimeError, match="pretrained weights of timm model 'resnet18' could not be loaded"):
        backbones.build("resnet18", pretrained=True)


def test_check_backbone_names_what_is_missing() -> None:
    with pytest.raises(TypeError, match="needs the attribute 'channels'"):
        backbones.check_backbone(nn.Conv2d(3, 4, 3))
    with pytest.raises(TypeError, match="got int"):
        backbones.check_backbone(3)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["resnet18", "alexnet", "densenet121"])
def test_gradients_reach_the_first_layer(name: str) -> None:
    backbone = backbones.build(name)
    x = torch.randn(2, 3, 96, 96, requires_grad=True)
    backbone(x)[-1].sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0
    assert next(backbone.parameters()).grad is not None


def test_efficientnet_with_its_last_convolution() -> None:
    whole = timm.create_model("tf_efficientnet_b0").eval()
    backbone = backbones.build("tf_efficientnet_b0", conv_head=True).eval()
    state = whole.state_dict()
    pairs = backbone.checkpoint_keys(state)
    assert set(pairs) == set(backbone.state_dict())
    backbone.load_state_dict({own: state[theirs] for own, theirs in pairs.items()})
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(backbone(x)[-1], whole.forward_features(x))
    assert backbone.channels[-1] == 1280


def test_x_ray_custom() -> None:
    backbone = backbones.build("x_ray_custom", in_chans=1).eval()
    x = torch.randn(2, 1, 128, 128, requires_grad=True)
    maps = backbone(x)
    assert [tuple(m.shape[1:]) for m in maps] == [(15, 32, 32), (45, 16, 16), (90, 8, 8), (180, 4, 4), (360, 2, 2)]
    maps[-1].sum().backward()
    assert all(p.grad is not None for p in backbone.parameters())


@pytest.mark.parametrize(("name", "count"), [("van_b0", 3_848_800), ("van_b1", 13_348_800), ("van_b2", 26_065_472)])
def test_van(name: str, count: int) -> None:
    backbone = backbones.build(name).eval()
    assert sum(p.numel() for p in backbone.parameters()) == count
    with torch.inference_mode():
        maps = backbone(torch.randn(1, 3, 50, 70))
    assert [m.shape[1] for m in maps] == list(backbone.channels)
    assert [tuple(m.shape[2:]) for m in maps] == [(13, 18), (7, 9), (4, 5), (2, 3)]


def test_van_weights_come_from_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub

    published = backbones.build("van_b0")
    path = tmp_path / "van_tiny_754.pth.tar"
    head = {"head.weight": torch.zeros(1000, 256), "head.bias": torch.zeros(1000)}
    torch.save({"state_dict": {**published.state_dict(), **head}}, path)
    asked: list[tuple[str, str, str]] = []

    def given(repository: str, file: str, *, revision: str) -> str:
        asked.append((repository, file, revision))
        return str(path)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", given)
    with pytest.raises(RuntimeError, match=r"van-b0-imagenet: .* has the SHA-256 .*, the published file has 058bda07"):
        backbones.build("van_b0", pretrained=True)
    assert not path.exists()  # another file than the published one does not stay in the cache
    torch.save({"state_dict": {**published.state_dict(), **head}}, path)
    monkeypatch.setattr(download, "verify", lambda *_: None)
    loaded = backbones.build("van_b0", pretrained=True)
    pinned = "b13047f70a3aa1706d32ea50230f631777fb4b50"
    assert asked[-1] == ("Visual-Attention-Network/VAN-Tiny-original", "van_tiny_754.pth.tar", pinned)
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), published.parameters(), strict=True))
    grey = backbones.build("van_b0", pretrained=True, in_chans=1)
    torch.testing.assert_close(
        grey.patch_embed1.proj.weight, published.patch_embed1.proj.weight.sum(dim=1, keepdim=True)
    )
    with pytest.raises(ValueError, match="van_b4: no published weights; .*van-b3-imagenet"):
        backbones.build("van_b4", pretrained=True)

    def offline(*where: str, revision: str) -> str:
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    with pytest.raises(RuntimeError, match="pretrained weights of van_b0 could not be downloaded"):
        backbones.build("van_b0", pretrained=True)


@pytest.mark.parametrize(
    ("name", "size", "mean", "std"),
    [
        ("resnet50", 224, IMAGENET_MEAN, IMAGENET_STD),
        ("resnet18.a1_in1k", 224, IMAGENET_MEAN, IMAGENET_STD),
        ("vit_base_patch14_dinov2.lvd142m", 518, IMAGENET_MEAN, IMAGENET_STD),
        ("tf_efficientnet_lite0", 224, (0.5,) * 3, (0.5,) * 3),
        ({"name": "vit_tiny_patch16_224", "img_size": 96}, 96, (0.5,) * 3, (0.5,) * 3),
        ("inception_v3.tf_in1k", 299, (0.5,) * 3, (0.5,) * 3),
        ("van_b0", 224, (0.5,) * 3, (0.5,) * 3),
        ("alexnet", 224, IMAGENET_MEAN, IMAGENET_STD),
        ("x_ray_custom", 224, IMAGENET_MEAN, IMAGENET_STD),
    ],
)
def test_default_input(name: Any, size: int, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    assert backbones.default_input(name) == InputSpec(size=size, mean=mean, std=std)  # type: ignore[arg-type]
    grey = backbones.default_input(name, in_chans=1)
    assert grey.channels == 1
    assert grey.mean == (sum(mean) / 3,)


def test_default_input_of_ready_backbones() -> None:
    ready = backbones.build("tf_efficientnet_lite0", in_chans=1)
    assert backbones.default_input(ready) == InputSpec(channels=1, mean=(0.5,), std=(0.5,))
    own = nn.Identity()
    assert backbones.default_input(own, in_chans=1) == InputSpec.imagenet(1)  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match="did you mean 'resnet18'"):
        backbones.default_input("resnet1")


def test_every_input_that_timm_records_is_one() -> None:
    for name in timm.list_models(pretrained=True):
        assert backbones.default_input(name).channels == 3
