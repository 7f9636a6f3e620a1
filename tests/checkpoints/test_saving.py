from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from compatibility import small_parts
from torch import nn

import thoraxlib
from thoraxlib import backbones, heads, models, segmentation
from thoraxlib.checkpoints import saving
from thoraxlib.utils import modes
from thoraxlib.utils.files import replacing

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
    accepted = thoraxlib.describe(name).options
    options = {key: value for key, value in options.items() if key in accepted}
    head = accepted.get("head")
    if head is not None and not heads.registry.accepts(heads.registry.split_spec(head)[0], "pool"):
        options = {key: value for key, value in options.items() if key != "pool"}
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
    model = thoraxlib.build("chexnet", preset="jaydurant", backbone="resnet10t")
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


FACTORIES = {
    "chexnet": lambda **options: models.chexnet.chexnet(backbone="resnet10t", **options),
    "ag_cnn": lambda **options: models.ag_cnn.ag_cnn(backbone="resnet10t", **options),
    "unified_dcnn": lambda **options: models.unified_dcnn.unified_dcnn(backbone="resnet10t", **options),
    "classifier": lambda **options: models.classifier.classifier(backbone="resnet10t", **options),
}


@pytest.mark.parametrize("name", FACTORIES)
def test_a_factory_records_what_build_does(name: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"labels": ["Mass", "Edema"], "input_spec": thoraxlib.InputSpec(size=(64, 64))}
    model = FACTORIES[name](**options).eval()
    assert model.config == thoraxlib.build(name, backbone="resnet10t", **options).config
    assert model.config["name"] == name  # not that of a factory inside
    assert not hasattr(model, "registry_spec")
    thoraxlib.save_pretrained(model, tmp_path)
    loaded = thoraxlib.load_pretrained(tmp_path)
    assert (loaded.config, loaded.labels) == (model.config, model.labels)
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(loaded(x), model(x))


@models.ModelRegistry("models").register("by_position")
def by_position(names: Any, backbone: Any = "resnet10t", **options: Any) -> models.ChestModel:
    """See chexnet."""
    return thoraxlib.build("chexnet", labels=names, backbone=backbone, **options)


def test_a_factory_records_options_by_position() -> None:
    model = by_position(("Mass",), "resnet18", in_chans=1)
    options = {"names": ["Mass"], "backbone": "resnet18", "in_chans": 1}
    assert model.config == {"name": "by_position", "options": options}
    model = by_position(["Mass"], OwnBackbone())
    assert model.config == {"name": "by_position", "options": {"names": ["Mass"]}}
    assert "OwnBackbone" in model.unrecorded["backbone"]


def test_what_is_loaded_is_of_the_kind_that_is_asked_for(tmp_path: Path) -> None:
    unet = segmentation.build("unet", width=2)
    thoraxlib.save_pretrained(unet, tmp_path)
    with pytest.raises(TypeError, match="it is a UNet, no ChestModel"):
        thoraxlib.load_pretrained(tmp_path)
    with pytest.raises(NotImplementedError, match=r"thoraxlib\.load_pretrained\(folder, UNet\)"):
        type(unet).from_pretrained(tmp_path)
    loaded = thoraxlib.load_pretrained(tmp_path, segmentation.Segmenter)
    assert loaded.classes == unet.classes


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
    assert not any(map(saving.can_be_saved, (model, by_hand, nn.Linear(2, 2))))
    assert saving.can_be_saved(thoraxlib.build("chexnet", backbone="resnet10t"))


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


# -- one save at a time, of nothing but our own ------------------------------------------------------------------------


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("by_method", [False, True])
def test_files_of_others_are_not_replaced(file: str, by_method: bool, tmp_path: Path) -> None:
    model: Any = thoraxlib.build("chexnet", **SMALL)
    foreign = {"config.json": b'{"model_type": "vit"}', "model.safetensors": safetensors_of({"w": torch.ones(3)})}
    (tmp_path / file).write_bytes(foreign[file])
    with pytest.raises(FileExistsError, match=rf"{file} was not written by thoraxlib"):
        model.save_pretrained(tmp_path) if by_method else thoraxlib.save_pretrained(model, tmp_path)
    assert content(tmp_path) == {file: foreign[file]}
    # beside our own
    (tmp_path / file).unlink()
    thoraxlib.save_pretrained(model, tmp_path)
    if file == "config.json":
        (tmp_path / file).write_bytes(foreign[file])
        with pytest.raises(FileExistsError, match=file):
            thoraxlib.save_pretrained(model, tmp_path)


def safetensors_of(tensors: dict[str, torch.Tensor]) -> bytes:
    from safetensors.torch import save

    return save(tensors)


def test_a_readme_stays_and_a_missing_one_is_written(tmp_path: Path) -> None:
    model = thoraxlib.build("chexnet", **SMALL)
    thoraxlib.save_pretrained(model, tmp_path / "new")
    assert "library_name: thoraxlib" in (tmp_path / "new/README.md").read_text()
    (tmp_path / "new/README.md").write_text("mine")
    thoraxlib.save_pretrained(model, tmp_path / "new")
    assert (tmp_path / "new/README.md").read_text() == "mine"


def test_links_are_replaced_and_not_followed(tmp_path: Path) -> None:
    model = thoraxlib.build("chexnet", **SMALL)
    thoraxlib.save_pretrained(model, tmp_path / "old")
    before = content(tmp_path / "old")
    (tmp_path / "new").mkdir()
    for name in ("config.json", "model.safetensors", "README.md"):
        (tmp_path / "new" / name).symlink_to(tmp_path / "old" / name)
    thoraxlib.save_pretrained(thoraxlib.build("chexnet", **SMALL, labels="nih8"), tmp_path / "new")
    assert content(tmp_path / "old") == before
    assert len(thoraxlib.load_pretrained(tmp_path / "new").labels) == 8
    (tmp_path / "new/README.md").unlink()
    (tmp_path / "new/README.md").symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileExistsError, match="README.md is a link"):
        thoraxlib.save_pretrained(model, tmp_path / "new")
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("early", [False, True])
def test_a_save_that_is_killed_between_its_files(early: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """New weights beside the old config are refused, and load with their own labels once it is gone."""
    old, new = (thoraxlib.build("chexnet", **SMALL, labels=names) for names in (["Mass", "Edema"], ["Edema", "Mass"]))
    thoraxlib.save_pretrained(old, tmp_path)
    if early:  # whose weights carried no config
        (tmp_path / "model.safetensors").write_bytes(safetensors_of(dict(old.state_dict())))
        assert thoraxlib.load_pretrained(tmp_path).labels == ("Mass", "Edema")
    with monkeypatch.context() as patch:
        patch.setattr(saving, "write_json", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            thoraxlib.save_pretrained(new, tmp_path)
    with pytest.raises(
        ValueError, match=r"config\.json is not the config that model\.safetensors .* Delete config\.json"
    ):
        thoraxlib.load_pretrained(tmp_path)
    (tmp_path / "config.json").unlink()
    loaded = thoraxlib.load_pretrained(tmp_path)
    assert loaded.labels == ("Edema", "Mass")
    assert torch.equal(loaded.head.fc.weight, new.head.fc.weight)
    thoraxlib.save_pretrained(new, tmp_path)
    assert thoraxlib.load_pretrained(tmp_path).labels == ("Edema", "Mass")


def test_weights_without_any_config(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(safetensors_of({"w": torch.ones(3)}))
    with pytest.raises(FileNotFoundError, match=r"no readable config\.json, and model\.safetensors carries no config"):
        thoraxlib.load_pretrained(tmp_path)


def test_scratch_of_a_killed_save_is_removed_by_the_next(tmp_path: Path) -> None:
    killed = replacing(tmp_path / "model.safetensors")  # never left
    scratch = killed.__enter__()
    scratch.write_bytes(bytes(1000))
    other = tmp_path / "mine.part.safetensors"
    other.touch()
    thoraxlib.save_pretrained(thoraxlib.build("chexnet", **SMALL), tmp_path)
    assert [path for path in tmp_path.iterdir() if ".part" in path.name] == [other]
    thoraxlib.load_pretrained(tmp_path)


def test_saves_to_one_folder_follow_each_other(tmp_path: Path) -> None:
    """Two at once end as one of them, with its own labels."""
    models_ = [thoraxlib.build("chexnet", **SMALL, labels=[name, "Edema"]) for name in ("Mass", "Nodule")]
    for _ in range(3):
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda model: thoraxlib.save_pretrained(model, tmp_path), models_))
        loaded = thoraxlib.load_pretrained(tmp_path)
        (saved,) = (model for model in models_ if model.labels == loaded.labels)
        assert torch.equal(loaded.head.fc.weight, saved.head.fc.weight)


def test_a_compiled_model_is_saved_as_the_plain_one(tmp_path: Path) -> None:
    model = thoraxlib.build("chexnet", **SMALL).eval()
    compiled: Any = torch.compile(model)
    assert modes.uncompiled(compiled) is model
    assert modes.uncompiled(model) is model
    assert saving.can_be_saved(compiled)
    assert saving.fingerprint(compiled) == saving.fingerprint(model)
    assert saving.weights_digest(compiled) == saving.weights_digest(model)
    thoraxlib.save_pretrained(compiled, tmp_path / "compiled")
    loaded = thoraxlib.load_pretrained(tmp_path / "compiled")
    assert loaded.labels == compiled.labels == model.labels
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), model.parameters(), strict=True))
    image = np.random.default_rng(0).integers(0, 255, (80, 70), dtype=np.uint8)
    assert torch.equal(thoraxlib.preprocess_for(compiled)(image), thoraxlib.preprocess_for(model)(image))
    model.compile()
    thoraxlib.save_pretrained(model, tmp_path / "in place")
    assert thoraxlib.load_pretrained(tmp_path / "in place").config == model.config
