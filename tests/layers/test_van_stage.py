from __future__ import annotations

import pytest
import torch
from torch import nn

from thoraxlib import backbones, layers
from thoraxlib.layers.van import VANStage


@pytest.mark.parametrize(("size", "out"), [((7, 7), (4, 4)), ((1, 1), (1, 1)), ((6, 11), (3, 6))])
def test_shapes_and_gradients(size: tuple[int, int], out: tuple[int, int]) -> None:
    stage = layers.build("van_stage", in_channels=8, out_channels=12, depth=2)
    x = torch.randn(2, 8, *size, requires_grad=True)
    y = stage(x)
    assert y.shape == (2, 12, *out)
    assert stage.out_channels == 12
    torch.testing.assert_close(y.mean(1), torch.zeros(2, *out), atol=1e-6, rtol=0)  # after a layer norm
    (y * torch.randn_like(y)).sum().backward()
    assert x.grad is not None
    assert all(p.grad is not None for p in stage.parameters())


def test_the_backbone_is_made_of_stages() -> None:
    """Under the published names, patch_embed1 and so on, and with the same numbers."""
    van = backbones.build("van_b0").eval()
    state = van.state_dict()
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        expected = van(x)
        for index, (width, depth, ratio) in enumerate(zip(van.channels, (3, 3, 5, 2), (8, 8, 4, 4), strict=True)):
            first = {} if index else {"kernel_size": 7, "stride": 4}
            stage = VANStage(x.shape[1], out_channels=width, depth=depth, mlp_ratio=ratio, eps=1e-6, **first).eval()
            stage.load_state_dict({key: state[key.replace(".", f"{index + 1}.", 1)] for key in stage.state_dict()})
            x = stage(x)
            torch.testing.assert_close(x, expected[index])


def test_stochastic_depth() -> None:
    rates = [block.drop_path for block in layers.build("van_stage", in_channels=4, depth=2, drop_path=[0, 0.3]).block]
    assert isinstance(rates[0], nn.Identity)
    assert rates[1].drop_prob == 0.3
    drop_path = [block.drop_path for stage in (1, 4) for block in _stage(stage)]
    assert isinstance(drop_path[0], nn.Identity)
    assert drop_path[-1].drop_prob == pytest.approx(0.1)


def _stage(number: int) -> nn.Sequential:
    block = backbones.build("van_b0", drop_path_rate=0.1).get_submodule(f"block{number}")
    assert isinstance(block, nn.Sequential)
    return block


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_compiles_where_the_map_becomes_one_place(layout: torch.memory_format) -> None:
    torch._dynamo.reset()
    stage = layers.build("van_stage", in_channels=16, depth=1).eval()
    x = torch.randn(2, 16, 2, 2).contiguous(memory_format=layout)
    torch.testing.assert_close(torch.compile(stage, backend="aot_eager", fullgraph=True)(x), stage(x))


def test_errors() -> None:
    with pytest.raises(ValueError, match="depth must be at least 1 and drop_path one rate or 0, got 0"):
        layers.build("van_stage", in_channels=4, depth=0)
    with pytest.raises(ValueError, match=r"one rate or 5, got 5 and \[0.1\]"):
        layers.build("van_stage", in_channels=4, drop_path=[0.1])
    with pytest.raises(ValueError, match="kernel_size must be odd, got 4"):
        layers.build("van_stage", in_channels=4, kernel_size=4)
