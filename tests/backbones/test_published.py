"""Backbones with published weights: each card's network holds a file of the published names."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

import thoraxlib
from thoraxlib import backbones, cams, weights
from thoraxlib.backbones import PublishedSource
from thoraxlib.input_spec import InputSpec
from thoraxlib.weights import download

State = dict[str, Tensor]
LABELS = ["Mass", "Edema"]
SMALL = {"embed_dim": 48, "num_heads": 3, "depth": 2}


def renamed(state: State, *rules: tuple[str, str]) -> State:
    for pattern, replacement in rules:
        state = {re.sub(pattern, replacement, key): value for key, value in state.items()}
    return state


def dinov2(net: nn.Module) -> State:
    """DINOv2's own names: those of timm, and a mask token."""
    return {**net.state_dict(), "mask_token": torch.randn(1, 48)}


def transformers(net: nn.Module) -> State:
    """The names of transformers, written from its documentation, entry by entry."""
    own, theirs = net.state_dict(), {}
    positions = own["pos_embed"]
    if "reg_token" in own:  # timm adds the class token's position to the token itself
        theirs["embeddings.register_tokens"] = own["reg_token"]
        positions = torch.cat([torch.full((1, 1, 48), 0.25), positions], dim=1)
        theirs["embeddings.cls_token"] = own["cls_token"] - 0.25
    else:
        theirs["embeddings.cls_token"] = own["cls_token"]
    theirs |= {"embeddings.position_embeddings": positions, "embeddings.mask_token": torch.randn(1, 48)}
    for leaf in ("weight", "bias"):
        theirs[f"embeddings.patch_embeddings.projection.{leaf}"] = own[f"patch_embed.proj.{leaf}"]
        theirs[f"layernorm.{leaf}"] = own[f"norm.{leaf}"]
        for k in range(2):
            block, layer = f"blocks.{k}.", f"encoder.layer.{k}."
            for part, value in zip(("query", "key", "value"), own[f"{block}attn.qkv.{leaf}"].chunk(3), strict=True):
                theirs[f"{layer}attention.attention.{part}.{leaf}"] = value.clone()
            theirs[f"{layer}attention.output.dense.{leaf}"] = own[f"{block}attn.proj.{leaf}"]
            for name in ("norm1", "norm2", "mlp.fc1", "mlp.fc2"):
                theirs[f"{layer}{name}.{leaf}"] = own[f"{block}{name}.{leaf}"]
            for n in (1, 2):
                theirs[f"{layer}layer_scale{n}.lambda1"] = own[f"{block}ls{n}.gamma"]
    return theirs


def eva_x(net: nn.Module) -> State:
    """EVA-02's names, with the entries that only its training uses."""
    pretext = {
        "mask_token": torch.randn(1, 1, 48),
        "lm_head.weight": torch.randn(9, 48),
        "lm_head.bias": torch.randn(9),
    }
    rope = {"rope.freqs_cos": torch.randn(196, 32), "blocks.0.attn.rope.freqs_sin": torch.randn(196, 32)}
    rules = [
        *((r"\.mlp\.norm\.", ".mlp.ffn_ln."), (r"\.mlp\.fc1\.", ".mlp.w12."), (r"\.mlp\.fc1_g\.", ".mlp.w1.")),
        *(
            (r"\.mlp\.fc1_x\.", ".mlp.w2."),
            (r"\.mlp\.fc2\.", ".mlp.w3."),
            (r"\.attn\.([qv])_proj\.bias", r".attn.\1_bias"),
        ),
    ]
    return {**renamed(net.state_dict(), *rules), **pretext, **rope}


def biovil(net: nn.Module) -> State:
    projector = {"projector.model.0.weight": torch.randn(4, 4), "encoder.encoder.fc.weight": torch.randn(5, 2048)}
    return {f"encoder.{key}": value for key, value in renamed(net.state_dict(), (r"^", "encoder.")).items()} | projector


def tokens(net: Any, x: Tensor) -> Tensor:
    """Map of the tokens after the last norm."""
    side = x.shape[-1] // net.patch_embed.patch_size[0]
    features: Tensor = net.forward_features(x)[:, net.num_prefix_tokens :]
    return features.transpose(1, 2).unflatten(2, (side, side))


def convolutional(net: Any, x: Tensor) -> Tensor:
    features: Tensor = net.forward_features(x)
    return features


def resnet(net: Any, x: Tensor) -> Tensor:
    features: Tensor = net(x)
    return features


def torchvision_resnet(_: str, **__: Any) -> nn.Module:
    net = torchvision.models.resnet50()
    net.avgpool, net.fc = nn.Identity(), nn.Flatten(1)
    return net


EVA = {"patch_size": 16, "ref_feat_shape": (14, 14), "global_pool": "token", **SMALL}
FILES: dict[str, tuple[Callable[[nn.Module], State], dict[str, Any]]] = {
    "rad-dino": (dinov2, SMALL),
    "rad-dino-maira-2": (transformers, SMALL),
    "dinov2-base-xray-224": (transformers, {**SMALL, "img_size": 224}),
    "cxformer-small": (transformers, SMALL),
    "cxformer-base": (transformers, SMALL),
    "eva-x-tiny": (eva_x, EVA),
    "eva-x-small": (eva_x, EVA),
    "eva-x-base": (eva_x, EVA),
    "medical-mae-vit-small": (nn.Module.state_dict, SMALL),
    "medical-mae-vit-base": (nn.Module.state_dict, SMALL),
    "medical-mae-densenet121": (nn.Module.state_dict, {}),
    "mocov2-densenet121": (nn.Module.state_dict, {}),
    "biovil-resnet50": (biovil, {}),
}


def randomised(net: nn.Module) -> nn.Module:
    with torch.no_grad():
        for value in net.state_dict().values():
            if value.is_floating_point():
                value.copy_(torch.rand_like(value) + 0.5 if value.ndim == 1 else value + 0.02 * torch.randn_like(value))
    return net.eval()


def published(name: str, folder: Path) -> nn.Module:
    """Write the file of a card, of a network with random weights, and return the network."""
    torch.manual_seed(0)
    card, (inverted, options) = weights.describe(name), FILES[name]
    resnet50 = name.startswith("biovil")
    make: Callable[..., nn.Module] = torchvision_resnet if resnet50 else timm.create_model
    net = randomised(make(card.network["name"], **({} if resnet50 else {"num_classes": 0, **options})))
    state = {key: value.contiguous() for key, value in inverted(net).items()}
    if card.file_name.endswith(".safetensors"):
        save_file(state, folder / card.file_name)
    else:
        torch.save({"module": state}, folder / card.file_name)
    return net


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(download.FOLDER, str(tmp_path))
    monkeypatch.setattr(download, "verify", lambda *_: None)  # made-up files
    return tmp_path


def small(name: str) -> dict[str, Any]:
    """Options of the backbone that make it as small as the file's network."""
    options = {key: value for key, value in FILES[name][1].items() if key in SMALL}
    return {**options, "out_indices": 2} if options else {}


@pytest.mark.parametrize("name", FILES)
def test_a_card_is_a_backbone_that_holds_its_file(name: str, given: Path) -> None:
    net = published(name, given)
    card = weights.describe(name)
    model = thoraxlib.build("classifier", backbone={"name": name, **small(name)}, labels=LABELS, pretrained=True).eval()
    assert model.input_spec == backbones.default_input(name) == InputSpec(**card.input)
    side = model.input_spec.size[0] if small(name) else 64
    x = torch.randn(1, 3, side, side)
    reference = tokens if small(name) else resnet if name.startswith("biovil") else convolutional
    with torch.no_grad():
        expected = reference(net, x)
        maps = model.backbone(x)
    torch.testing.assert_close(
        maps[-1].flatten(), expected.flatten(), rtol=1e-4, atol=1e-6 * float(expected.abs().max())
    )
    assert [m.shape[1] for m in maps] == list(model.backbone.channels)
    heat = cams.build("gradcam", model)(x)
    assert heat.shape == (1, 2, *maps[-1].shape[2:])
    assert heat.abs().max() > 0


def test_every_card_with_a_network_is_tested_and_named() -> None:
    assert set(PublishedSource().names()) == set(FILES)
    assert set(FILES) <= set(backbones.names())
    card = backbones.describe("rad-dino")
    assert card.summary == weights.describe("rad-dino").summary
    assert {"pretrained", "in_chans", "img_size"} <= set(card.options)


@pytest.mark.parametrize(
    ("name", "megabytes"),
    [
        *(("rad-dino", 346), ("rad-dino-maira-2", 346), ("dinov2-base-xray-224", 343), ("biovil-resnet50", 94)),
        *(("medical-mae-vit-small", 86.7), ("medical-mae-vit-base", 343), ("medical-mae-densenet121", 28.2)),
    ],
)
def test_a_network_has_the_size_of_its_file(name: str, megabytes: float) -> None:
    """Sizes as the Hub lists them; BioViL's file holds a projector, too (103.7 MB)."""
    with torch.device("meta"):
        backbone = backbones.build(name)
    assert sum(4e-6 * value.numel() for value in backbone.state_dict().values()) == pytest.approx(megabytes, rel=0.01)


def test_other_sizes_and_channels(given: Path) -> None:
    """As timm loads the same weights: positions are resampled, the first layer is summed over the colours."""
    net = published("rad-dino", given)
    theirs = timm.create_model("vit_base_patch14_dinov2", num_classes=0, img_size=112, in_chans=1, **SMALL).eval()
    state = timm.models.vision_transformer.checkpoint_filter_fn(net.state_dict(), theirs)
    state["patch_embed.proj.weight"] = state["patch_embed.proj.weight"].sum(dim=1, keepdim=True)
    theirs.load_state_dict(state)
    ours = backbones.build("rad-dino", pretrained=True, in_chans=1, img_size=112, **small("rad-dino")).eval()
    assert ours.input_spec.size == (112, 112)
    assert ours.input_spec.mean == pytest.approx((0.5307,))
    x = torch.randn(2, 1, 112, 112)
    with torch.no_grad():
        torch.testing.assert_close(ours(x)[-1], tokens(theirs, x), rtol=1e-4, atol=1e-5)


def test_a_saved_model_needs_no_weights_of_the_catalogue(
    given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published("eva-x-tiny", given)
    backbone = {"name": "eva-x-tiny", **small("eva-x-tiny")}
    model = thoraxlib.build("classifier", backbone=backbone, labels=LABELS, pretrained=True).eval()
    thoraxlib.save_pretrained(model, tmp_path / "saved")
    monkeypatch.setattr(weights, "fetch", None)
    loaded = thoraxlib.load_pretrained(tmp_path / "saved")
    x = torch.randn(1, 3, 224, 224)
    assert torch.equal(loaded(x), model(x))
    assert loaded.input_spec == model.input_spec


def test_errors(given: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"rad-dino.*backbones\.build\('rad-dino', pretrained=True\)"):
        thoraxlib.load_pretrained("rad-dino")
    torch.save({"a": torch.zeros(1)}, given / weights.describe("eva-x-tiny").file_name)
    with pytest.raises(ValueError, match="layout is not recognised"):
        backbones.build("eva-x-tiny", pretrained=True)

    def offline(name: str) -> Path:
        raise ConnectionError("no network")

    monkeypatch.setattr(weights, "fetch", offline)
    with pytest.raises(RuntimeError, match="pretrained weights of eva-x-tiny could not be downloaded.*no network"):
        backbones.build("eva-x-tiny", pretrained=True)


def test_vanillanet_loads_its_published_file(given: Path) -> None:
    torch.manual_seed(0)
    theirs = backbones.build("vanillanet_5").eval()
    head = {
        "cls1.2.weight": torch.zeros(8, 4, 1, 1),
        "cls1.3.weight": torch.zeros(8),
        "cls2.0.weight": torch.zeros(5, 8, 1, 1),
    }
    torch.save({"model": {**theirs.state_dict(), **head}}, given / "vanillanet_5.pth")
    ours = backbones.build("vanillanet_5", pretrained=True).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(ours(x), theirs(x), strict=True))
    grey = backbones.build("vanillanet_5", pretrained=True, in_chans=1)
    torch.testing.assert_close(grey.stem1[0].weight, theirs.stem1[0].weight.sum(dim=1, keepdim=True))
    with pytest.raises(ValueError, match="have another shape"):
        backbones.build("vanillanet_5", pretrained=True, widths=(8, 8, 16, 24))
