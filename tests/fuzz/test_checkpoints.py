"""Checkpoints, saved models and stores, damaged or of anything: loaded whole, or refused with the model untouched."""

from __future__ import annotations

import argparse
import io
import json
import struct
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_model
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))

from damage import FEW, ODD_BYTES, ODD_TEXTS, ODD_VALUES, damaged, odd_json, refused

import thoraxlib
from thoraxlib import checkpoints, datasets, detection, graphs, localization
from thoraxlib.checkpoints.files import state_dict_of
from thoraxlib.checkpoints.saving import weights_digest
from thoraxlib.detection.store import INDEX, Shard, shard_path
from thoraxlib.registry import UnknownNameError

SMALL: dict[str, Any] = {"backbone": "test_resnet", "labels": ["Mass", "Edema"], "input_spec": {"size": 32}}


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return thoraxlib.build("chexnet", **SMALL)


def saved(content: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


TINY: dict[str, Any] = {
    "state_dict": {"fc.weight": torch.ones(2, 3), "fc.bias": torch.zeros(2)},
    "epoch": 3,
    "best": np.float64(0.5),
    "args": argparse.Namespace(lr=np.ones(2), data=Path("x")),
}


@pytest.mark.parametrize("name", ["zip.pth", "old.pth", "model.safetensors"])
@given(data=st.data())
@FEW
def test_damaged_files(name: str, tmp_path: Path, data: st.DataObject) -> None:
    from safetensors.torch import save

    whole = {
        "zip.pth": lambda: saved(TINY),
        "old.pth": lambda: saved(TINY, _use_new_zipfile_serialization=False),
        "model.safetensors": lambda: save(TINY["state_dict"]),
    }[name]()
    path = tmp_path / name
    path.write_bytes(data.draw(damaged(whole)))
    state = refused(lambda: checkpoints.read(path), name)
    assert state is None or all(isinstance(value, torch.Tensor) for value in state.values())


@given(st.sampled_from(("x.pth", "x.safetensors", "x.ckpt", "x")), ODD_BYTES | st.binary(max_size=200))
@FEW
def test_files_of_anything(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert refused(lambda: checkpoints.read(path), name) is None


# what the layouts look for, and parts of names that they take apart
PARTS = st.sampled_from(
    (
        *(
            "module.",
            "densenet121.",
            "img_model.",
            "_blocks.",
            "99.",
            "0.",
            "-1.",
            "x.",
            "features.",
            "norm.1.",
            "conv.2.",
        ),
        *(
            "classifier.",
            "classifier.0.",
            "fc_0.",
            "fc_1.",
            "fc_7.",
            "bn_0.",
            "backbone.",
            "attention_map.",
            "FF.0.",
            "fc.",
        ),
        *("gc1.", "gcn.", "A", "patch_embed1.proj.", "unet.", "w.", "vit.0.", "layers.9.downsample.", "first_layer.0."),
        *(
            "spatial_gating_unit.",
            "conv1x1.",
            "conv10.",
            "query_embed.",
            "dense.features.conv0.",
            "cls1.2.",
            "dilation_conv1.",
        ),
        *("anatomy_inp_tensor", "anatomy_gc1.", "global_branch.", "fusion.fc.", "head.fc.", "_bn0.", "pos_emb.pe"),
        *("weight", "weight", "bias", "running_mean", "num_batches_tracked", ""),
    )
)
TENSORS = st.one_of(
    st.lists(st.sampled_from((0, 1, 2, 3, 18)), max_size=5).map(torch.zeros),
    st.sampled_from((torch.float16, torch.int64, torch.bool, torch.bfloat16)).map(
        lambda kind: torch.ones(2, 2, dtype=kind)
    ),
    st.just(torch.full((18, 18), torch.nan)),
    st.just(torch.eye(18)),
)
STATES = st.dictionaries(st.lists(PARTS, min_size=1, max_size=4).map("".join), TENSORS, min_size=1, max_size=6)


@given(STATES, st.sampled_from((None, *checkpoints.names())))
@FEW
def test_state_dicts_of_no_model(model: nn.Module, state: dict[str, torch.Tensor], layout: str | None) -> None:
    before = weights_digest(model)
    named = ("checkpoint", "layout", "anatomy_inp_tensor", "weights must be", "state dict")
    assert refused(lambda: thoraxlib.load_checkpoint(model, state, layout=layout), *named) is None
    assert weights_digest(model) == before


@given(data=st.data())
@FEW
def test_state_dicts_with_an_odd_entry(model: nn.Module, data: st.DataObject) -> None:
    state = dict(model.state_dict())
    key = data.draw(st.sampled_from(sorted(state)))
    odd = data.draw(TENSORS | st.sampled_from(("x", None, 3)))
    if isinstance(odd, torch.Tensor) and odd.shape == state[key].shape:
        return
    before = weights_digest(model)
    state[key] = odd
    assert refused(lambda: thoraxlib.load_checkpoint(model, state), key, "state dict") is None
    assert weights_digest(model) == before


@pytest.mark.parametrize(
    "odd",
    [
        lambda x: x.to_sparse(),
        lambda x: x.to(torch.complex64),
        lambda x: x.to("meta"),
        lambda x: torch.quantize_per_tensor(x.float(), 1.0, 0, torch.qint8),
    ],
)
def test_tensors_that_no_model_takes_leave_it_untouched(model: nn.Module, odd: Callable[[torch.Tensor], Any]) -> None:
    state = dict(model.state_dict())
    last = list(state)[-1]
    state = {key: value + 1 for key, value in state.items()} | {last: odd(state[last])}
    before = weights_digest(model)
    with pytest.raises(ValueError, match=r"no plain tensors of real numbers: \['"):
        thoraxlib.load_checkpoint(model, state)
    assert weights_digest(model) == before


def test_wrappers_within_wrappers() -> None:
    inside = {"a": torch.ones(1)}
    assert state_dict_of({"model": {"state_dict": inside}}) == inside
    endless: dict[str, Any] = {}
    endless["state_dict"] = endless
    with pytest.raises(ValueError, match="expected a state dict"):
        state_dict_of(endless)
    with pytest.raises(ValueError, match="other entries"):
        state_dict_of({3: torch.ones(1)})


@pytest.fixture(scope="module")
def folder(model: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved")
    thoraxlib.save_pretrained(model, path)
    (path / "whole.json").write_bytes((path / "config.json").read_bytes())
    # as early versions wrote them: what carries its config takes no other
    save_model(model, str(path / "whole.safetensors"), {"format": "pt"})
    return path


@given(data=st.data())
@FEW
def test_saved_models_with_an_odd_config(folder: Path, data: st.DataObject) -> None:
    whole = json.loads((folder / "whole.json").read_bytes())
    whole["options"]["input_spec"] = whole["input_spec"]
    content = json.dumps(data.draw(odd_json(whole))).encode()
    (folder / "config.json").write_bytes(data.draw(damaged(content)) if data.draw(st.booleans()) else content)
    (folder / "model.safetensors").write_bytes((folder / "whole.safetensors").read_bytes())
    found = refused(lambda: thoraxlib.load_pretrained(folder), "config.json")
    if found is not None:
        assert len(found.labels) == 2
        assert found(torch.zeros(1, found.input_spec.channels, 32, 32)).shape == (1, 2)


@given(data=st.data())
@FEW
def test_saved_models_with_damaged_weights(folder: Path, data: st.DataObject) -> None:
    whole = (folder / "whole.safetensors").read_bytes()
    (folder / "config.json").write_bytes((folder / "whole.json").read_bytes())
    size = 8 + struct.unpack_from("<Q", whole)[0]
    if data.draw(st.booleans()):
        content = data.draw(damaged(whole[:size])) + whole[size:]
    else:
        content = whole[: data.draw(st.integers(0, len(whole) - 1))]
    (folder / "model.safetensors").write_bytes(content)
    found = refused(lambda: thoraxlib.load_pretrained(folder), "model.safetensors")
    assert found is None or found.labels == ("Mass", "Edema")


def test_labels_of_another_number_than_the_outputs(folder: Path) -> None:
    config = json.loads((folder / "whole.json").read_bytes())
    (folder / "config.json").write_text(json.dumps({**config, "labels": ["Mass"]}))
    (folder / "model.safetensors").write_bytes((folder / "whole.safetensors").read_bytes())
    with pytest.raises(ValueError, match=r"config.json describes no model.*1 labels, but options for 2"):
        thoraxlib.load_pretrained(folder)


def test_configs_of_huge_models(folder: Path) -> None:
    """Refused by the numbers in the weights' header, before there is memory for them or time is spent."""
    whole = json.loads((folder / "whole.json").read_bytes())
    (folder / "model.safetensors").write_bytes((folder / "whole.safetensors").read_bytes())
    huge: list[dict[str, Any]] = [
        {"backbone": "vit_gigantic_patch14_224"},
        {"backbone": {"name": "vit_tiny_patch16_224", "depth": 1_000_000}},
        {"backbone": {"name": "vit_tiny_patch16_224", "depth": 10**15}},
        {"backbone": {"name": "vit_tiny_patch16_224", "embed_dim": 10**9}},
        {"backbone": {"name": "resnet18", "layers": [10**6] * 4}},
        {"backbone": {"name": "swin_tiny_patch4_window7_224", "window_size": 10_000}, "input_spec": {"size": 16_384}},
        {"backbone": {"name": "test_resnet", "in_chans": 10**9}},
        {"in_chans": 1000, "backbone": {"name": "test_resnet", "channels": [10**6] * 4}},
        {"input_spec": {"size": 10**9}},
        {"input_spec": {"size": 32, "channels": 10**9}},
        {"input_spec": {"size": 32, "channels": 10**9, "mean": 0.5, "std": 0.5}},
        {"head": {"name": "label_graph", "hidden": [10] * 10_000}, "labels": ["Mass", "Edema"]},
    ]
    for options in huge:
        config = {**whole, "options": {**whole["options"], **options}}
        for unused in set(options) & {"labels", "input_spec"}:
            del config[unused]
        (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(ValueError, match=r"config\.json describes no model that can be built"):
            thoraxlib.load_pretrained(folder)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"input_spec": {"channels": 1, "mean": 0.5, "std": 0.5}}, "input_spec has channels=1, but options for 3"),
        ({"input_spec": {"size": True}}, "size must be an int"),
        ({"input_spec": {"size": 10**9}}, "size must be an int"),
        ({"input_spec": {"mean": [0.5, float("nan"), 0.5]}}, "mean must be"),
        ({"input_spec": {"blur": True}}, "blur must be 0 or 3"),
        ({"input_spec": [[1]]}, "input_spec must be a mapping"),
        ({"labels": {"Mass": 1, "Edema": 2}}, "labels must be a list of names"),
        ({"labels": 10**9}, "labels must be a list of names"),
        ({"labels": [["Mass"], ["Edema"]]}, "labels must be"),
        ({"labels": [True, 1]}, "labels must be"),
        ({"name": 3}, "name"),
        ({"name": ["chexnet"]}, "name"),
        ({"options": None}, "options"),
        ({"options": [["labels", 2]]}, "options"),
        ({"subpackage": "segmentation", "options": {}}, "segmentation"),
    ],
)
def test_configs_with_fields_of_another_kind(folder: Path, changes: dict[str, Any], told: str) -> None:
    whole = json.loads((folder / "whole.json").read_bytes())
    (folder / "config.json").write_text(json.dumps({**whole, **changes}))
    (folder / "model.safetensors").write_bytes((folder / "whole.safetensors").read_bytes())
    with pytest.raises(
        (ValueError, UnknownNameError), match=rf"(?s)config\.json describes no model.*{told}|{told}: unknown"
    ):
        thoraxlib.load_pretrained(folder)


@pytest.mark.parametrize(
    "header",
    [
        struct.pack("<Q", 2**63 - 1),
        struct.pack("<Q", 10**8) + b"{",
        struct.pack("<Q", 2) + b"{}",
        b'\x48\0\0\0\0\0\0\0{"w":{"dtype":"F32","shape":[1000000000,1000],"data_offsets":[0,4000000]}}'.ljust(80),
        b'\x46\0\0\0\0\0\0\0{"w":{"dtype":"F32","shape":[-1,4],"data_offsets":[0,4000000000000]}}'.ljust(78),
    ],
    ids=["length", "cut", "none", "shape", "negative"],
)
def test_weights_that_promise_more_than_they_hold(folder: Path, header: bytes) -> None:
    (folder / "config.json").write_bytes((folder / "whole.json").read_bytes())
    (folder / "model.safetensors").write_bytes(header)
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        thoraxlib.load_pretrained(folder)
    (folder / "x.safetensors").write_bytes(header)
    with pytest.raises(ValueError, match=r"x\.safetensors"):
        checkpoints.read(folder / "x.safetensors")


# -- graphs, counts, boxes, stores: files of JSON -----------------------------------------------------

COUNTS = graphs.LabelCounts.of(torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, torch.nan]]), ["Mass", "Edema"])
REGIONS = graphs.RegionCounts.of(torch.tensor([[[1.0, 0.0], [1.0, 1.0]]]), ["left lung", "trachea"], ["Mass", "Edema"])
BOXES = localization.Boxes.from_lists([torch.tensor([[1.0, 2.0, 3.0, 4.0]])] * 2, [torch.tensor([0])] * 2)
SAVED: dict[str, tuple[Callable[[Path], None], Callable[[Path], Any]]] = {
    "graph.json": (graphs.Graph(("Mass", "Edema"), torch.eye(2)).save, graphs.Graph.load),
    "counts.json": (COUNTS.save, graphs.LabelCounts.load),
    "regions.json": (REGIONS.save, graphs.RegionCounts.load),
    "boxes.json": (
        lambda path: localization.save_coco(path, BOXES, ["Mass"], ["a.png", "b.png"], [(9, 9)] * 2),
        localization.read_coco,
    ),
}


@pytest.mark.parametrize("name", SAVED)
@given(data=st.data())
@FEW
def test_json_files(name: str, tmp_path: Path, data: st.DataObject) -> None:
    save, load = SAVED[name]
    path = tmp_path / name
    save(path)
    content = json.dumps(data.draw(odd_json(json.loads(path.read_text())))).encode()
    path.write_bytes(data.draw(damaged(content)) if data.draw(st.integers(0, 3)) == 0 else content)
    found = refused(lambda: load(path), name)
    if isinstance(found, localization.CocoBoxes):
        assert found.boxes.xyxy.isfinite().all()
        assert len(found.boxes.xyxy) == len(found.boxes.image) == len(found.boxes.score)
        assert len(found.ids) == len(found.sizes)


@given(data=st.data())
@FEW
def test_graph_archives(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "graph.npz"
    graphs.Graph(("Mass", "Edema"), torch.eye(2)).save(path)
    path.write_bytes(data.draw(damaged(path.read_bytes())))
    found = refused(lambda: graphs.Graph.load(path), "graph.npz")
    assert found is None or found.normalized().isfinite().all()


def store(folder: Path) -> None:
    index = {"region_names": ["left lung", "trachea"], "labels": ["Mass"], "feature_dim": 3, "length": 3}
    (folder / "whole.json").write_text(json.dumps({**index, "shard_size": 2, "fingerprint": "x"}))
    (folder / INDEX).write_bytes((folder / "whole.json").read_bytes())
    for number, n in enumerate((2, 1)):
        shapes = ((n, 2, 3), (n, 2), (n, 2, 4), (n, 2), (n, 2, 1), (n, 1))
        parts = [torch.zeros(shape) for shape in shapes]
        names = [f"{number}-{k}" for k in range(n)]
        Shard(parts[0].half(), parts[1].bool(), *parts[2:]).write(shard_path(folder, number), names, names)
    (folder / "whole").write_bytes(shard_path(folder, 0).read_bytes())


@pytest.mark.parametrize("part", ["index", "shard"])
@given(data=st.data())
@FEW
def test_feature_stores(part: str, tmp_path: Path, data: st.DataObject) -> None:
    if not any(tmp_path.iterdir()):
        store(tmp_path)
    if part == "index":
        content = data.draw(odd_json(json.loads((tmp_path / "whole.json").read_text())))
        (tmp_path / INDEX).write_text(json.dumps(content))
    else:
        shard_path(tmp_path, 0).write_bytes(data.draw(damaged((tmp_path / "whole").read_bytes())))
    found = refused(lambda: detection.FeatureStore(tmp_path), str(tmp_path))
    if found is not None:
        assert len(found.ids) == len(found) == len(found.targets) == len(found.region_present) == 3
        assert found[2]["features"].shape == (2, 3)


SCENE = {
    "patient_id": 1,
    "study_id": 2,
    "viewpoint": "PA",
    "objects": [{"bbox_name": "trachea", **{f"original_{c}": k for k, c in enumerate(("x1", "y1", "x2", "y2"))}}],
    "attributes": [{"bbox_name": "trachea", "attributes": [["anatomicalfinding|yes|pneumonia"]]}],
}
RECORD = {
    "image_id": "a",
    "file_name": "a.png",
    "annotations": [{"category_id": 0, "bbox": [0, 0, 5, 6], "attributes": [0] * 9}],
}
COCO = {
    "info": {"attributes": ["pneumonia"]},
    "images": [{"id": 1, "file_name": "a.png", "height": 20, "width": 24}],
    "categories": [{"id": 1, "name": "trachea"}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 5, 6], "attributes": [1]}],
}
FEATURES = {
    "image_id": "a",
    "objects": ["trachea"],
    "bbox": [[1, 2, 3, 4]],
    "target": [[0] * 9],
    "features": [[0.5, 0.25]] * 18,
}


@pytest.mark.parametrize("packed", [False, True])
@given(data=st.data())
@FEW
def test_scene_graphs(packed: bool, tmp_path: Path, data: st.DataObject) -> None:
    Image.new("L", (24, 20)).save(tmp_path / "a.jpg")
    content = json.dumps(data.draw(odd_json(SCENE))).encode()
    if packed:
        file, path = io.BytesIO(), tmp_path / "silver_dataset/scene_graph.zip"
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a_SceneGraph.json", content)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data.draw(damaged(file.getvalue())))
    else:
        (tmp_path / "a_SceneGraph.json").write_bytes(content)
    check_regions({"name": "chest_imagenome", "root": tmp_path, "images": tmp_path, "split": "all", "cache": False})


@pytest.mark.parametrize("content", [COCO, [RECORD]], ids=["coco", "records"])
@given(data=st.data())
@FEW
def test_region_files(content: Any, tmp_path: Path, data: st.DataObject) -> None:
    Image.new("L", (24, 20)).save(tmp_path / "a.png")
    (tmp_path / "x.json").write_text(json.dumps(data.draw(odd_json(content))))
    check_regions({"name": "region_coco", "annotations": tmp_path / "x.json", "images": tmp_path})


def check_regions(spec: dict[str, Any]) -> None:
    named = (str(spec["images"]), "regions: ", "labels: ", "no image is left")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        images = refused(lambda: datasets.build(progress=False, **spec), *named)
        if images is not None:
            sample = refused(lambda: images[0], str(spec["images"]))
            boxes = images.region_boxes
            assert boxes.isfinite().all()
            assert (boxes[..., 2:] >= boxes[..., :2]).all()
            assert sample is None or sample["region_labels"].shape == images.region_targets.shape[1:]


@given(data=st.data())
@FEW
def test_feature_files(tmp_path: Path, data: st.DataObject) -> None:
    (tmp_path / "x.json").write_text(json.dumps(data.draw(odd_json(FEATURES))))
    sample = refused(lambda: datasets.read_anaxnet_features(tmp_path / "x.json"), "x.json")
    assert sample is None or (sample["features"].shape[0] == 18 and sample["region_labels"].shape == (18, 9))


@given(ODD_TEXTS, ODD_VALUES)
@FEW
def test_parts_by_odd_names_and_options(name: str, value: Any) -> None:
    for part in ({"name": name}, {"name": "test_resnet", name or "x": value}, value):
        refused(
            lambda part=part: thoraxlib.build("chexnet", labels=["Mass"], backbone=part), "backbone", name[:20], "timm"
        )


def test_an_archive_that_promises_more_than_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pth"
    with zipfile.ZipFile(io.BytesIO(saved(TINY))) as whole, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bomb:
        for entry in whole.namelist():
            bomb.writestr(entry, whole.read(entry) if not entry.endswith("/0") else bytes(2**24))
    with pytest.raises(ValueError, match=r"bomb.pth: an archive of \d+ bytes that promises \d+"):
        checkpoints.read(path)
