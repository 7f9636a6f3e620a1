from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from thoraxlib import graphs
from thoraxlib.graphs import Graph, LabelCounts
from thoraxlib.graphs.adjacency import Builder, label_graph

NAMES = ("a", "b", "c", "d")
WRITTEN = {"given": {"nodes": NAMES, "weights": torch.eye(4).tolist()}}


def counts_of(seed: int, unknown: float = 0.0) -> LabelCounts:
    generator = torch.Generator().manual_seed(seed)
    targets = (torch.rand(60, 4, generator=generator) < torch.rand(4, generator=generator)).float()
    targets[torch.rand(60, 4, generator=generator) < unknown] = float("nan")
    return LabelCounts.of(torch.cat([targets, torch.ones(1, 4)]), NAMES)


def built(name: str, **options: Any) -> Builder:
    return graphs.adjacency.build(name, **{**WRITTEN.get(name, {}), **options})


@pytest.mark.parametrize("name", graphs.adjacency.names())
def test_every_builder(name: str) -> None:
    counts = counts_of(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = built(name)(counts)
    assert graph.nodes == counts.labels
    assert (graph.weights.diagonal() > 0).all()  # a node hears itself
    assert graph.normalized().isfinite().all()
    # the graph is one of names: another order of the labels moves rows and columns
    turned = ("c", "a", "d", "b")
    at = [NAMES.index(label) for label in turned]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        other = built(name)(counts.select(turned))
    torch.testing.assert_close(other.weights, graph.weights[at][:, at])


def by_loop(counts: LabelCounts, threshold: float, p: float, divide: str) -> Tensor:
    """The formula of ML-GCN, entry by entry."""
    k = len(counts.labels)
    chance = [[int(counts.joint[i, j]) / max(int(counts.support[i, j]), 1) for j in range(k)] for i in range(k)]
    b = [[float(i != j and chance[i][j] >= threshold) for j in range(k)] for i in range(k)]
    weights = torch.eye(k, dtype=torch.float64)
    for i in range(k):
        for j in range(k):
            total = sum(b[m][j] for m in range(k)) if divide == "column" else sum(b[i])
            weights[i, j] += p / (1 - p) * b[i][j] / (total + 1e-6)
    return weights.float()


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 1000),
    st.floats(0.01, 1),
    st.floats(0, 0.95),
    st.sampled_from(["column", "row"]),
    st.sampled_from([0.0, 0.3]),
)
def test_mlgcn_is_its_formula(seed: int, threshold: float, p: float, divide: str, unknown: float) -> None:
    counts = counts_of(seed, unknown)
    graph = built("mlgcn", threshold=threshold, p=p, divide=divide, isolated="ignore")(counts)
    torch.testing.assert_close(graph.weights, by_loop(counts, threshold, p, divide))


def test_an_edge_says_what_implies_what() -> None:
    targets = torch.tensor([[1.0, 1.0]] * 2 + [[0.0, 1.0]] * 8)  # every a is a b, few b are an a
    graph = built("mlgcn", threshold=0.5)(LabelCounts.of(targets, ["a", "b"]))
    assert [edge[:2] for edge in graph.edges()] == [("a", "b")]
    received = graph.normalized() @ torch.tensor([[1.0], [0.0]])
    assert received[1] > 0  # b's classifier receives from a's
    assert (graph.normalized() @ torch.tensor([[0.0], [1.0]]))[0] == 0


def test_conditional() -> None:
    counts = counts_of(1, 0.2)
    chance = counts.conditional().float()
    plain = built("conditional", threshold=0.4)(counts).weights
    assert torch.equal(plain, ((chance > 0.4) | torch.eye(4).bool()).float())
    weighted = built("conditional", threshold=0.4, weighted=True)(counts).weights
    assert torch.equal(weighted, torch.where(chance > 0.4, chance, 0).fill_diagonal_(1))


def test_isolated_labels() -> None:
    nih = graphs.counts.build("nih14")
    with pytest.warns(UserWarning, match=r"threshold=0.3 leaves 9 of 14 labels without an edge: .*Hernia.*isolated="):
        graph = built("mlgcn", threshold=0.3)(nih)
    assert len(graph.isolated()) == 9
    assert "without an edge" in str(graph)
    with pytest.raises(ValueError, match="leaves 9 of 14 labels without an edge"):
        built("mlgcn", threshold=0.3, isolated="error")(nih)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        built("mlgcn", threshold=0.3, isolated="ignore")(nih)


@pytest.mark.parametrize("name", ["mlgcn", "conditional"])
def test_a_label_that_never_occurs(name: str) -> None:
    counts = LabelCounts.of(torch.tensor([[1, 0, 0], [1, 1, 0]]), ["Mass", "Nodule", "Hernia"])
    with pytest.raises(ValueError, match="no image has 'Hernia', so that nothing is known about its relations"):
        built(name)(counts)
    with pytest.raises(ValueError, match=r"no shipped counts have all of \['Mass', 'Fracture'\].*adjacency='identity'"):
        built(name)(["Mass", "Fracture"])


@pytest.mark.parametrize("name", ["identity", "full", "given"])
def test_builders_without_counts(name: str) -> None:
    nodes = ("d", "b")
    graph = built(name)(nodes)
    assert graph.nodes == nodes
    assert graph.weights.tolist() == ([[1, 1], [1, 1]] if name == "full" else [[1, 0], [0, 1]])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mlgcn", {"threshold": 0}, "threshold=0: from above 0 to 1"),
        ("mlgcn", {"threshold": 1.5}, "threshold=1.5"),
        ("mlgcn", {"p": 1}, "p=1: from 0 to below 1"),
        ("mlgcn", {"p": float("nan")}, "p=nan"),
        ("mlgcn", {"divide": "rows"}, "divide='rows': allowed are 'column' and 'row'"),
        ("mlgcn", {"isolated": "raise"}, "isolated='raise': allowed are 'warn', 'ignore', 'error'"),
        ("conditional", {"threshold": -0.1}, "threshold=-0.1: from 0 to 1"),
    ],
)
def test_bad_options(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        built(name, **options)


def test_label_graph_matches_by_name() -> None:
    options = {"name": "mlgcn", "threshold": 0.2, "isolated": "ignore"}
    whole = label_graph("nih14", options)
    own = label_graph(["Pleural Effusion", "Mass", "Infiltrate"], whole)
    at = [whole.nodes.index(node) for node in ("Effusion", "Mass", "Infiltration")]
    assert torch.equal(own.weights, whole.weights[at][:, at])
    from_counts = label_graph(["Nodule", "Mass"], options, "nih14")
    assert from_counts.nodes == ("Nodule", "Mass")
    assert torch.equal(label_graph(["Nodule", "Mass"], options).weights, from_counts.weights)
    other = label_graph(["a", "b"], options, counts_of(2))
    assert other.nodes == ("a", "b")
    assert label_graph(["a", "b"], lambda counts: Graph(counts.labels, torch.ones(2, 2)), counts_of(2)).edges()
    with pytest.raises(ValueError, match="counts have no 'Fracture'"):
        label_graph(["Fracture"], options, "nih14")
