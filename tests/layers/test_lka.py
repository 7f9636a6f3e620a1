from __future__ import annotations

import pytest
import torch
from formulas import assert_matches, image, load_record, state_dict
from torch import nn

from thoraxlib import layers
from thoraxlib.layers.lka import DepthwiseConv2d, split_kernel

NAMES = ["lka", "lka_multiscale", "lka_dilated", "lka_attention", "van_block"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(7, 7), (1, 1), (5, 11)])
def test_every_size_and_gradients(name: str, size: tuple[int, int]) -> None:
    block = layers.build(name, in_channels=8)
    x = torch.randn(2, 8, *size, requires_grad=True)
    out = block(x)
    assert out.shape == x.shape
    assert block.out_channels == 8
    out.square().sum().backward()
    assert x.grad is not None
    assert all(p.grad is not None for p in block.parameters())


@pytest.mark.parametrize("dilation", [1, 2, 3, 5])
@pytest.mark.parametrize("size", [(14, 14), (7, 9), (3, 20), (1, 1)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_phases_are_the_dilated_convolution(dilation: int, size: tuple[int, int], layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    conv = DepthwiseConv2d(6, 7, dilation).double()
    x = torch.randn(2, 6, *size, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_()
    expected, ours = nn.Conv2d.forward(conv, x), conv(x)
    torch.testing.assert_close(ours, expected)
    upstream = torch.randn_like(expected)
    leaves = [x, conv.weight, conv.bias]
    for a, b in zip(
        torch.autograd.grad(expected, leaves, upstream), torch.autograd.grad(ours, leaves, upstream), strict=True
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dilation", [1, 3])
def test_large_kernels_under_autocast(dilation: int, dtype: torch.dtype) -> None:
    """In the precision of the weights if gradients are enabled, which are slow in bfloat16; else in bfloat16."""
    conv, x = DepthwiseConv2d(4, 5, dilation).to(dtype), torch.randn(2, 4, 9, 9)
    with torch.autocast("cpu", torch.bfloat16):
        out = conv(x.bfloat16())
        with torch.no_grad():
            assert conv(x).dtype == torch.bfloat16
        assert DepthwiseConv2d(4, 3)(x).dtype == torch.bfloat16
    expected = conv(x.bfloat16().to(dtype))
    assert torch.equal(out, expected)
    for got, wanted in zip(
        *(torch.autograd.grad(y.sum(), [conv.weight, conv.bias]) for y in (out, expected)), strict=True
    ):
        assert torch.equal(got, wanted)


@pytest.mark.parametrize(
    ("kernel", "dilation", "parts"), [(21, 3, (5, 7)), (7, 1, (1, 7)), (13, 3, (5, 5)), (35, 5, (9, 7))]
)
def test_kernel_split(kernel: int, dilation: int, parts: tuple[int, int]) -> None:
    assert split_kernel(kernel, dilation) == parts
    lka = layers.build("lka", in_channels=4, kernel_size=kernel, dilation=dilation)
    assert (lka.conv0.kernel_size[0], lka.conv_spatial.kernel_size[0]) == parts


def test_parameter_counts_of_the_spec() -> None:
    count = lambda module: sum(p.numel() for p in module.parameters())  # noqa: E731
    assert count(layers.build("lka", in_channels=16)) == 1488
    assert count(layers.build("van_block", in_channels=16, mlp_ratio=8)) == 7648


@torch.inference_mode()
def test_lka_record() -> None:
    record = load_record("cxr_lka.json")
    x = image(*record["input"]["args"])
    lka = layers.build("lka", in_channels=16)
    lka.load_state_dict(state_dict(record))
    assert_matches(lka(x), record["outputs"]["output"], 1e-5)
    attention = layers.build("lka_attention", in_channels=16)
    attention.load_state_dict(state_dict(record["attention_unit"]))
    assert_matches(attention(x), record["attention_unit"]["outputs"]["output"], 1e-5)


@torch.inference_mode()
def test_records_of_the_variants() -> None:
    record = load_record("cxr_lka.json")["multi_scale_lka"]
    x = image(*record["input"]["args"])
    renamed = {"conv.weight": "conv.weight", "conv.bias": "conv.bias"}
    for b in range(5):
        for part, theirs in enumerate((f"conv{b + 1}0", f"conv_spatial{b + 1}1", f"conv{b + 1}2")):
            renamed |= {f"{theirs}.{leaf}": f"branches.{b}.{part}.{leaf}" for leaf in ("weight", "bias")}
    state = {renamed[key]: value for key, value in state_dict(record).items()}
    for used, output in (((0, 1, 2, 2, 2), "output"), (None, "output_with_all_five_branches")):
        block = layers.build("lka_multiscale", in_channels=8, used=used)
        block.load_state_dict(state)
        assert_matches(block(x), record["outputs"][output], 1e-5)

    record = load_record("cxr_lka.json")["dilated_lka"]
    block = layers.build("lka_dilated", in_channels=8)
    own = [key.replace("conv", "kernels.") if "1x1" not in key else key for key in state_dict(record)]
    block.load_state_dict(dict(zip(own, state_dict(record).values(), strict=True)))
    assert_matches(block(x), record["outputs"]["output"], 1e-5)


@torch.inference_mode()
def test_van_block_record() -> None:
    record = load_record("cxr_van_block.json")
    block = layers.build("van_block", in_channels=16, mlp_ratio=8).eval()
    block.load_state_dict(state_dict(record))
    assert_matches(block(image(*record["input"]["args"])), record["outputs"]["output"], 1e-5)


def test_stochastic_depth_and_dropout_act_in_training_only() -> None:
    torch.manual_seed(0)
    block = layers.build("van_block", in_channels=8, drop_path=0.5, dropout=0.5)
    nn.init.ones_(block.layer_scale_1)
    x = torch.randn(4, 8, 6, 6)
    assert not torch.equal(block(x), block(x))
    block.eval()
    assert torch.equal(block(x), block(x))


def test_errors() -> None:
    with pytest.raises(ValueError, match="kernel_size must be odd and dilation at least 1, got 20 and 3"):
        layers.build("lka", in_channels=4, kernel_size=20)
    with pytest.raises(ValueError, match="dilated kernel of 4, which is even"):
        layers.build("lka", in_channels=4, kernel_size=11, dilation=3)
    with pytest.raises(ValueError, match="used must be 5 positions"):
        layers.build("lka_multiscale", in_channels=4, used=(0, 1, 9, 2, 2))
