"""The catalogue: every card is whole, and the model that it names can hold the file."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import thoraxlib
from thoraxlib import backbones, checkpoints, labels, segmentation, weights
from thoraxlib.cli import main
from thoraxlib.registry import UnknownNameError
from thoraxlib.weights import download

CARDS = [weights.describe(name) for name in weights.names()]
MODELS = [card for card in CARDS if card.kind == "model"]


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_cards_are_whole(card: weights.WeightsCard) -> None:
    assert card.summary.endswith(".")
    assert re.fullmatch(r"[a-z0-9-]+", card.name)
    if card.kind == "by hand":
        assert card.address is None
        assert card.notes
        return
    assert card.trained_on
    if card.shipped:
        assert card.address is None
        assert card.results
        assert weights.fetch(card.name).stat().st_size == card.size
        assert (weights.fetch(card.name).parent / "README.md").exists()
        assert card.size is not None
        assert card.size < 1.5e6
    else:
        assert card.address is not None
        assert card.address.startswith("https://")
    assert card.file_name
    assert card.sha256 is None or re.fullmatch(r"[0-9a-f]{64}", card.sha256)
    assert card.git_blob is None or re.fullmatch(r"[0-9a-f]{40}", card.git_blob)
    assert card.commit is None or re.fullmatch(r"[0-9a-f]{40}", card.commit)
    registry = {"model": thoraxlib.models, "backbone": backbones, "segmenter": segmentation}[card.kind]
    assert card.build["name"] in registry.names()
    assert card.layout is None or card.layout in checkpoints.names()


@pytest.mark.parametrize("card", [card for card in MODELS if card.layout], ids=lambda card: card.name)
def test_the_labels_of_the_card_are_the_models(card: weights.WeightsCard) -> None:
    model = thoraxlib.build(card.build["name"], preset=card.build.get("preset"), **card.build.get("options", {}))
    assert model.labels == labels.resolve(card.labels)  # type: ignore[arg-type]
    assert card.input
    assert model.input_spec.updated(card.input) == model.input_spec


def test_names() -> None:
    assert weights.names("chexnet-j*") == ["chexnet-jrzech-2018", "chexnet-jrzech-2022"]
    with pytest.raises(
        UnknownNameError, match="weights: unknown name 'chexnet-arnowen'; did you mean 'chexnet-arnoweng'"
    ):
        weights.describe("chexnet-arnowen")
    with pytest.raises(UnknownNameError, match="did you mean 'jf-top1'"):
        thoraxlib.load_pretrained("jf-top")


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(download.FOLDER, str(tmp_path))
    monkeypatch.setattr(download, "verify", lambda *_: None)  # made-up files
    return tmp_path


def test_a_model_by_name(given: Path) -> None:
    """The file's layout is arnoweng's: names of old torchvision in wrappers, the classifier in a sequence."""
    torch.manual_seed(0)
    model = thoraxlib.build("chexnet", preset="arnoweng").eval()
    prefix = "module.densenet121."
    state = {key.replace("backbone.net.", prefix): value for key, value in model.state_dict().items()}
    state = {key.replace("head.fc.", f"{prefix}classifier.0."): value for key, value in state.items()}
    torch.save({"state_dict": state}, given / "model.pth.tar")
    loaded = thoraxlib.load_pretrained("chexnet-arnoweng")
    x = torch.rand(1, 3, 64, 64)
    assert not loaded.training
    assert loaded.labels == labels.build("nih14")
    assert torch.equal(loaded(x), model(x))


def test_pickled_modules_need_consent(given: Path) -> None:
    with pytest.raises(ValueError, match=r"chexnet-jrzech-2022: .*pass allow_pickle=True"):
        thoraxlib.load_pretrained("chexnet-jrzech-2022")


def test_weights_of_components() -> None:
    with pytest.raises(ValueError, match=r"is a backbone.*thoraxlib\.backbones\.build\('van_b0', pretrained=True\)"):
        thoraxlib.load_pretrained("van-b0-imagenet")


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "list", "jf*"]) == 0
    assert capsys.readouterr().out.startswith("jf-top1")
    assert main(["weights", "show", "jf-top1"]) == 0
    assert "git blob fbcbd6ba36830fc6e6b8057fe6de25f75c924974" in capsys.readouterr().out
    assert main(["weights", "show", "jf-top"]) == 2
    assert "did you mean 'jf-top1'" in capsys.readouterr().err
    assert main(["weights", "fetch", "rgrg"]) == 2
    assert "got by hand" in capsys.readouterr().err


def test_two_classes_of_a_softmax_are_one_logit(given: Path) -> None:
    import timm

    theirs = timm.create_model("resnet34", num_classes=2).eval()
    file = weights.describe("xrv-sex").file_name
    torch.save({"state_dict": {f"model.{key}": value for key, value in theirs.state_dict().items()}}, given / file)
    model = thoraxlib.load_pretrained("xrv-sex")
    assert model.labels == ("Female",)
    pixels = torch.rand(2, 3, 64, 64)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (model.input_spec.mean, model.input_spec.std))
    x = (pixels - mean) / std
    torch.testing.assert_close(x, 255 * pixels)
    with torch.inference_mode():
        torch.testing.assert_close(model.predict_proba(x), theirs(x).softmax(dim=1)[:, 1:])


def expected(state: dict[str, torch.Tensor], x: torch.Tensor, norm: bool) -> torch.Tensor:
    """The published UNet, level by level, from its weights."""
    from torch.nn import functional as F

    def conv(name: str, x: torch.Tensor, padding: int = 1) -> torch.Tensor:
        return F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], padding=padding)

    def bn(name: str, x: torch.Tensor) -> torch.Tensor:
        mean, var, weight, bias = (state[f"{name}.{k}"] for k in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, mean, var, weight, bias) if norm else x

    def block(name: str, x: torch.Tensor) -> torch.Tensor:
        for k in (1, 2):
            x = conv(f"{name}.conv{k}", x)
            x = (bn(f"{name}.bn{k}", x) if norm else x).relu()
        return x

    x, kept = x - 0.5, []
    if norm:
        x = conv("init_conv", x, padding=0).relu()
    for level in range(1, 6 if norm else 5):
        x = F.max_pool2d(x, 2) if kept else x
        if norm:
            for name in (f"conv{level}", f"conv{level}s"):
                x = conv(name, x).relu() if f"{name}.weight" in state else x
        else:
            x = block(f"enc{level}", x)
        kept.append(x)
    x = block("center", F.max_pool2d(x, 2))
    for level in range(len(kept), 0, -1):
        x = F.interpolate(x, kept[level - 1].shape[2:], mode="bilinear" if norm else "nearest")
        x = block(f"dec{level}", torch.cat([x, kept[level - 1]], 1))
    return conv("out", x, padding=0)


@pytest.mark.parametrize(("version", "encoder"), [("2v", "plain"), ("6v", "vgg11")])
def test_lungs_of_a_published_unet(version: str, encoder: str, given: Path) -> None:
    torch.manual_seed(0)
    state = segmentation.build("lungs_unet", encoder=encoder).state_dict()
    state = {key: torch.rand_like(value) if "running" in key else value for key, value in state.items()}
    torch.save(state, given / f"unet-{version}.pt")
    name = f"lungs-unet-ovcharenko-{version}"
    net = thoraxlib.load_pretrained(name, segmentation.Segmenter)
    assert net.classes == ("background", "lungs")
    assert not net.training
    grey = torch.rand(1, 1, 50, 66)
    with torch.inference_mode():
        wanted = expected(state, grey, norm=encoder == "vgg11")
        torch.testing.assert_close(net(grey.expand(-1, 3, -1, -1)), wanted, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(net(grey), wanted, rtol=1e-4, atol=1e-5)
    with pytest.raises(TypeError, match=f"{name}: it is a LungsUNet, no Classifier"):
        thoraxlib.load_pretrained(name, thoraxlib.models.Classifier)
    with pytest.raises(ValueError, match="pretrained: the weights have the background and the lungs, got classes="):
        segmentation.build("lungs_unet", classes=("background", "lungs", "heart"), pretrained=True)


def test_shipped_weights_load_offline() -> None:
    names = [card.name for card in CARDS if card.shipped]
    assert names == ["lungs-small", "pneumonia-children-small", "view-small"]
    code = (
        "import socket, sys\n"
        "socket.socket.connect = lambda *_: sys.exit('a connection')\n"
        "import thoraxlib\n"
        f"for name in {names}:\n"
        "    model = thoraxlib.load_pretrained(name)\n"
        "    print(model.training, {str(p.dtype) for p in model.parameters()})"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.stdout.splitlines() == ["False {'torch.float32'}"] * 3, result.stderr


@pytest.mark.parametrize("card", [card for card in CARDS if card.shipped], ids=lambda card: card.name)
def test_labels_of_shipped_weights(card: weights.WeightsCard) -> None:
    assert card.labels == tuple(getattr(thoraxlib.load_pretrained(card.name), "labels", card.labels))  # type: ignore[arg-type]


def test_a_damaged_shipped_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    card = replace(weights.describe("pneumonia-children-small"), sha256="0" * 64)
    monkeypatch.setattr(download, "describe", lambda _: card)
    with pytest.raises(weights.DigestError, match="pneumonia-children-small: .*model.safetensors has the SHA-256"):
        thoraxlib.load_pretrained("pneumonia-children-small")
