"""Adjacency builders: from counts of labels, or of findings in regions, to a graph."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from thoraxlib import labels as label_sets
from thoraxlib.graphs import counts as label_counts
from thoraxlib.graphs.counts import LabelCounts, RegionCounts, shipped, shipped_regions
from thoraxlib.graphs.graph import Graph
from thoraxlib.registry import Registry, Spec
from thoraxlib.utils.arguments import one_of

#: Input of a builder: counts, or the names of the nodes, for which shipped counts are used if needed.
Counts = LabelCounts | RegionCounts | Sequence[str]
#: Function from counts to a graph on their labels or regions.
Builder = Callable[[Counts], Graph]

registry: Registry[Builder] = Registry("graphs.adjacency")
build, register, names, describe = registry.build, registry.register, registry.names, registry.describe

_ISOLATED = ("warn", "ignore", "error")


@register("mlgcn")
class MLGCN:
    """Thresholded and re-weighted co-occurrence (Chen et al. 2019, arXiv 1904.03582, equations 6 to 8).

    With P(j | i) = images with both over images with i: ``B_ij = [P(j | i) >= threshold]``, and
    ``A = I + p / (1 - p) B_ij / (sum of B + 1e-6)``, with the sum over column j as in the paper's code
    (``divide="column"``), or over row i as in its first version. An edge i -> j means that i implies j.

    Parameters
    ----------
    threshold : float
        In (0, 1]. The paper uses 0.4; SegFusionVANGCN 0.3, which leaves 3 edges on NIH's 14 labels; 0.2 leaves 17.
    p : float
        In [0, 1): weight of the neighbours of a node.
    divide : {"column", "row"}
        Direction of the sum above.
    isolated : {"warn", "ignore", "error"}
        Reaction to labels without an edge.

    Raises
    ------
    ValueError
        `threshold` or `p` out of range; when called: a label that never occurs, or labels without counts.
    """

    def __init__(
        self, *, threshold: float = 0.2, p: float = 0.2, divide: str = "column", isolated: str = "warn"
    ) -> None:
        if not 0 < threshold <= 1:
            raise ValueError(f"threshold={threshold}: from above 0 to 1")
        if not 0 <= p < 1:
            raise ValueError(f"p={p}: from 0 to below 1")
        one_of("divide", divide, ("column", "row"))
        one_of("isolated", isolated, _ISOLATED)
        self.threshold, self.p, self.divide, self.isolated = threshold, p, divide, isolated

    def __call__(self, counts: Counts) -> Graph:
        """Build the graph of `counts`."""
        counts = _with_counts(counts)
        implied = (counts.conditional() >= self.threshold).double().fill_diagonal_(0)
        total = implied.sum(dim=0 if self.divide == "column" else 1, keepdim=True)
        weights = self.p / (1 - self.p) * implied / (total + 1e-6)
        graph = Graph(counts.labels, weights.fill_diagonal_(1))
        isolated = graph.isolated()
        if isolated and self.isolated != "ignore":
            message = (
                f"threshold={self.threshold} leaves {len(isolated)} of {len(graph.nodes)} labels without an edge: "
                f"{', '.join(isolated)}; lower it, or pass isolated='ignore'"
            )
            if self.isolated == "error":
                raise ValueError(message)
            warnings.warn(message, stacklevel=2)
        return graph


@register("conditional")
class Conditional:
    """Edges i -> j where P(j | i) exceeds a threshold, and a loop at every node.

    With ``absent="ignore"`` and the labels of all regions, it is AnaXNet's graph of findings.

    Parameters
    ----------
    threshold : float
        In [0, 1]: P(j | i) of an edge is larger.
    weighted : bool
        The weight of an edge is P(j | i) instead of 1.
    absent : {"error", "ignore"}
        Reaction to a label that never occurs; with "ignore" it has no edge, not even the loop.

    Raises
    ------
    ValueError
        A threshold outside [0, 1]; when called: a label that never occurs.
    """

    def __init__(self, *, threshold: float = 0.4, weighted: bool = False, absent: str = "error") -> None:
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold={threshold}: from 0 to 1")
        one_of("absent", absent, ("error", "ignore"))
        self.threshold, self.weighted, self.absent = threshold, weighted, absent

    def __call__(self, counts: Counts) -> Graph:
        """Build the graph of `counts`."""
        counts = _with_counts(counts, absent=self.absent)
        chance = counts.conditional()
        weights = torch.where(chance > self.threshold, chance if self.weighted else 1.0, 0.0)
        weights.diagonal().copy_(counts.positives > 0)
        return Graph(counts.labels, weights)


@register("jaccard")
class Jaccard:
    """Edges between regions with similar findings (AnaXNet, Agu et al. 2021), and a loop at every node.

    It takes counts of findings in regions, or uses shipped ones for names. There is no edge between two regions that
    never have a finding.

    Parameters
    ----------
    threshold : float
        In [0, 1): the mean Jaccard index of an edge is larger.
    weighted : bool
        The weight of an edge is the mean index instead of 1.
    average, skip_absent
        See :meth:`thoraxlib.graphs.RegionCounts.jaccard`.

    Warns
    -----
    UserWarning
        No counted image has a finding.
    """

    def __init__(
        self, *, threshold: float = 0.5, weighted: bool = False, average: str = "macro", skip_absent: bool = False
    ) -> None:
        if not 0 <= threshold < 1:
            raise ValueError(f"threshold={threshold}: from 0 to below 1")
        one_of("average", average, ("macro", "positive"))
        self.threshold, self.weighted, self.average, self.skip_absent = threshold, weighted, average, skip_absent

    def __call__(self, counts: Counts) -> Graph:
        """Build the graph of `counts`."""
        if isinstance(counts, LabelCounts):
            raise TypeError("this builder is for regions: it needs RegionCounts, got LabelCounts")
        if not isinstance(counts, RegionCounts):
            counts = shipped_regions(tuple(counts))
        if not bool(counts.usable.any()):
            warnings.warn(
                "no counted image has a finding, so that the graph has no edge; an image is not counted if a region "
                "has no known finding, unless RegionCounts.of(..., complete=False)",
                stacklevel=2,
            )
        alike = counts.jaccard(average=self.average, skip_absent=self.skip_absent)
        return Graph(counts.regions, torch.where(alike > self.threshold, alike if self.weighted else 1.0, 0.0))


@register("synthetic")
class Synthetic:
    """Graph of regions that share findings in images of ``datasets.build("synthetic")``: a stand-in without data.

    There is an edge where the mean Jaccard index of presence exceeds 0.2. The synthetic findings lie in the lungs, so
    that mediastinum, heart and trachea have no edge. The graph says nothing about patients: count their labels instead.
    """

    def __call__(self, regions: Counts) -> Graph:
        """Build the graph on `regions`."""
        if isinstance(regions, LabelCounts | RegionCounts):
            raise TypeError("adjacency 'synthetic' has its own counts; for a graph of given counts, use 'jaccard'")
        return Jaccard(average="positive", threshold=0.2)(regions)


@register("identity")
class Identity:
    """Graph with only the loop at every node, as ablation of a label graph. It needs no counts."""

    def __call__(self, labels: Counts) -> Graph:
        """Build the graph on `labels`."""
        nodes = _names(labels)
        return Graph(nodes, torch.eye(len(nodes), device="cpu"))


@register("full")
class Full:
    """Complete graph: an edge of weight 1 from every node to every node and itself. It needs no counts."""

    def __call__(self, labels: Counts) -> Graph:
        """Build the graph on `labels`."""
        nodes = _names(labels)
        return Graph(nodes, torch.ones(len(nodes), len(nodes), device="cpu"))


@register("given")
class Given:
    """Graph with given weights.

    Parameters
    ----------
    nodes : sequence of str
        Names.
    weights : sequence of sequence of float
        (K, K); see :class:`thoraxlib.graphs.Graph`.
    """

    def __init__(self, *, nodes: Sequence[str], weights: Sequence[Sequence[float]]) -> None:
        self.graph = Graph(tuple(nodes), torch.tensor(weights, device="cpu"))

    def __call__(self, labels: Counts) -> Graph:
        """Select the nodes `labels`."""
        return self.graph.select(_names(labels))


def label_graph(
    labels: str | Sequence[str], adjacency: Spec | Graph | Builder, counts: str | Spec | LabelCounts | None = None
) -> Graph:
    """Build the graph on `labels` from `counts`.

    Parameters
    ----------
    labels : str or sequence of str
        The nodes, in this order.
    adjacency : str, mapping, builder or Graph
        From this registry; of a ready graph, the nodes are selected by name.
    counts : str, mapping or LabelCounts, optional
        From :mod:`thoraxlib.graphs.counts`; by default shipped ones that have all labels.
    """
    return _graph(labels, adjacency, None if counts is None else label_counts.registry.resolve(counts))


def region_graph(
    regions: str | Sequence[str],
    adjacency: Spec | Graph | Builder,
    counts: Mapping[str, Any] | RegionCounts | None = None,
) -> Graph:
    """Build the graph on `regions` from `counts`.

    Parameters
    ----------
    regions : str or sequence of str
        The nodes, in this order.
    adjacency : str, mapping, builder or Graph
        From this registry; of a ready graph, the nodes are selected by name.
    counts : RegionCounts or mapping, optional
        The counts, or a mapping of their fields; by default shipped ones that have all regions.

    Raises
    ------
    TypeError
        `counts` of another type.
    ValueError
        Regions that graph or counts lack; `counts` together with a ready graph.
    """
    if counts is not None and isinstance(adjacency, Graph):
        raise ValueError("counts go with a builder: the adjacency given is a graph already")
    if isinstance(counts, Mapping):
        counts = RegionCounts.from_json(counts)
    if counts is not None and not isinstance(counts, RegionCounts):
        raise TypeError(f"counts={counts!r}: RegionCounts or a mapping of their fields is needed")
    return _graph(regions, adjacency, counts)


def _graph(
    names: str | Sequence[str], adjacency: Spec | Graph | Builder, counts: LabelCounts | RegionCounts | None
) -> Graph:
    nodes = label_sets.resolve(names)
    if isinstance(adjacency, Graph):
        return adjacency.select(nodes)
    return registry.resolve(adjacency)(nodes if counts is None else counts.select(nodes))


def _names(labels: Counts) -> tuple[str, ...]:
    if isinstance(labels, LabelCounts):
        return labels.labels
    return labels.regions if isinstance(labels, RegionCounts) else label_sets.resolve(tuple(labels))


def _with_counts(counts: Counts, absent: str = "error") -> LabelCounts:
    """Return `counts`, or shipped ones for labels; raise ValueError for a label that never occurs."""
    if isinstance(counts, RegionCounts):
        raise TypeError("this builder is for labels: it needs LabelCounts, got RegionCounts")
    if not isinstance(counts, LabelCounts):
        counts = shipped(tuple(counts))
    if counts.absent and absent == "error":
        lost = ", ".join(map(repr, counts.absent))
        raise ValueError(
            f"no image has {lost}, so that nothing is known about its relations: leave the label out, or count more "
            "images"
        )
    return counts
