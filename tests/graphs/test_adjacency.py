from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from thoraxlib import graphs
from thoraxlib.graphs import Graph, LabelCounts, RegionCounts
from thoraxlib.graphs.adjacency import Builder, label_graph, region_graph

NAMES = ("a", "b", "c", "d")
WRITTEN = {"given": {"nodes": NAMES, "weights": torch.eye(4).tolist()}}


def counts_of(seed: int, unknown: float = 0.0) -> LabelCounts:
    generator = torch.Generator().manual_seed(seed)
    targets = (torch.rand(60, 4, generator=generator) < torch.rand(4, generator=generator)).float()
    targets[torch.rand(60, 4, generator=generator) < unknown] = float("nan")
    return LabelCounts.of(torch.cat([targets, torch.ones(1, 4)]), NAMES)


def region_counts_of(seed: int) -> RegionCounts:
    generator = torch.Generator().manual_seed(seed)
    targets = (torch.rand(60, 4, 3, generator=generator) < torch.rand(4, 3, generator=generator)).float()
    return RegionCounts.of(targets, NAMES, ["x", "y", "z"])


def built(name: str, **options: Any) -> Builder:
    return graphs.adjacency.build(name, **{**WRITTEN.get(name, {}), **options})


@pytest.mark.parametrize("name", graphs.adjacency.names())
def test_every_builder(name: str) -> None:
    if name == "synthetic":
        pytest.skip("it knows the regions of the synthetic data set: tests/graphs/test_region_counts.py")
    counts = region_counts_of(0) if name == "jaccard" else counts_of(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = built(name)(counts)
    assert graph.nodes == NAMES
    assert (graph.weights.diagonal() > 0).all()  # a node receives its own features
    assert graph.normalized().isfinite().all()
    # the graph is one of names: another order of the labels moves rows and columns
    turned = ("c", "a", "d", "b")
    at = [NAMES.index(label) for label in turned]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        other = built(name)(counts.select(turned))
    torch.testing.assert_close(other.weights, graph.weights[at][:, at])


def by_loop(counts: LabelCounts, threshold: float, p: float, divide: str) -> Tensor:
    """Compute the formula of ML-GCN, entry by entry."""
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
def test_mlgcn_formula(seed: int, threshold: float, p: float, divide: str, unknown: float) -> None:
    counts = counts_of(seed, unknown)
    graph = built("mlgcn", threshold=threshold, p=p, divide=divide, isolated="ignore")(counts)
    torch.testing.assert_close(graph.weights, by_loop(counts, threshold, p, divide))


def test_direction_of_edges() -> None:
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
        ("mlgcn", {"divide": "rows"}, "divide='rows': allowed are 'column', 'row'"),
        ("mlgcn", {"isolated": "raise"}, "isolated='raise': allowed are 'warn', 'ignore', 'error'"),
        ("conditional", {"threshold": -0.1}, "threshold=-0.1: from 0 to 1"),
    ],
)
def test_invalid_options(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        built(name, **options)


def test_label_graph_selects_by_name() -> None:
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


def by_loops(targets: Tensor, average: str) -> Tensor:
    """Compute the mean Jaccard index like AnaXNet's code: pair by pair, finding by finding, with scikit-learn."""
    from sklearn.metrics import jaccard_score

    regions, findings = targets.shape[1:]
    result = torch.eye(regions, dtype=torch.float64)
    for a in range(regions):
        for b in range(regions):
            some = (targets[:, a] == 1).any(dim=1) | (targets[:, b] == 1).any(dim=1)
            pairs = [(targets[some, a, f].int().numpy(), targets[some, b, f].int().numpy()) for f in range(findings)]
            if average == "macro":
                values = [jaccard_score(x, y, average="macro") for x, y in pairs if len(x)]
            else:
                values = [jaccard_score(x, y) for x, y in pairs if x.any() or y.any()]
            if a != b and values:
                result[a, b] = sum(values) / len(values)
    return result


@given(st.integers(0, 10_000), st.sampled_from(["macro", "positive"]), st.integers(1, 30))
@settings(deadline=None, max_examples=25)
def test_jaccard_by_scikit_learn(seed: int, average: str, images: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    targets = (torch.rand(images, 4, 3, generator=generator) < 0.6 * torch.rand(4, 3, generator=generator)).float()
    counts = RegionCounts.of(targets, NAMES, ["x", "y", "z"])
    torch.testing.assert_close(counts.jaccard(average=average), by_loops(targets, average), rtol=0, atol=1e-12)


def test_jaccard_options() -> None:
    counts = region_counts_of(3)
    alike = counts.jaccard()
    assert torch.equal(built("jaccard")(counts).weights, (alike > 0.5).float())
    weighted = built("jaccard", weighted=True, threshold=0.2)(counts).weights
    torch.testing.assert_close(weighted, torch.where(alike > 0.2, alike, 0.0).float())
    # a finding that nobody has makes all regions alike, unless it is left out
    targets = torch.zeros(4, 2, 2)
    targets[:2, 0, 0] = targets[2:, 1, 0] = 1
    counts = RegionCounts.of(targets, ["a", "b"], ["x", "never"])
    assert counts.jaccard()[0, 1] == 0.5
    assert counts.jaccard(skip_absent=True)[0, 1] == 0
    assert built("jaccard")(counts).edges() == []
    assert len(built("jaccard", threshold=0.4)(counts).edges()) == 2


def test_counts_without_any_finding() -> None:
    incomplete = torch.ones(5, 2, 1)
    incomplete[:, 1] = torch.nan
    for targets in (torch.zeros(5, 2, 1), incomplete):
        with pytest.warns(UserWarning, match="no counted image has a finding, so that the graph has no edge"):
            assert not built("jaccard")(RegionCounts.of(targets, ["a", "b"], ["x"])).edges()


def test_findings_graph_with_a_label_that_never_occurs() -> None:
    counts = LabelCounts.of(torch.tensor([[1, 1, 0], [1, 0, 0]]), ["a", "b", "never"])
    with pytest.raises(ValueError, match="no image has 'never'"):
        built("conditional")(counts)
    weights = built("conditional", absent="ignore")(counts).weights
    assert weights.tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 0]]


def test_region_graph() -> None:
    counts = region_counts_of(1)
    graph = region_graph(["c", "a"], "jaccard", counts)
    assert torch.equal(graph.weights, built("jaccard")(counts).select(["c", "a"]).weights)
    assert region_graph(["c", "a"], graph).nodes == ("c", "a")
    with pytest.raises(ValueError, match="counts go with a builder"):
        region_graph(["c", "a"], graph, counts)
    assert region_graph(["left lung"], "identity").weights.tolist() == [[1]]


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: built("jaccard")(counts_of(0)), TypeError, "needs RegionCounts, got LabelCounts"),
        (lambda: built("conditional")(region_counts_of(0)), TypeError, "needs LabelCounts, got RegionCounts"),
        (lambda: region_graph(NAMES, "jaccard", "nih14"), TypeError, "counts='nih14': RegionCounts"),  # type: ignore[arg-type]
        (lambda: built("jaccard", threshold=1), ValueError, "threshold=1: from 0 to below 1"),
        (lambda: built("jaccard", average="micro"), ValueError, "average='micro'"),
        (lambda: built("conditional", absent="drop"), ValueError, "absent='drop'"),
        (lambda: built("jaccard")(["spleen"]), ValueError, r"no shipped counts have all of \['spleen'\]"),
        (lambda: region_graph(["spleen"], "jaccard", region_counts_of(0)), ValueError, "counts have no 'spleen'"),
    ],
)
def test_region_graph_errors(call: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        call()
