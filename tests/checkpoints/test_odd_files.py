"""Files as people have them: prefixes, copies, things beside the weights, and what is no checkpoint at all."""

from __future__ import annotations

import argparse
import bz2
import datetime
import gzip
import io
import json
import lzma
import pickle
import tarfile
import types
import zipfile
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import thoraxlib
from thoraxlib import checkpoints
from thoraxlib.checkpoints import CheckpointError
from thoraxlib.checkpoints.saving import weights_digest
from thoraxlib.checkpoints.unpickling import unpickled

State = dict[str, Tensor]
SMALL: dict[str, Any] = {"backbone": "test_resnet", "labels": ["Mass", "Edema"], "input_spec": {"size": 32}}


def build() -> nn.Module:
    return thoraxlib.build("chexnet", **SMALL).eval()


def timm_net(labels: int = 2) -> nn.Module:
    import timm

    return timm.create_model("test_resnet", num_classes=labels).eval()


def prefixed(prefix: str, state: State) -> State:
    return {prefix + key: value for key, value in state.items()}


# -- names ------------------------------------------------------------------------------------------------------------

PREFIXES = (
    *("", "_orig_mod.", "module.", "module._orig_mod.", "_orig_mod.module.", "model.", "model._orig_mod."),
    *("model.model._orig_mod.", "model.module.", "net.", "net._orig_mod.", "network."),
)


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("source", ["thoraxlib", "plain"])
@pytest.mark.parametrize("named", [False, True])
def test_prefixes_around_a_network(prefix: str, source: str, named: bool) -> None:
    theirs = build() if source == "thoraxlib" else timm_net()
    state = prefixed(prefix, dict(theirs.state_dict()))
    if prefix.startswith("model."):
        state["loss.weight"] = torch.ones(2)
    model = build()
    assert (
        thoraxlib.load_checkpoint(model, {"state_dict": state}, layout=source if named else None, labels=model.labels)
        == source
    )
    x = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(model(x), theirs(x))


def test_a_part_that_was_compiled_and_a_model_that_is() -> None:
    theirs, model = build(), build()
    theirs.backbone = torch.compile(theirs.backbone)
    state = dict(theirs.state_dict())
    assert any(key.startswith("backbone._orig_mod.") for key in state)
    thoraxlib.load_checkpoint(torch.compile(model), state, labels=model.labels)
    assert weights_digest(model) == weights_digest(theirs)
    averaged = torch.optim.swa_utils.AveragedModel(build())
    thoraxlib.load_checkpoint(model, averaged.state_dict(), labels=model.labels)
    assert weights_digest(model) == weights_digest(averaged.module)


@pytest.mark.parametrize("source", ["whole", "backbone", "timm", "compiled"])
@pytest.mark.parametrize("named", [False, True])
def test_a_backbone_alone(source: str, named: bool) -> None:
    theirs = build()
    backbone = theirs.backbone.state_dict()
    state, layout = {
        "whole": (prefixed("backbone.", backbone), "thoraxlib"),
        "backbone": (backbone, "thoraxlib"),
        "timm": ({key: value for key, value in timm_net().state_dict().items() if not key.startswith("fc.")}, "plain"),
        "compiled": (prefixed("model._orig_mod.backbone.", backbone), "thoraxlib"),
    }[source]
    model = build()
    before = weights_digest(model)
    with pytest.raises(CheckpointError, match=rf"layout '{layout}'\) and no head: backbone_only=True"):
        thoraxlib.load_checkpoint(model, state, layout=layout if named else None, labels=model.labels)
    assert weights_digest(model) == before
    head = model.head.fc.weight.clone()
    assert thoraxlib.load_checkpoint(model, state, backbone_only=True, layout=layout if named else None) == layout
    assert torch.equal(model.head.fc.weight, head)
    wanted = timm_net().state_dict() if source == "timm" else theirs.state_dict()
    assert len(wanted) > 50
    first = next(iter(state.values()))
    assert torch.equal(next(iter(model.backbone.parameters())), first)


def test_a_van_without_its_head() -> None:
    theirs = thoraxlib.build("van", backbone={"name": "van_b0", "depths": (1, 1, 1, 1)}, labels=["Mass"])
    state = {key.removeprefix("backbone."): v for key, v in theirs.state_dict().items() if key.startswith("backbone.")}
    model = thoraxlib.build("van", backbone={"name": "van_b0", "depths": (1, 1, 1, 1)}, labels=["Mass"])
    with pytest.raises(CheckpointError, match=r"(?s)get no value: head\..*load it alone with backbone_only=True"):
        thoraxlib.load_checkpoint(model, state, labels=model.labels)
    thoraxlib.load_checkpoint(model, state, backbone_only=True)
    assert weights_digest(model.backbone) == weights_digest(theirs.backbone)


# -- copies -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("copy", ["state_dict_ema", "model_ema", "ema_state_dict"])
def test_an_averaged_copy_gives_a_warning_and_can_be_chosen(copy: str, tmp_path: Path) -> None:
    last, averaged = (dict(build().state_dict()) for _ in range(2))
    model = build()
    torch.save({"state_dict": last, copy: averaged, "epoch": 3}, tmp_path / "both.pth")
    with pytest.warns(UserWarning, match="'state_dict', which is read.*ema=True reads that"):
        thoraxlib.load_checkpoint(model, tmp_path / "both.pth", labels=model.labels)
    assert torch.equal(model.head.fc.weight, last["head.fc.weight"])
    thoraxlib.load_checkpoint(model, tmp_path / "both.pth", key=copy, labels=model.labels)
    assert torch.equal(model.head.fc.weight, averaged["head.fc.weight"])
    thoraxlib.load_checkpoint(model, {copy: last}, labels=model.labels)
    assert torch.equal(model.head.fc.weight, last["head.fc.weight"])
    # in one state dict, as a Lightning module with a copy has it
    joined = {**prefixed("model.", last), **prefixed(f"{copy}.module.", averaged)}
    with pytest.warns(UserWarning, match="not loaded: ema=True"):
        thoraxlib.load_checkpoint(model, joined, labels=model.labels)
    assert torch.equal(model.head.fc.weight, last["head.fc.weight"])
    thoraxlib.load_checkpoint(model, joined, key=copy, labels=model.labels)
    assert torch.equal(model.head.fc.weight, averaged["head.fc.weight"])
    for content in ({"state_dict": last, copy: averaged}, joined, {copy: averaged}):
        thoraxlib.load_checkpoint(model, content, ema=True, labels=model.labels)
        assert torch.equal(model.head.fc.weight, averaged["head.fc.weight"])
    with pytest.raises(ValueError, match=r"ema=True: no averaged copy .*'state_dict'"):
        thoraxlib.load_checkpoint(model, {"state_dict": last}, ema=True, labels=model.labels)
    with pytest.raises(ValueError, match="key='best': no weights under that name"):
        thoraxlib.load_checkpoint(model, last, key="best", labels=model.labels)


# -- beside the weights ------------------------------------------------------------------------------------------------

BESIDE: dict[str, Any] = {
    "NumPy's numbers": {
        np.dtype(kind).type(1): np.dtype(kind).type(2) for kind in ("f2", "f4", "f8", "i1", "i8", "u2", "?")
    },
    "arrays": [np.arange(6.0).reshape(2, 3), np.array(["a"]), np.array([None], object), np.zeros(2, "i4,f8")],
    "dates": [np.datetime64("2020-01-01"), datetime.datetime(2020, 1, 1), datetime.timedelta(3)],
    "data types": [np.dtype("f8"), np.dtype([("a", "i4")])],
    "arguments": argparse.Namespace(lr=0.1, data=Path("x"), more=argparse.Namespace(), sizes=np.int64(3)),
    "a namespace": types.SimpleNamespace(a=1),
    "paths": Path("a/b"),
    "defaults": defaultdict(list, {"a": [1]}),
}


@pytest.mark.parametrize("beside", BESIDE)
@pytest.mark.parametrize("old", [False, True])
def test_values_beside_the_weights(beside: str, old: bool, tmp_path: Path) -> None:
    state = build().state_dict()
    content = {"state_dict": state, "args": BESIDE[beside], "epoch": 3}
    torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization=not old)
    read = checkpoints.read(tmp_path / "x.pth")
    assert read.keys() == state.keys()
    assert all(torch.equal(read[key], value) for key, value in state.items())


def test_they_are_never_made() -> None:
    file = io.BytesIO()
    torch.save({"array": np.ones(3), "scalar": np.float64(1), "args": argparse.Namespace(x=1)}, file)
    file.seek(0)
    assert {type(value).__module__ for value in unpickled(file).values()} == {"thoraxlib.checkpoints.unpickling"}


class Named:
    """A call of something that is importable."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize(
    "call",
    [
        Named(exec, "raise SystemExit"),
        Named(getattr, [], "append"),
        Named(np.load, "x"),
        Named(torch.hub.load, "x", "y"),
    ],
    ids=["exec", "getattr", "numpy.load", "torch.hub"],
)
def test_no_other_name_is_called(call: Named, old: bool, tmp_path: Path) -> None:
    torch.save(
        {"state_dict": {"a": torch.ones(1)}, "n": np.ones(1), "x": call},
        tmp_path / "x.pth",
        _use_new_zipfile_serialization=not old,
    )
    with pytest.raises(ValueError, match="allow_pickle"):
        checkpoints.read(tmp_path / "x.pth")


class Mine:
    """What a user allows."""


def test_the_list_of_the_process_is_left_alone_in_threads(tmp_path: Path) -> None:
    state = {"a": torch.ones(2)}
    torch.save({"state_dict": state, "best": np.float64(0.5), "args": argparse.Namespace()}, tmp_path / "x.pth")
    torch.save({"state_dict": state, "mine": Mine()}, tmp_path / "mine.pth")
    with pytest.raises(ValueError, match="Mine"):
        checkpoints.read(tmp_path / "mine.pth")
    with torch.serialization.safe_globals([Mine, np.dtype, argparse.Namespace]):
        before = set(torch.serialization.get_safe_globals())
        with ThreadPoolExecutor(8) as pool:
            found = list(
                pool.map(lambda k: checkpoints.read(tmp_path / ("mine.pth" if k % 2 else "x.pth")), range(200))
            )
        assert all(torch.equal(read["a"], state["a"]) for read in found)
        assert set(torch.serialization.get_safe_globals()) == before


# -- no checkpoint ----------------------------------------------------------------------------------------------------


def zipped(name: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, b"x")
    return file.getvalue()


def tarred() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("x"))
    return file.getvalue()


KINDS: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "an empty file"),
    "page": (b"\n<!DOCTYPE html><html><title>Sign in</title>", "a web page"),
    "xml": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code>', "a web page"),
    "pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\nsize 9\n",
        "a Git LFS pointer.*git lfs pull",
    ),
    "json": (b'{"message": "Not Found"}', 'text, which begins with \'{"message"'),
    "text": ("404: nichts gefünden\n".encode() * 40, "text, which begins with '404"),
    "gzip": (gzip.compress(b"x"), "a gzip file; unpack"),
    "bzip2": (bz2.compress(b"x"), "a bzip2 file; unpack"),
    "xz": (lzma.compress(b"x"), "an xz file; unpack"),
    "zip": (zipped("weights.pth"), "a zip archive; unpack"),
    "tar": (tarred(), "a tar archive; unpack"),
    "keras": (b"\x89HDF\r\n\x1a\n" + bytes(50), "an HDF5 file"),
    "numpy": (b"\x93NUMPY\x01\0" + bytes(50), "a NumPy array"),
}


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors", "w.bin"])
@pytest.mark.parametrize("allow_pickle", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_checkpoint_is_called_by_its_name(kind: str, allow_pickle: bool, name: str, tmp_path: Path) -> None:
    content, told = KINDS[kind]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"(?s){name}: no readable .*it is {told}") as error:
        checkpoints.read(tmp_path / name, allow_pickle=allow_pickle)
    assert "allow_pickle" not in str(error.value)


def test_the_content_decides_and_not_the_name(tmp_path: Path) -> None:
    from safetensors.torch import save

    (tmp_path / "w.pth").write_bytes(save({"a": torch.ones(2)}))
    assert torch.equal(checkpoints.read(tmp_path / "w.pth")["a"], torch.ones(2))
    (tmp_path / "p.pth").write_bytes(pickle.dumps({"a": [1.0]}, protocol=4))
    with pytest.raises(ValueError, match="not written by torch.save"):
        checkpoints.read(tmp_path / "p.pth")
    (tmp_path / "none.pth").write_bytes(save({}))
    with pytest.raises(ValueError, match="expected a state dict"):
        checkpoints.read(tmp_path / "none.pth")
    (tmp_path / "c.safetensors").write_text(json.dumps({}))
    with pytest.raises(ValueError, match="no readable safetensors file: it is text"):
        checkpoints.read(tmp_path / "c.safetensors")
