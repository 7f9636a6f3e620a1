"""The catalogue: every card is whole, and the model that it names can hold the file."""

from __future__ import annotations

import re
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
    with pytest.raises(ValueError, match=r"holds a backbone.*thoraxlib\.backbones\.build\('van_b0', pretrained=True\)"):
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
