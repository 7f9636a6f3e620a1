from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from thoraxlib import graphs
from thoraxlib.graphs import Graph
from thoraxlib.graphs.graph import NORMALIZATIONS

NODES = ("Edema", "Effusion", "Mass", "Nodule", "Hernia")


def random_graph(seed: int, k: int = 5) -> Graph:
    generator = np.random.default_rng(seed)
    weights = generator.random((k, k)) * (generator.random((k, k)) < 0.5)
    return Graph(NODES[:k], torch.from_numpy(weights))


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.integers(1, 5))
def test_normalisation_formulas(seed: int, k: int) -> None:
    graph = random_graph(seed, k)
    a = graph.weights.double().numpy()
    sums = a.sum(axis=1)
    d = np.diag([s**-0.5 if s else 0 for s in sums])
    row = np.stack([values / s if s else values for values, s in zip(a, sums, strict=True)])
    expected = {"sym_transposed": (a @ d).T @ d, "sym": d @ a @ d, "row": row, "none": a}
    assert set(expected) == set(NORMALIZATIONS)
    for kind, matrix in expected.items():
        normalised = graph.normalized(kind)
        np.testing.assert_allclose(normalised.numpy(), matrix, rtol=1e-5, atol=1e-7)
        assert normalised.isfinite().all()
    assert graph.normalized("none") is not graph.weights


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000))
def test_edges_are_the_matrix(seed: int) -> None:
    graph = random_graph(seed)
    again = torch.zeros(5, 5)
    source, target = graph.edge_index
    again[source, target] = graph.edge_weight
    assert torch.equal(again, graph.weights)
    named = {(source, target): weight for source, target, weight in graph.edges()}
    linked = {node for edge in named for node in edge}
    assert set(graph.isolated()) == set(NODES) - linked
    for i, source_node in enumerate(NODES):
        for j, target_node in enumerate(NODES):
            expected = float(graph.weights[i, j]) if i != j else 0
            assert named.get((source_node, target_node), 0) == expected
    assert f"5 nodes, {len(named)} edges" in str(graph)
    assert all(f"{source} -> {target}" in str(graph) for source, target in named)


@pytest.mark.parametrize("name", ["graph.json", "graph.csv", "graph.npz", "new/folder/graph.npz"])
def test_save_and_load(name: str, tmp_path: Path) -> None:
    graph = random_graph(1)
    graph.save(tmp_path / name)
    loaded = Graph.load(tmp_path / name)
    assert loaded.nodes == graph.nodes
    assert torch.equal(loaded.weights, graph.weights)
    assert len(list((tmp_path / name).parent.iterdir())) == 1


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", "{}"),
        ("a.json", "[]"),
        ("a.json", "\xff"),
        ("a.json", '{"nodes": ["a", "b"], "weights": [[1], [1, 2]]}'),
        ("a.json", '{"nodes": ["a", "b"], "weights": [[1, -1], [1, 2]]}'),
        ("a.npz", "no archive"),
        ("a.npz", ""),
        ("a.npz", "PK\x03\x04 cut off"),
        ("a.csv", ""),
        ("a.csv", "a\tb\n1.0\t0.0\n"),
        ("a.csv", "a\tb\n1.0\t0.0\n0.0\tone\n"),
        ("a.csv", "a\tb\n1.0\t0.0\n0.0\n"),
    ],
)
def test_files_without_a_graph(name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match=rf"{name} holds no graph \('nodes', 'weights'\)"):
        Graph.load(tmp_path / name)


def test_another_extension_and_no_file(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", nodes=np.array(["a"]))
    with pytest.raises(ValueError, match="holds no graph.*weights"):
        Graph.load(tmp_path / "a.npz")
    with pytest.raises(ValueError, match=r"must end in \.json, \.npz or \.csv, got 'graph\.pkl'"):
        random_graph(0).save(tmp_path / "graph.pkl")
    assert not (tmp_path / "graph.pkl").exists()
    with pytest.raises(FileNotFoundError):
        Graph.load(tmp_path / "absent.json")


@pytest.mark.parametrize(
    ("nodes", "weights", "message"),
    [
        (["a", "b"], [[1, -0.5], [0, 1]], "weights must be finite and 0 or more; from 'a' to 'b' it is -0.5"),
        (["a", "b"], [[1, 0], [float("nan"), 1]], "from 'b' to 'a' it is nan"),
        (["a", "b"], [[1, 0], [0, float("inf")]], "from 'b' to 'b' it is inf"),
        (["a", "b"], [[1, 0]], r"weights must be \(2, 2\), one row for each node, got \(1, 2\)"),
        (["a", "a"], [[1, 0], [0, 1]], r"\['a'\] more than once"),
        ([], [], "non-empty"),
    ],
)
def test_invalid_graphs(nodes: list[str], weights: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Graph(tuple(nodes), torch.tensor(weights))


def test_a_graph_copies_its_weights() -> None:
    weights = torch.nn.Parameter(torch.eye(2))
    graph = Graph(("a", "b"), weights)
    weights.data.zero_()
    assert torch.equal(graph.weights, torch.eye(2))
    assert not graph.weights.requires_grad
    assert Graph(("a", "b"), [[1, 0], [0, 1]]).weights.dtype == torch.float32  # type: ignore[arg-type]


def test_select_by_canonical_name() -> None:
    graph = random_graph(3)
    part = graph.select(["Mass", "Pleural Effusion"])
    assert part.nodes == ("Mass", "Pleural Effusion")
    assert torch.equal(part.weights, graph.weights[[2, 1]][:, [2, 1]])
    with pytest.raises(ValueError, match="the graph has no 'Fracture'; its nodes are Edema"):
        graph.select(["Mass", "Fracture"])


def test_unknown_normalisation() -> None:
    with pytest.raises(ValueError, match="normalize='column': allowed are 'sym_transposed', 'sym', 'row', 'none'"):
        random_graph(0).normalized("column")


def test_registry_spec_rebuilds_the_graph() -> None:
    graph = random_graph(2)
    again = graphs.adjacency.registry.resolve(graph.registry_spec)(graph.nodes)
    assert again.nodes == graph.nodes
    assert torch.equal(again.weights, graph.weights)
