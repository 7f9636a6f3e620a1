from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from thoraxlib import datasets, graphs
from thoraxlib.graphs import RegionCounts
from thoraxlib.graphs.counts import shipped_regions

REGIONS, FINDINGS = ("left", "right", "middle"), ("x", "y")
FIELDS = ("both", "either", "usable")


def labels_of(seed: int, images: int = 40, unknown: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    targets = (torch.rand(images, 3, 2, generator=generator) < 0.3).float()
    targets[torch.rand(images, 3, 2, generator=generator) < unknown] = torch.nan
    return targets


def same(a: RegionCounts, b: RegionCounts) -> bool:
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in FIELDS)


@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.3]), st.booleans())
@settings(deadline=None, max_examples=25)
def test_counts_equal_their_definition(seed: int, unknown: float, complete: bool) -> None:
    targets = labels_of(seed, unknown=unknown)
    counts = RegionCounts.of(targets, REGIONS, FINDINGS, complete=complete)
    images = [image for image in targets.tolist() if not complete or all(any(v == v for v in row) for row in image)]
    for k in range(2):
        for a in range(3):
            for b in range(3):
                known = [i for i in images if i[a][k] == i[a][k] and i[b][k] == i[b][k]]
                assert counts.both[k, a, b] == sum(i[a][k] == 1 and i[b][k] == 1 for i in known)
                assert counts.either[k, a, b] == sum(i[a][k] == 1 or i[b][k] == 1 for i in known)
                assert counts.usable[k, a, b] == sum(1 in i[a] or 1 in i[b] for i in known)


def test_chunks_types_and_order(monkeypatch: pytest.MonkeyPatch) -> None:
    targets = labels_of(1)
    whole = RegionCounts.of(targets, REGIONS, FINDINGS)
    for other in (
        targets.numpy().astype(np.uint8),
        targets.bool(),
        targets.numpy()[::-1],
        iter([targets[:7], targets[7:]]),
    ):
        assert same(whole, RegionCounts.of(other, REGIONS, FINDINGS))
    monkeypatch.setattr("thoraxlib.graphs.counts._REGION_CHUNK", 3)
    assert same(whole, RegionCounts.of(targets, REGIONS, FINDINGS))
    turned = RegionCounts.of(targets[:, [2, 0, 1]], [REGIONS[i] for i in (2, 0, 1)], FINDINGS)
    assert same(whole, turned.select(REGIONS))


def test_missing_regions() -> None:
    targets = labels_of(2)
    targets[:10, 1] = torch.nan
    assert same(RegionCounts.of(targets, REGIONS, FINDINGS), RegionCounts.of(targets[10:], REGIONS, FINDINGS))
    every = RegionCounts.of(targets, REGIONS, FINDINGS, complete=False)
    only = RegionCounts.of(targets[:, [0, 2]], ["left", "middle"], FINDINGS)
    assert same(every.select(["left", "middle"]), only)


def test_files_and_specs(tmp_path: Path) -> None:
    counts = RegionCounts.of(labels_of(3), REGIONS, FINDINGS)
    counts.save(tmp_path / "counts.json")
    assert same(RegionCounts.load(tmp_path / "counts.json"), counts)
    assert same(RegionCounts.from_json(counts.registry_spec), counts)
    graph = graphs.adjacency.region_graph(REGIONS, "jaccard", counts)
    assert torch.equal(graphs.adjacency.region_graph(REGIONS, "jaccard", counts.registry_spec).weights, graph.weights)
    (tmp_path / "counts.json").write_text('{"regions": ["a"]}')
    with pytest.raises(ValueError, match=r"counts.json holds no region counts"):
        RegionCounts.load(tmp_path / "counts.json")


def test_shipped() -> None:
    counts = shipped_regions()
    alike = counts.jaccard()
    assert torch.equal(alike, alike.T)
    assert bool(((alike >= 0) & (alike <= 1)).all())
    assert graphs.adjacency.region_graph(counts.regions, "jaccard").edges()


def test_shipped_counts_are_those_of_the_synthetic_data_set() -> None:
    images = datasets.build("synthetic", size=64, length=1000, masks=False)
    targets = torch.stack([images[n]["region_labels"] for n in range(len(images))])  # type: ignore[arg-type]
    assert same(RegionCounts.of(targets, "regions18", "nih14"), shipped_regions())


def test_synthetic_graph() -> None:
    graph = graphs.adjacency.build("synthetic")(shipped_regions().regions)
    edges = {(source, target) for source, target, _ in graph.edges()}
    assert ("right lung", "right lower lung zone") in edges
    assert ("left apical zone", "left upper lung zone") in edges
    assert ("left apical zone", "right costophrenic angle") not in edges
    assert set(graph.isolated()) == {"mediastinum", "upper mediastinum", "cardiac silhouette", "trachea"}
    with pytest.raises(TypeError, match="'synthetic' has its own counts"):
        graphs.adjacency.region_graph(graph.nodes, "synthetic", shipped_regions())


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (torch.zeros(4, 2, 2), r"targets must be \(N, 3, 2\): images, regions, findings; got shape \(4, 2, 2\)"),
        (torch.zeros(4, 6), r"got shape \(4, 6\)"),
        (torch.full((1, 3, 2), 2.0), r"targets must be 0, 1 or NaN, got 2.0 at \[0, 0, 0\]"),
    ],
)
def test_invalid_targets(targets: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RegionCounts.of(targets, REGIONS, FINDINGS)


def test_an_error_names_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("thoraxlib.graphs.counts._REGION_CHUNK", 3)
    for targets in (torch.zeros(9, 3, 2), labels_of(1, unknown=0.5)):
        targets[7, 2, 1] = -1
        with pytest.raises(ValueError, match=r"got -1.0 at \[7, 2, 1\]"):
            RegionCounts.of(targets, REGIONS, FINDINGS)


def test_invalid_counts() -> None:
    some = torch.ones(2, 3, 3, dtype=torch.int64)
    with pytest.raises(ValueError, match="0 <= both <= either <= usable"):
        RegionCounts(REGIONS, FINDINGS, some, some - 1, some)
    with pytest.raises(ValueError, match=r"either must be integers \(2, 3, 3\)"):
        RegionCounts(REGIONS, FINDINGS, some, some.float(), some)
    with pytest.raises(ValueError, match="average='mean'"):
        RegionCounts(REGIONS, FINDINGS, some, some, some).jaccard(average="mean")
