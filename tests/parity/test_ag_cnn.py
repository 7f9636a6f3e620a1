"""AG-CNN as Ien001 wrote it: boxes exactly, crops within a grey level, logits of all three branches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from formulas import image, load_record, state_dict

import thoraxlib
from thoraxlib.checkpoints import CheckpointError, read_ag_cnn
from thoraxlib.models.ag_cnn import AGCNN, AGCNNOutput

GLOBAL, FUSION = load_record("ag_cnn_global.json"), load_record("ag_cnn_fusion.json")
GAINS = pytest.mark.parametrize(("outputs", "gain"), [("outputs", 1.0), ("outputs_gain2", 2.0)])
GREY = 1 / 255 / 0.224


def ien001(**options: Any) -> AGCNN:
    return thoraxlib.build("ag_cnn", preset="ien001", **options).eval()  # type: ignore[return-value]


@torch.inference_mode()
def run(gain: float, **options: Any) -> AGCNNOutput:
    model = ien001(**options)
    assert thoraxlib.load_checkpoint(model, state_dict(FUSION, gain)) == "ag_cnn"
    return model.forward_all(image(*FUSION["input"]["args"]))


def first(values: torch.Tensor, recorded: dict[str, Any]) -> float:
    expected = torch.tensor(recorded["first"])
    return float((values.flatten()[: len(expected)] - expected).abs().max())


@GAINS
@torch.inference_mode()
def test_the_global_branch_finds_the_recorded_boxes(outputs: str, gain: float) -> None:
    model = ien001()
    thoraxlib.load_checkpoint(model.global_branch, state_dict(GLOBAL, gain), labels="nih14")
    x = image(*GLOBAL["input"]["args"])
    features = model.global_branch.forward_features(x)
    found = model.crop(x, features)
    for k, mask in enumerate(GLOBAL[outputs]["mask"]):
        assert (255 * found.heat[k]).to(torch.uint8).tolist() == mask["heat_u8"]
        assert found.yxyx[k].tolist() == mask["box"]
        torch.testing.assert_close(features[k].sum(dim=0), torch.tensor(mask["heat_sum"]), rtol=1e-5, atol=1e-4)


@GAINS
def test_all_three_as_published(outputs: str, gain: float) -> None:
    expected, found = FUSION[outputs], run(gain)
    assert found.attention.valid.all()
    assert found.attention.yxyx.tolist() == [mask["box"] for mask in expected["mask"]]
    patch, recorded = found.attention.crop, expected["patch"]
    assert list(patch.shape) == recorded["shape"]
    assert first(patch, recorded) <= GREY * 1.001
    assert abs(float(patch.double().mean()) - recorded["mean"]) <= GREY / 1000
    assert abs(float(patch.double().std(correction=0)) - recorded["std"]) <= GREY / 1000
    for ours, part in ((found.global_logits, "global"), (found.local_logits, "local"), (found.logits, "fusion")):
        assert first(ours, expected[part]["logits"]) <= 1e-5


@GAINS
def test_all_three_with_a_clean_crop(outputs: str, gain: float) -> None:
    expected = FUSION[outputs]["derived_clean_crop"]
    found = run(gain, crop="ien001_clean")
    assert found.attention.yxyx.tolist() == [mask["box"] for mask in FUSION[outputs]["mask"]]
    assert first(found.attention.crop, expected["patch"]) <= 1e-5
    assert first(found.local_logits, expected["local_logits"]) <= 1e-5
    assert first(found.logits, expected["fusion_logits"]) <= 1e-5


def test_the_three_published_files(tmp_path: Path) -> None:
    state = state_dict(FUSION)
    paths = {}
    for part in ("global_branch", "local_branch", "fusion"):
        paths[part] = tmp_path / f"{part}.pkl"
        prefix = f"{part}."
        torch.save({key.removeprefix(prefix): v for key, v in state.items() if key.startswith(prefix)}, paths[part])
    model, whole = ien001(), ien001()
    assert thoraxlib.load_checkpoint(model, read_ag_cnn(**paths)) == "ag_cnn"
    thoraxlib.load_checkpoint(whole, state)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), whole.state_dict().values(), strict=True))
    with pytest.raises(ValueError, match=r"fusion='.*local_branch\.pkl' has no entry 'fc\.weight'"):
        read_ag_cnn(paths["global_branch"], paths["fusion"].with_name("local_branch.pkl"), paths["local_branch"])
    with pytest.raises(FileNotFoundError):
        read_ag_cnn(paths["global_branch"], paths["local_branch"], tmp_path / "none.pkl")
    with pytest.raises(CheckpointError, match=r"14 outputs, the model 15: build it with labels='nih14"):
        thoraxlib.load_checkpoint(ien001(labels="nih15"), state)
