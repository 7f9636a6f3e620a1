from __future__ import annotations

import pytest
import torch
from formulas import assert_matches, image, load_record, state_dict
from torch import nn

from thoraxlib import layers

NAMES = ["channel_attention", "spatial_attention", "pyramid_attention"]
RECORDS = {
    "channel_attention": "wsp_attention_cam.json",
    "spatial_attention": "wsp_attention_sam.json",
    "pyramid_attention": "wsp_attention_fpa.json",
}
FLAGS = {"channel_attention": "CAM", "spatial_attention": "SAM", "pyramid_attention": "FPA"}


def filled(name: str, record: str, prefix: str) -> nn.Module:
    """The block with the record's weights, through the names that checkpoints have."""
    block = layers.build(name, in_channels=16).eval()
    state = {f"{prefix}{key}": value for key, value in state_dict(load_record(record)).items()}
    pairs = block.checkpoint_keys(state)
    assert set(pairs) == set(block.state_dict())
    block.load_state_dict({own: state[theirs] for own, theirs in pairs.items()})
    return block


@pytest.mark.parametrize("name", NAMES)
@torch.inference_mode()
def test_records(name: str) -> None:
    record = load_record(RECORDS[name])
    x, out = image(*record["input"]["args"]), record["outputs"]
    block = filled(name, RECORDS[name], f"{name}.")
    assert_matches(block(x), out["output"], 1e-5)
    if "output_gamma_1" in out:  # the formula gives gamma 0
        assert float(block.gamma) == 0
        block.gamma.fill_(1)
        assert_matches(block(x), out["output_gamma_1"], 1e-5)
    assert sum(p.numel() for p in block.parameters()) == record["parameters"]


@pytest.mark.parametrize("name", NAMES)
@torch.inference_mode()
def test_wrapper_record(name: str) -> None:
    record = load_record("wsp_attention_map.json")
    x, out, flag = image(*record["input"]["args"]), record["outputs"], FLAGS[name]
    block = filled(name, "wsp_attention_map.json", "")
    assert_matches(block(x), out[flag], 1e-5)
    assert_matches(block(block(x)), out[f"{flag}_applied_twice"], 1e-5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(7, 7), (8, 8), (1, 1), (5, 11), (15, 14)])
def test_every_size_and_gradients(name: str, size: tuple[int, int]) -> None:
    block = layers.build(name, in_channels=16)
    x = torch.randn(2, 16, *size, requires_grad=True)
    out = block(x)
    assert out.shape == x.shape
    assert block.out_channels == 16
    out.sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert all(p.grad is not None for p in block.parameters())


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_norms_of_the_pyramid(norm: str) -> None:
    block = layers.build("pyramid_attention", in_channels=48, norm=norm).eval()
    assert block(torch.randn(1, 48, 9, 9)).isfinite().all()
    if norm == "group":
        assert block.train()(torch.randn(1, 48, 9, 9)).isfinite().all()  # a batch of one


def test_positions_do_not_matter_to_channel_attention_and_follow_in_spatial_attention() -> None:
    x, order = torch.randn(2, 16, 4, 5), torch.randperm(20)
    shuffled = x.flatten(2)[..., order].view_as(x)
    for name in ("channel_attention", "spatial_attention"):
        block = layers.build(name, in_channels=16).eval()
        if name == "spatial_attention":
            torch.testing.assert_close(block(x), x)  # gamma starts at 0
            nn.init.ones_(block.gamma)
        torch.testing.assert_close(block(shuffled), block(x).flatten(2)[..., order].view_as(x))


def test_errors() -> None:
    with pytest.raises(ValueError, match="reduction must be an int from 1 to the 4 channels, got 8"):
        layers.build("spatial_attention", in_channels=4)
    with pytest.raises(ValueError, match="norm='layer': allowed are 'batch', 'group'"):
        layers.build("pyramid_attention", in_channels=4, norm="layer")
