"""Whole models against the original authors' outputs, row by row of manifest.json.

A row's outputs map a record's names to ours: a field of ``forward_all`` or a dotted attribute of one, "probabilities",
"logit_maps", "probability_maps", "cam", "maps.<i>" of ``forward_all`` or else of the backbone, "fused.<i>" of a fusion,
"attended.<k>" of a classwise head, or "module:<dotted name>". "unregistered": the file is to hold the tensors that the
original keeps in plain lists, too.
"""

from __future__ import annotations

import json
import operator
from functools import lru_cache, reduce
from pathlib import Path
from typing import Any

import pytest
import torch
from formulas import assert_matches, image, load_record, state_dict

import thoraxlib

ROWS = json.loads((Path(__file__).parent / "manifest.json").read_text(encoding="utf-8"))


def _id(row: dict[str, Any]) -> str:
    options = {key: value for key, value in row["build"][1].items() if key != "preset"}
    return "-".join([Path(row["record"]).stem, *(str(value) for value in options.values())])


CASES = [
    pytest.param(row, outputs, gain, id=f"{_id(row)}-{outputs}")
    for row in ROWS
    for outputs, gain in (("outputs", 1.0), ("outputs_gain2", 2.0))
    if outputs in load_record(row["record"])
]
FIRST_ROWS = {row["record"]: row for row in reversed(ROWS)}.values()


@lru_cache(maxsize=2)  # some are large
def _state(record_name: str, gain: float, unregistered: bool = False) -> dict[str, torch.Tensor]:
    # the fully connected layers of VGG, unused, are six times as large as all the rest
    skip = "backbone.classifier." if "vgg" in record_name else None
    return state_dict(load_record(record_name), gain, skip, unregistered)


def _state_of(row: dict[str, Any], gain: float = 1.0) -> dict[str, torch.Tensor]:
    return _state(row["record"], gain, row.get("unregistered", False))


def _inputs(record: dict[str, Any]) -> tuple[torch.Tensor, ...]:
    args = record["input"]["args"]
    x = image(*args)
    # "The UNet is not run: the full-size mask is image(2, 1, H, W, 0.5) > 0."
    return (x, (image(args[0], 1, *args[2:], 0.5) > 0).float()) if "mask_given" in record else (x,)


def _lookup(model: Any, everything: Any, maps: list[torch.Tensor], seen: dict[str, Any], name: str) -> torch.Tensor:
    kind, _, rest = name.partition(".")
    if name.startswith("module:"):
        return seen[name]
    if kind == "maps":
        return (everything.maps if "maps" in everything._fields else maps)[int(rest)]
    if kind == "fused":
        return everything.fused[int(rest)]
    if kind == "attended":
        return model.head._attended(everything.features)[int(rest)][0]
    if kind in everything._fields:
        return operator.attrgetter(name)(everything)
    return {
        "probabilities": lambda: everything.logits.sigmoid(),
        "logit_maps": lambda: model.logit_maps(everything.features),
        "probability_maps": lambda: model.logit_maps(everything.features).sigmoid(),
        "cam": lambda: model.logit_maps(everything.features, bias=False),
    }[name]()


def _recorded(outputs: dict[str, Any], name: str) -> dict[str, Any]:
    """A record's output, by a name that may have dots itself, or be a path."""
    return outputs[name] if name in outputs else reduce(operator.getitem, name.split("."), outputs)


@pytest.mark.parametrize(("row", "outputs", "gain"), CASES)
def test_outputs_match_the_record(row: dict[str, Any], outputs: str, gain: float) -> None:
    record = load_record(row["record"])
    name, options = row["build"]
    model = thoraxlib.build(name, **options).eval()
    thoraxlib.load_checkpoint(model, _state_of(row, gain), layout=row["layout"], labels=model.labels)
    seen: dict[str, Any] = {}
    for wanted in row["outputs"].values():
        if wanted.startswith("module:"):
            module = model.get_submodule(wanted.removeprefix("module:"))
            # copied: an in-place ReLU may follow
            module.register_forward_hook(lambda m, i, o, wanted=wanted: seen.__setitem__(wanted, o.clone()))
    x, *masks = _inputs(record)
    with torch.inference_mode():
        everything = model.forward_all(x, *masks)
        own = "maps" not in everything._fields and any(ours.startswith("maps.") for ours in row["outputs"].values())
        maps = model.backbone(x) if own else []
        assert row["outputs"]
        for recorded, ours in row["outputs"].items():
            assert_matches(_lookup(model, everything, maps, seen, ours), _recorded(record[outputs], recorded))


@pytest.mark.parametrize("row", FIRST_ROWS, ids=_id)
def test_the_layout_is_recognised_by_its_keys(row: dict[str, Any]) -> None:
    name, options = row["build"]
    model = thoraxlib.build(name, **options)
    assert thoraxlib.load_checkpoint(model, _state_of(row), labels=model.labels) == row["layout"]


@pytest.mark.parametrize("row", FIRST_ROWS, ids=_id)
def test_parameter_count(row: dict[str, Any]) -> None:
    """The original's and what it has in plain lists, less what it keeps without using."""
    name, options = row["build"]
    model, record = thoraxlib.build(name, **options), load_record(row["record"])
    unused = sum(
        torch.Size(shape).numel()
        for key, shape, _ in record["state"]
        if key.startswith(tuple(row.get("unused", ())))
        and not key.endswith(("running_mean", "running_var", "num_batches_tracked"))
    )
    assert sum(p.numel() for p in model.parameters()) == record["parameters"] + _unregistered(record) - unused


def _unregistered(record: dict[str, Any]) -> int:
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    entries = record.get("state_not_registered", [])
    return sum(torch.Size(shape).numel() for key, shape, _, _ in entries if not key.endswith(buffers))


def test_unified_dcnn_at_another_size() -> None:
    record = load_record("unified_dcnn_resnet50.json")
    model = thoraxlib.build("unified_dcnn", preset="jaydurant").eval()
    thoraxlib.load_checkpoint(model, state_dict(record, 2.0))
    expected = record["outputs_gain2_250"]
    with torch.inference_mode():
        result = model.forward_all(image(*expected["input"]["args"]))
    assert_matches(result.features, expected["layer4"])
    assert_matches(result.logits, expected["logits"])


@pytest.mark.parametrize(("outputs", "gain"), [("outputs", 1.0), ("outputs_gain2", 2.0)])
def test_ten_crops(outputs: str, gain: float) -> None:
    from thoraxlib.models.tta import TenCrop

    record = load_record("chexnet_arnoweng.json")
    model = thoraxlib.build("chexnet", preset="arnoweng").eval()
    thoraxlib.load_checkpoint(model, state_dict(record, gain))
    extra = record["extra_inputs"]["tencrop"]
    x = image(*extra["args"])
    with torch.inference_mode():
        mean = TenCrop(model, size=extra["crop"], chunk=7).predict_proba(x)
    assert_matches(mean, record[outputs]["tencrop.mean_probabilities"])


@torch.inference_mode()
def test_inception_s_second_normalisation_is_a_matter_of_the_input() -> None:
    """JF's `transform_input`: the mean and deviation that docs/papers/pcam.md gives instead."""
    record = load_record("jfhealthcare_inception_v3_pcam.json")
    pixels = image(*record["input"]["args"]) * 64 / 255 + 128 / 255
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ([0.5184, 0.5513, 0.6068], [0.5480, 0.5602, 0.5577]))
    model = thoraxlib.build("pcam", preset="jfhealthcare", backbone="inception_v3").eval()
    thoraxlib.load_checkpoint(model, _state("jfhealthcare_inception_v3_pcam.json", 1.0))
    assert_matches(model((pixels - mean) / std), record["outputs"]["logits_transform_input"])
