from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from compatibility import small_parts
from torch import nn

import thoraxlib
from thoraxlib import backbones, models, persistence

CLASSIFIERS = [name for name in thoraxlib.names() if "backbone" in thoraxlib.describe(name).options]

SMALL = {"backbone": "resnet10t", "input_spec": {"size": 64}}


@pytest.mark.parametrize("name", CLASSIFIERS)
@pytest.mark.parametrize(
    "options",
    [
        {"labels": ["Edema", "Mass"]},  # label graphs know them
        {"pool": {"name": "lse", "r": 3.0}, "in_chans": 1, "input_spec": {"size": 64, "mean": 0.5}},
    ],
    ids=["labels", "options"],
)
def test_round_trip_is_bit_for_bit(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    model = thoraxlib.build(name, **{**SMALL, **small_parts(name), **options})
    with torch.no_grad():
        for buffer in model.buffers():
            if buffer.is_floating_point():
                buffer.uniform_(0.5, 1.5)
    model.eval()
    thoraxlib.save_pretrained(model, tmp_path / "saved")
    loaded = thoraxlib.load_pretrained(tmp_path / "saved")
    assert not loaded.training
    assert loaded.labels == model.labels
    assert loaded.input_spec == model.input_spec
    assert loaded.config == model.config
    for (key, ours), (other, theirs) in zip(model.state_dict().items(), loaded.state_dict().items(), strict=True):
        assert key == other
        assert torch.equal(ours, theirs)
    x = torch.randn(1, model.input_spec.channels, 64, 64)
    assert torch.equal(model(x), loaded(x))


def test_presets_and_edited_labels_travel(tmp_path: Path) -> None:
    model = thoraxlib.build("chexnet", preset="seed", backbone="resnet10t")
    model.labels = tuple(label.upper() for label in model.labels)
    thoraxlib.save_pretrained(model, tmp_path)
    loaded = thoraxlib.load_pretrained(tmp_path)
    assert loaded.labels == model.labels
    assert loaded.input_spec.size == (250, 250)


def test_pretrained_is_not_downloaded_again(tmp_path: Path) -> None:
    model = thoraxlib.build("chexnet", **SMALL)
    model.config["options"]["pretrained"] = True  # as if it had been built online
    model.config["options"]["backbone"] = {"name": "resnet10t", "pretrained": True}
    thoraxlib.save_pretrained(model, tmp_path)
    assert thoraxlib.load_pretrained(tmp_path).config["name"] == "chexnet"


def test_a_ready_part_from_the_registry_is_recorded(tmp_path: Path) -> None:
    model = thoraxlib.build("chexnet", backbone=backbones.build("resnet10t", in_chans=3))
    thoraxlib.save_pretrained(model, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["options"]["backbone"]["name"] == "resnet10t"
    thoraxlib.load_pretrained(tmp_path)


class OwnBackbone(nn.Module):
    channels = (4,)
    strides = (2,)

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, 2)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [self.conv(x)]


def test_an_unknown_part_is_a_clear_error_and_writes_nothing(tmp_path: Path) -> None:
    model = thoraxlib.build("chexnet", backbone=OwnBackbone())
    with pytest.raises(TypeError, match="cannot save 'chexnet': backbone: a ready OwnBackbone that no registry built"):
        thoraxlib.save_pretrained(model, tmp_path / "saved")
    assert not (tmp_path / "saved").exists()
    with pytest.raises(TypeError, match=r"must be built by thoraxlib\.build"):
        thoraxlib.save_pretrained(nn.Linear(2, 2), tmp_path / "saved")
    by_hand = models.Classifier(
        backbones.build("resnet10t"),
        thoraxlib.heads.build("linear", in_channels=512, num_labels=14),
        labels="nih14",
        input_spec=thoraxlib.InputSpec(),
    )
    with pytest.raises(TypeError, match=r"was not built by thoraxlib\.build"):
        thoraxlib.save_pretrained(by_hand, tmp_path / "saved")
    # training asks first: what cannot be saved is trained and returned all the same
    assert not any(map(persistence.can_be_saved, (model, by_hand, nn.Linear(2, 2))))
    assert persistence.can_be_saved(thoraxlib.build("chexnet", backbone="resnet10t"))


def test_an_interrupted_save_leaves_the_old_one_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = thoraxlib.build("chexnet", **SMALL)
    thoraxlib.save_pretrained(model, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    other = thoraxlib.build("chexnet", **SMALL, labels="nih8")
    monkeypatch.setattr("safetensors.torch.save_model", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        thoraxlib.save_pretrained(other, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="neither a folder nor a Hub repository"):
        thoraxlib.load_pretrained(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"no readable config\.json"):
        thoraxlib.load_pretrained(tmp_path)
    thoraxlib.save_pretrained(thoraxlib.build("chexnet", **SMALL), tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"no model\.safetensors"):
        thoraxlib.load_pretrained(tmp_path)
