"""Networks in timm's format in folders and on the Hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import timm
import torch
from huggingface_hub.errors import EntryNotFoundError
from safetensors.torch import save_file
from timm.models import _hub

import thoraxlib
from thoraxlib import backbones
from thoraxlib.backbones import remote
from thoraxlib.input_spec import InputSpec

LABELS = ["Mass", "Edema"]
ARGS = {"embed_dim": 48, "num_heads": 3, "depth": 3, "img_size": 96}


def folder(where: Path, name: str = "vit_tiny_patch16_224", **args: Any) -> Any:
    """Write a network as timm does for the Hub, and return it."""
    torch.manual_seed(0)
    net = timm.create_model(name, num_classes=5, **args).eval()
    net.pretrained_cfg |= {"input_size": (3, 96, 96), "mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}
    _hub.save_for_hf(net, str(where), model_args=args, safe_serialization=True)
    return net


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, str | None]]:
    """Serve a folder as any repository of the Hub; return what was asked for."""
    asked = []

    def given(repository: str, file: str, *, revision: str | None = None) -> str:
        asked.append((repository, file, revision))
        if not (tmp_path / "repository" / file).exists():
            raise EntryNotFoundError("404")
        return str(tmp_path / "repository" / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", given)
    remote._of_hub.cache_clear()
    return asked


def test_a_folder_is_a_backbone(tmp_path: Path) -> None:
    net = folder(tmp_path, **ARGS)
    name = f"local-dir:{tmp_path}"
    spec = InputSpec(size=(96, 96), mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    assert backbones.default_input(name) == spec
    assert name in backbones.registry
    backbone = backbones.build(name, pretrained=True, out_indices=2).eval()
    assert backbone.input_spec == spec
    assert backbone.channels == (48, 48)
    x = torch.randn(1, 3, 96, 96)
    with torch.no_grad():
        expected = net.forward_intermediates(x, indices=1, norm=False, intermediates_only=True)[0]
        assert torch.equal(backbone(x)[-1], expected)
        larger = backbones.build(name, pretrained=True, img_size=128, in_chans=1, out_indices=1)
    assert larger(torch.randn(1, 1, 128, 128))[0].shape == (1, 48, 8, 8)
    assert (larger.input_spec.size, larger.input_spec.channels) == ((128, 128), 1)
    assert larger.input_spec.mean == pytest.approx((0.2,))


def test_a_repository_is_a_backbone_at_its_revision(hub: list[Any], tmp_path: Path) -> None:
    net = folder(tmp_path / "repository", "densenet121")
    backbone = backbones.build("hf_hub:owner/repository@abc", pretrained=True, output_stride=16).eval()
    assert set(hub) == {
        ("owner/repository", "config.json", "abc"),
        ("owner/repository", "model.safetensors", "abc"),
    }
    assert len(hub) == 2  # one question for each file
    assert backbone.strides[-1] == 16  # a densenet of the library's own
    plain = backbones.build("hf-hub:owner/repository", pretrained=True).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(plain(x)[-1], net.forward_features(x))


def test_a_whole_model_and_its_saved_copy(hub: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = folder(tmp_path / "repository", **ARGS)
    name = "hf_hub:owner/whole"
    timm_model = thoraxlib.build("timm", backbone=name, labels=LABELS, pretrained=True).eval()
    assert timm_model.input_spec == backbones.default_input(name)
    assert torch.equal(timm_model.net.blocks[1].attn.qkv.weight, net.blocks[1].attn.qkv.weight)
    larger = thoraxlib.build("timm", backbone=name, labels=LABELS, pretrained=True, input_spec={"size": 128})
    assert larger.net.patch_embed.grid_size == (8, 8)
    ready = backbones.build(name, pretrained=True, out_indices=1)
    spec = {"size": 96}
    classifiers = [
        thoraxlib.build("classifier", backbone=backbone, labels=LABELS, input_spec=spec, pretrained=True).eval()
        for backbone in (name, {"name": name, "out_indices": 1}, ready)
    ]

    def offline(*_: Any, **__: Any) -> str:
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    remote._of_hub.cache_clear()
    x = torch.randn(1, 3, 96, 96)
    for k, model in enumerate((timm_model, *classifiers)):
        assert "hf_hub" not in json.dumps(model.config)
        assert model.config["options"]["backbone"]["name"] == "vit_tiny_patch16_224"
        thoraxlib.save_pretrained(model, tmp_path / f"{k}")
        loaded = thoraxlib.load_pretrained(tmp_path / f"{k}")
        assert torch.equal(loaded(x), model(x))
        assert loaded.input_spec == model.input_spec
    with pytest.raises(ConnectionError, match="owner/whole/resolve/main/config.json could not be downloaded"):
        backbones.build(name)


@pytest.mark.parametrize("how", ["backbone", "whole"])
def test_nothing_is_unpickled(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = folder(tmp_path, **ARGS)
    (tmp_path / "model.safetensors").unlink()
    torch.save(net.state_dict(), tmp_path / "pytorch_model.bin")
    monkeypatch.setattr(torch, "load", None)
    name = f"local-dir:{tmp_path}"
    build = thoraxlib.build if how == "whole" else backbones.build
    options = {"backbone": name} if how == "whole" else {}
    with pytest.raises(ValueError, match=r"no model\.safetensors, and files of other kinds.*not read from there"):
        build("timm" if how == "whole" else name, pretrained=True, **options)
    assert backbones.build(name).channels == (48, 48, 48)  # the architecture alone


def test_errors(hub: list[Any], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=rf"local-dir:{tmp_path}: no config\.json there"):
        backbones.build(f"local-dir:{tmp_path}")
    with pytest.raises(FileNotFoundError, match=r"hf_hub:owner/none: no config\.json there"):
        backbones.default_input("hf_hub:owner/none")
    for config, message in (
        ({"architecture": "resnet"}, "describes no network of timm; its architecture is 'resnet'"),
        ([1], "describes no network of timm; its architecture is None"),
        ({"architecture": "resnet18", "model_args": {"checkpoint_path": "x.bin"}}, "cannot be used"),
        ({"architecture": "resnet18", "model_args": 3}, "cannot be used"),
        ({"architecture": "resnet18", "input_size": [3, 0, 64]}, "has an input that cannot be used: size must be"),
        ({"architecture": "resnet18", "mean": 3}, "has an input that cannot be used"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(ValueError, match=message):
            backbones.build(f"local-dir:{tmp_path}")
    old = {"architecture": "resnet18", "input_size": [3, 64, 64], "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    (tmp_path / "config.json").write_text(json.dumps(old))  # an old file, without pretrained_cfg
    assert backbones.default_input(f"local-dir:{tmp_path}").size == (64, 64)
    save_file(timm.create_model("resnet34").state_dict(), tmp_path / "model.safetensors")
    with pytest.warns(UserWarning, match=r"entries of the checkpoint are not loaded: layer1\.2\."):
        backbones.build(f"local-dir:{tmp_path}", pretrained=True)
    save_file(timm.create_model("resnet50").state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="another shape"):
        backbones.build(f"local-dir:{tmp_path}", pretrained=True)
