from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from thoraxlib import graphs
from thoraxlib.graphs import Graph, GraphOperator
from thoraxlib.registry import OptionError, UnknownNameError

NAMES = graphs.convolutions.names()
NEEDED: dict[str, dict[str, Any]] = {"EGConv": {"num_heads": 2}, "MixHopConv": {"powers": [1]}}


def operator(seed: int = 0, k: int = 5, *, normalize: str = "sym_transposed", learn: bool = False) -> GraphOperator:
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand(k, k, generator=generator) * (torch.rand(k, k, generator=generator) < 0.4)
    graph = Graph(tuple("abcdefgh"[:k]), weights.fill_diagonal_(1))
    return GraphOperator(graph, normalize=normalize, learn=learn)


def layer(name: str, before: int = 6, after: int = 4, **options: Any) -> nn.Module:
    return graphs.convolutions.build(
        name, in_channels=before, out_channels=after, **{**NEEDED.get(name, {}), **options}
    ).eval()


@pytest.mark.parametrize("name", NAMES)
def test_every_convolution(name: str) -> None:
    convolve, graph = layer(name), operator()
    x = torch.randn(5, 6, requires_grad=True)
    out = convolve(x, graph)
    assert out.shape == (5, 4)
    out.square().sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in convolve.parameters())
    # graphs of a batch do not see each other, however it is shaped
    batch = torch.randn(2, 3, 5, 6)
    together = convolve(batch, graph)
    assert together.shape == (2, 3, 5, 4)
    for i in range(2):
        for j in range(3):
            torch.testing.assert_close(together[i, j], convolve(batch[i, j], graph))


@pytest.mark.parametrize("name", NAMES)
def test_every_convolution_uses_the_graph(name: str) -> None:
    """A node's output depends on itself and on those that send to it, and on no other one."""
    convolve = layer(name)
    line = Graph(tuple("abcde"), torch.eye(5) + torch.diag(torch.full((4,), 0.5), 1))  # a -> b -> c -> d -> e
    x = torch.randn(8, 5, 6, requires_grad=True)
    received = torch.zeros(5, 5)
    for i, row in enumerate(convolve(x, GraphOperator(line)).unbind(dim=1)):
        (gradient,) = torch.autograd.grad(row.square().sum(), x, retain_graph=True)
        received[i] = gradient.abs().sum(dim=(0, 2))
    hops = {"TAGConv": 3, "SGConv": 1}.get(name, 1)
    allowed = sum(torch.linalg.matrix_power((line.weights > 0).float().T, n) for n in range(hops + 1)) > 0
    assert (received[~allowed] == 0).all()
    assert (received.diagonal(-1) > 0).all()


@pytest.mark.parametrize("normalize", ["sym_transposed", "sym", "row", "none"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("widths", [(6, 4), (4, 6)])
def test_gcnconv_is_the_dense_product(normalize: str, bias: bool, widths: tuple[int, int]) -> None:
    graph = operator(1, normalize=normalize)
    dense, geometric = layer("dense", *widths, bias=bias), layer("GCNConv", *widths, bias=bias)
    geometric.layer.lin.weight.data = dense.weight.data.T
    if bias:
        geometric.layer.bias.data = dense.bias.data
    x = torch.randn(3, 5, widths[0])
    torch.testing.assert_close(geometric(x, graph), dense(x, graph))
    expected = graph.matrix @ x @ dense.weight + (dense.bias if bias else 0)
    torch.testing.assert_close(dense(x, graph), expected)


@pytest.mark.parametrize("name", ["dense", "GCNConv", "GraphConv", "TAGConv"])
def test_edge_weights_are_used_and_trained(name: str) -> None:
    graph = operator(2, learn=True)
    layer(name)(torch.randn(5, 6), graph).square().sum().backward()
    assert graph.matrix.grad is not None
    source, target = graph.edge_index
    assert (graph.matrix.grad[target, source] != 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_bias_is_an_option(name: str) -> None:
    without = {key for key, _ in layer(name, bias=False).named_parameters()}
    assert without <= {key for key, _ in layer(name, bias=True).named_parameters()}
    if name in ("dense", "GCNConv", "SAGEConv", "GATv2Conv"):
        assert not any("bias" in key for key in without)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", ["dense", "GCNConv", "SAGEConv", "GATv2Conv"])
def test_precisions(name: str, dtype: torch.dtype) -> None:
    convolve, graph, x = layer(name), operator(), torch.randn(5, 6)
    expected = convolve(x, graph)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(convolve(x, graph).float(), expected, rtol=0.1, atol=0.1)
    out = convolve.to(dtype)(x.to(dtype), graph.to(dtype))
    assert out.dtype == dtype
    torch.testing.assert_close(out.float(), expected, rtol=0.1, atol=0.1)


def test_names_and_options_of_torch_geometric() -> None:
    assert {"dense", "GCNConv", "GATv2Conv", "SAGEConv", "GraphConv", "TransformerConv"} <= set(NAMES)
    assert "GATv2Conv" in graphs.convolutions.describe("GATv2Conv").summary
    assert type(layer("gcnconv").layer) is type(layer("GCNConv").layer)
    assert layer("GATv2Conv", heads=2, concat=False)(torch.randn(5, 6), operator()).shape == (5, 4)
    with pytest.raises(OptionError, match="GATv2Conv gives 8 channels instead of 4.*concat=False"):
        layer("GATv2Conv", heads=2)(torch.randn(5, 6), operator())
    with pytest.raises(OptionError, match="torch_geometric's GCNConv: .*'hedas'"):
        layer("GCNConv", hedas=2)
    for unknown in ("GINConv", "MeshCNNConv", "gcn", "MessagePassing"):  # a network, a mesh, no layer
        with pytest.raises(UnknownNameError, match=f"convolutions: unknown name '{unknown}'"):
            layer(unknown)
