from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_model, save_model
from torch import Tensor, nn

from thoraxlib import graphs
from thoraxlib.graphs import Graph, GraphOperator


def line(reverse: bool = False, weight: float = 0.5) -> Graph:
    """a -> b -> c, or the other way round."""
    links = torch.diag(torch.full((2,), weight), -1 if reverse else 1)
    return Graph(("a", "b", "c"), torch.eye(3) + links)


def from_edges(operator: GraphOperator) -> Tensor:
    matrix = torch.zeros_like(operator.matrix)
    source, target = operator.edge_index
    matrix[target, source] = operator.edge_weight
    return matrix.detach()


@pytest.mark.parametrize("normalize", ["sym_transposed", "sym", "row", "none"])
@pytest.mark.parametrize("learn", [False, True])
def test_matrix_and_edges(normalize: str, learn: bool) -> None:
    operator = GraphOperator(line(), normalize=normalize, learn=learn)
    torch.testing.assert_close(operator.matrix.detach(), line().normalized(normalize))
    assert torch.equal(from_edges(operator), operator.matrix.detach())
    assert list(operator.state_dict()) == ["matrix"]
    assert isinstance(operator.matrix, nn.Parameter) == learn
    assert f"nodes=3, learn={learn}" in str(operator)


@pytest.mark.parametrize("learn", [False, True])
@pytest.mark.parametrize("assign", [False, True])
def test_loading_weights_updates_the_edges(learn: bool, assign: bool) -> None:
    operator, other = GraphOperator(line(), learn=learn), GraphOperator(line(reverse=True), learn=learn)
    holder = nn.ModuleDict({"graph": operator})
    holder.load_state_dict({"graph.matrix": other.matrix.detach().clone()}, assign=assign)
    assert torch.equal(operator.edge_index, other.edge_index)
    assert torch.equal(from_edges(operator), other.matrix.detach())
    full = GraphOperator(Graph(("a", "b", "c"), torch.ones(3, 3)))
    operator.load_state_dict(full.state_dict())
    assert operator.edge_index.shape == (2, 9)


def test_a_copy_loads_independently() -> None:
    operator = GraphOperator(line())
    twin = copy.deepcopy(operator)
    twin.load_state_dict(GraphOperator(line(reverse=True)).state_dict())
    assert torch.equal(from_edges(twin), line(reverse=True).normalized())
    assert torch.equal(from_edges(operator), line().normalized())


def test_loading_a_file_updates_the_edges(tmp_path: Path) -> None:
    save_model(GraphOperator(line(reverse=True)), str(tmp_path / "graph.safetensors"))
    operator = GraphOperator(line())
    load_model(operator, str(tmp_path / "graph.safetensors"))
    assert torch.equal(from_edges(operator), line(reverse=True).normalized())


@pytest.mark.parametrize("convolution", ["dense", "GCNConv"])
def test_learned_adjacency(convolution: str) -> None:
    """Two nodes learn to use each other: an entry that is 0 at first for the dense product, an edge for both."""
    torch.manual_seed(0)
    operator = GraphOperator(line(weight=0.01), normalize="none", learn=True)
    convolve = graphs.convolutions.build(convolution, in_channels=2, out_channels=2)
    x, wanted = torch.randn(3, 2), torch.randn(3, 2)
    before = operator.matrix.detach().clone()
    optimiser = torch.optim.Adam([operator.matrix], 0.05)
    losses = []
    for _ in range(50):
        loss = (convolve(x, operator) - wanted).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    moved = operator.matrix.detach() != before
    assert moved.all() if convolution == "dense" else torch.equal(moved, before != 0)
    # what was learned travels: the same outputs after loading
    again = GraphOperator(line(), normalize="none", learn=True)
    again.load_state_dict(operator.state_dict())
    torch.testing.assert_close(convolve(x, again), convolve(x, operator))
