"""The rarer networks of QUST-SmartData/CXRClassification, where the manifest's lookups do not reach."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from formulas import assert_matches, hashed_weight, image, load_record, state_dict
from torch import Tensor, nn

import thoraxlib
from thoraxlib.heads.query_decoder import sine_positions

MODELS = {"vtnet": "cxr_vtnet.json", "densevan": "cxr_densevan.json", "dense_and_van": "cxr_dense_and_van.json"}


def loaded(name: str, record: dict[str, Any]) -> Any:
    model = thoraxlib.build(name, preset="original").eval()
    thoraxlib.load_checkpoint(model, state_dict(record))
    return model


def outputs_of(model: nn.Module, names: list[str], x: Tensor) -> dict[str, Tensor]:
    seen: dict[str, Tensor] = {}
    for name in names:
        model.get_submodule(name).register_forward_hook(lambda m, i, out, name=name: seen.__setitem__(name, out))
    model(x)
    return seen


def test_the_hash_fill() -> None:
    for name in ("cxr_vanillanet5.json", "cxr_dense_and_van.json"):
        variant = load_record(name)["fill_variant"]
        expected = variant["first_values_of_a_(4,3)_entry_with_index_5"]
        np.testing.assert_allclose(hashed_weight((4, 3), 5).reshape(-1)[:6], expected, rtol=1e-7)


@torch.inference_mode()
def test_transformer_of_vtnet() -> None:
    record = load_record("cxr_vtnet.json")
    model, expected = loaded("vtnet", record), record["outputs"]
    layers = {
        f"transformer.{part}.layers.{index}": f"head.{part}.{index}"
        for part, indices in (("encoder", (0, 2)), ("decoder", (0, 5)))
        for index in indices
    }
    seen = outputs_of(model, list(layers.values()), image(*record["input"]["args"]))
    for theirs, ours in layers.items():
        assert_matches(seen[ours].transpose(0, 1), expected[theirs])
    assert_matches(sine_positions(2, 2, 512).expand(2, -1, -1, -1), expected["pos_emb"], 1e-5)


@pytest.mark.parametrize(
    ("name", "norms"),
    [
        ("vtnet", {"backbone.norm1": "backbone.norm1", "backbone.norm4": "backbone.norm4"}),
        ("densevan", {"norm1": "backbone.norm1", "norm4": "backbone.norm4"}),
        ("dense_and_van", {"van.norm1": "neck.norm"}),
    ],
)
@torch.inference_mode()
def test_layer_norms_whose_records_are_tokens(name: str, norms: dict[str, str]) -> None:
    record = load_record(MODELS[name])
    seen = outputs_of(loaded(name, record), list(norms.values()), image(*record["input"]["args"]))
    for theirs, ours in norms.items():
        assert_matches(seen[ours].flatten(2).mT, record["outputs"][theirs])


def test_the_position_code_of_a_checkpoint_is_not_needed() -> None:
    state = state_dict(load_record("cxr_vtnet.json"))
    model = thoraxlib.build("vtnet", preset="original")
    with_code = {**state, "pos_emb.pe": torch.randn(1, 512, 7, 7)}
    assert thoraxlib.load_checkpoint(model, {f"module.{key}": value for key, value in with_code.items()}) == "cxr_vtnet"
    assert torch.equal(model.head.queries, state["query_embed.weight"])
    assert torch.equal(model.head.decoder[4].norm2.weight, state["transformer.decoder.layers.4.norm3.weight"])
    assert torch.equal(model.head.decoder_share, state["W2"][0])


@pytest.mark.parametrize("name", ["van", "vtnet", "vanillanet"])
def test_own_state_dicts_are_not_taken_for_theirs(name: str) -> None:
    model = thoraxlib.build(name)
    assert thoraxlib.load_checkpoint(model, model.state_dict(), labels=model.labels) == "thoraxlib"


@torch.inference_mode()
def test_vanillanet_before_and_after_fusing() -> None:
    record = load_record("cxr_vanillanet5.json")
    model, x = loaded("vanillanet", record), image(*record["input"]["args"])
    features = model.forward_features(x)
    hidden = model.head.norm(model.head.fc(model.head.vector(features)))
    assert_matches(hidden[:, :, None, None], record["outputs"]["cls1"])
    assert_matches(model.logit_maps(features).mean((2, 3)), record["outputs"]["logits"])

    model.backbone.fuse()
    model.head.fuse()
    assert not any(isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)) for module in model.modules())
    assert_matches(model(x), record["outputs"]["logits_after_fusing"], 1e-5)
    assert_matches(model.logit_maps(model.forward_features(x)).mean((2, 3)), record["outputs"]["logits"], 1e-5)
    assert sum(p.numel() for p in model.parameters()) == record["parameters_after_fusing"]
