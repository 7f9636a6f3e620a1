from __future__ import annotations

import pytest
import torch

from thoraxlib import layers


@pytest.mark.parametrize("kind", ["conv1x1", "conv3x3", "none"])
@pytest.mark.parametrize("size", [None, 8])
def test_shapes_and_gradients(kind: str, size: int | None) -> None:
    block = layers.build("transition", in_channels=6, kind=kind, size=size)
    x = torch.randn(2, 6, 5, 5, requires_grad=True)
    out = block(x)
    assert out.shape == (2, 6, *((5, 5) if size is None else (8, 8)))
    assert kind == "none" or out.min() >= 0
    out.sum().backward()
    assert x.grad is not None


def test_parameters_of_the_spec() -> None:
    block = layers.build("transition", in_channels=2048)
    convolution = [p for p in block.parameters() if p.ndim == 4]
    assert [p.numel() for p in convolution] == [4_194_304]
    assert layers.build("transition", in_channels=8, out_channels=4, kind="conv3x3").out_channels == 4
    assert not list(layers.build("transition", in_channels=8, kind="none").parameters())


def test_errors() -> None:
    with pytest.raises(ValueError, match="allowed are 'conv1x1', 'conv3x3', 'none'"):
        layers.build("transition", in_channels=3, kind="conv5x5")
    with pytest.raises(ValueError, match="'none' keeps the 3 channels"):
        layers.build("transition", in_channels=3, kind="none", out_channels=4)
    with pytest.raises(ValueError, match="size must be"):
        layers.build("transition", in_channels=3, size=0)
