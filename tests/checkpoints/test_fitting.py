"""Files of backbones: DINOv2's names and those of transformers, other sizes and channels, no head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

import thoraxlib
from thoraxlib import backbones

NAMES = ("vit_small_patch14_dinov2", "vit_small_patch14_reg4_dinov2")
SMALL = {"embed_dim": 48, "num_heads": 3, "depth": 3, "img_size": 70}
LABELS = ["Mass", "Edema"]


def network(name: str, **options: Any) -> Any:
    torch.manual_seed(0)
    net = timm.create_model(name, num_classes=0, **{**SMALL, **options}).eval()
    with torch.no_grad():
        for value in net.parameters():
            value.copy_(torch.rand_like(value) + 0.5 if value.ndim == 1 else value + 0.05 * torch.randn_like(value))
    return net


def own_names(net: Any) -> dict[str, Tensor]:
    """The names of DINOv2's own code: a mask token; with registers, a position for the class token."""
    state = {**net.state_dict(), "mask_token": torch.randn(1, 48)}
    if "reg_token" in state:
        position = torch.randn(1, 1, 48)
        state["register_tokens"] = state.pop("reg_token")
        state["pos_embed"] = torch.cat([position, state["pos_embed"]], dim=1)
        state["cls_token"] = state["cls_token"] - position
    return state


def transformers_names(net: Any) -> dict[str, Tensor]:
    """The names of transformers, by a table; query, key and value are the thirds of timm's."""
    single = {
        **{"cls_token": "embeddings.cls_token", "mask_token": "embeddings.mask_token"},
        **{"register_tokens": "embeddings.register_tokens", "pos_embed": "embeddings.position_embeddings"},
        "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
        "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
        **{"norm.weight": "layernorm.weight", "norm.bias": "layernorm.bias"},
    }
    inside = {
        "attn.proj": "attention.output.dense",
        "ls1.gamma": "layer_scale1.lambda1",
        "ls2.gamma": "layer_scale2.lambda1",
    }
    theirs: dict[str, Tensor] = {}
    for key, value in own_names(net).items():
        if key in single:
            theirs[single[key]] = value
            continue
        _, number, rest = key.split(".", 2)
        layer = f"encoder.layer.{number}."
        module, _, leaf = rest.rpartition(".")
        if module == "attn.qkv":
            for index, part in enumerate(("query", "key", "value")):
                theirs[f"{layer}attention.attention.{part}.{leaf}"] = value[48 * index : 48 * (index + 1)].clone()
        else:
            theirs[layer + inside.get(rest, f"{inside.get(module, module)}.{leaf}")] = value
    return theirs


def maps(net: Any, x: Tensor) -> Tensor:
    tokens: Tensor = net.forward_features(x)[:, net.num_prefix_tokens :]
    return tokens.transpose(1, 2).unflatten(2, (x.shape[2] // 14, x.shape[3] // 14))


@pytest.mark.parametrize("prefix", ["", "dinov2.", "module.model.", "vision_tower.backbone."])
@pytest.mark.parametrize("named", [own_names, transformers_names])
@pytest.mark.parametrize("name", NAMES)
def test_dinov2_of_its_own_code_and_of_transformers(name: str, named: Any, prefix: str, tmp_path: Path) -> None:
    if named is own_names and "." in prefix.removeprefix("module.model."):
        pytest.skip("names that the own code does not have")
    net = network(name)
    save_file({f"{prefix}{key}": value.contiguous() for key, value in named(net).items()}, tmp_path / "f.safetensors")
    backbone = backbones.build(name, norm=True, **SMALL).eval()
    wanted = "plain" if named is own_names else "transformers_dinov2"
    assert thoraxlib.load_checkpoint(backbone, tmp_path / "f.safetensors") == wanted
    x = torch.randn(2, 3, 70, 70)
    with torch.no_grad():
        torch.testing.assert_close(backbone(x)[-1], maps(net, x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("named", [own_names, transformers_names])
def test_whole_models_take_the_backbone_alone(named: Any, tmp_path: Path) -> None:
    net = network(NAMES[1])
    torch.save(named(net), tmp_path / "f.pth")
    options = {key: value for key, value in SMALL.items() if key != "img_size"}
    spec = {"size": 70}
    with_heads = {
        "classifier": {"backbone": {"name": NAMES[1], "norm": True, **options}},
        "timm": {"backbone": NAMES[1], **options},
    }
    x = torch.randn(1, 3, 70, 70)
    for kind, own in with_heads.items():
        model = thoraxlib.build(kind, labels=LABELS, input_spec=spec, **own).eval()
        head = {key: value.clone() for key, value in model.state_dict().items() if "head" in key}
        with pytest.raises(ValueError, match="backbone_only=True"):
            thoraxlib.load_checkpoint(model, tmp_path / "f.pth")
        thoraxlib.load_checkpoint(model, tmp_path / "f.pth", backbone_only=True)
        assert all(torch.equal(model.state_dict()[key], value) for key, value in head.items())
        with torch.no_grad():
            found = model.forward_features(x)
            expected = maps(net, x) if kind == "classifier" else net.forward_features(x)
            torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", [*NAMES, "eva02_tiny_patch14_224"])
def test_positions_are_resampled_as_timm_does(name: str, tmp_path: Path) -> None:
    small = network(name)
    torch.save(small.state_dict(), tmp_path / "f.pth")
    theirs = network(name, img_size=112)
    module = timm.models.eva if name.startswith("eva") else timm.models.vision_transformer
    theirs.load_state_dict(module.checkpoint_filter_fn(small.state_dict(), theirs))
    backbone = backbones.build(name, **{**SMALL, "img_size": 112}).eval()
    thoraxlib.load_checkpoint(backbone, tmp_path / "f.pth")
    x = torch.randn(1, 3, 112, 112)
    with torch.no_grad():
        expected = theirs.forward_intermediates(x, indices=1, intermediates_only=True)[0]
        torch.testing.assert_close(backbone(x)[-1], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("kind", "name"), [("classifier", "resnet18"), ("timm", "resnet18"), ("timm", "densenet121")])
def test_weights_for_colours_in_a_model_for_grey_images(kind: str, name: str, tmp_path: Path) -> None:
    theirs = timm.create_model(name, num_classes=2).eval()
    torch.save(theirs.state_dict(), tmp_path / "f.pth")
    model = thoraxlib.build(kind, backbone=name, labels=LABELS, in_chans=1).eval()
    thoraxlib.load_checkpoint(model, tmp_path / "f.pth", backbone_only=True)
    x = torch.randn(1, 1, 64, 64)
    with torch.no_grad():  # the sum over the colours is the answer to a grey image in three channels
        expected = theirs.forward_features(x.expand(-1, 3, -1, -1))
        torch.testing.assert_close(model.forward_features(x), expected, rtol=1e-4, atol=1e-5)


def test_a_file_of_another_network_is_said_to_be_one(tmp_path: Path) -> None:
    torch.save(network(NAMES[0]).state_dict(), tmp_path / "f.pth")
    with pytest.raises(ValueError, match="not recognised"):
        thoraxlib.load_checkpoint(backbones.build("resnet18"), tmp_path / "f.pth")
    torch.save(transformers_names(network(NAMES[0], depth=4)), tmp_path / "g.pth")
    with pytest.warns(UserWarning, match=r"entries of the checkpoint are not loaded: blocks\.3\.attn"):
        thoraxlib.load_checkpoint(backbones.build(NAMES[0], **SMALL), tmp_path / "g.pth")
