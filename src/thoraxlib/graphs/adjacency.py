"""Adjacency builders: counts of labels, or of findings in regions -> graph."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import torch

from thoraxlib import labels as label_sets
from thoraxlib.graphs import counts as label_counts
from thoraxlib.graphs import region_counts
from thoraxlib.graphs.counts import LabelCounts
from thoraxlib.graphs.graph import Graph
from thoraxlib.graphs.region_counts import RegionCounts
from thoraxlib.registry import Registry, Spec
from thoraxlib.utils.arguments import one_of

#: What a graph is made from: counts, or the nodes' names alone, for which shipped counts are looked up if needed.
Counts = LabelCounts | RegionCounts | Sequence[str]
#: From counts to a graph on their labels or regions.
Builder = Callable[[Counts], Graph]

registry: Registry[Builder] = Registry("graphs.adjacency")
build, register, names, describe = registry.build, registry.register, registry.names, registry.describe

_ISOLATED = ("warn", "ignore", "error")


@register("mlgcn")
class MLGCN:
    """Thresholded and re-weighted co-occurrence (Chen et al. 2019, arXiv 1904.03582, equations 6 to 8).

    With P(j | i) = images with both over images with i: ``B_ij = [P(j | i) >= threshold]``, and
    ``A = I + p / (1 - p) B_ij / (sum of B + 1e-6)``, the sum over column j in the paper's code (``divide="column"``) or
    over row i as its first version reads. An edge i -> j says that i implies j.

    Parameters
    ----------
    threshold : float
        In (0, 1]. The paper has 0.4; SegFusionVANGCN 0.3, which leaves 3 edges on NIH's 14 labels; 0.2 has 17.
    p : float
        In [0, 1): how much of a node comes from its neighbours.
    divide : {"column", "row"}
        See above.
    isolated : {"warn", "ignore", "error"}
        What to do about labels without an edge.

    Raises
    ------
    ValueError
        A parameter out of its range; when called: a label that never occurs, or labels without counts.
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
        """The graph of `counts`."""
        counts = _with_counts(counts)
        implied = (counts.conditional() >= self.threshold).double().fill_diagonal_(0)
        total = implied.sum(dim=0 if self.divide == "column" else 1, keepdim=True)
        weights = self.p / (1 - self.p) * implied / (total + 1e-6)
        graph = Graph(counts.labels, weights.fill_diagonal_(1))
        alone = graph.isolated()
        if alone and self.isolated != "ignore":
            message = (
                f"threshold={self.threshold} leaves {len(alone)} of {len(graph.nodes)} labels without an edge: "
                f"{', '.join(alone)}; lower it, or pass isolated='ignore'"
            )
            if self.isolated == "error":
                raise ValueError(message)
            warnings.warn(message, stacklevel=2)
        return graph


@register("conditional")
class Conditional:
    """An edge i -> j where P(j | i) exceeds a threshold, and a loop at every node.

    AnaXNet's findings graph, of the labels of all regions, with ``absent="ignore"``.

    Parameters
    ----------
    threshold : float
        In [0, 1]: P must be larger.
    weighted : bool
        The edge weighs P(j | i) instead of 1.
    absent : {"error", "ignore"}
        What to do about a label that never occurs; with "ignore" it has no edge, not even the loop.

    Raises
    ------
    ValueError
        A threshold outside of [0, 1], or another `absent`; when called: a label that never occurs.
    """

    def __init__(self, *, threshold: float = 0.4, weighted: bool = False, absent: str = "error") -> None:
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold={threshold}: from 0 to 1")
        one_of("absent", absent, ("error", "ignore"))
        self.threshold, self.weighted, self.absent = threshold, weighted, absent

    def __call__(self, counts: Counts) -> Graph:
        """The graph of `counts`."""
        counts = _with_counts(counts, absent=self.absent)
        chance = counts.conditional()
        weights = torch.where(chance > self.threshold, chance if self.weighted else 1.0, 0.0)
        weights.diagonal().copy_(counts.positives > 0)
        return Graph(counts.labels, weights)


@register("jaccard")
class Jaccard:
    """An edge between regions whose findings are alike (AnaXNet, Agu et al. 2021), and a loop at every node.

    Takes counts of findings in regions; from names alone, shipped ones. Where two regions are not seen with any
    finding, there is no edge.

    Parameters
    ----------
    threshold : float
        In [0, 1): the mean Jaccard index must be larger.
    weighted : bool
        The edge weighs the mean index instead of 1.
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
        """The graph of `counts`."""
        if isinstance(counts, LabelCounts):
            raise TypeError("this builder relates regions: it wants RegionCounts, got LabelCounts")
        if not isinstance(counts, RegionCounts):
            counts = region_counts.shipped(tuple(counts))
        if not bool(counts.usable.any()):
            warnings.warn(
                "no counted image has a finding, so that the graph has no edge; a region without any known finding "
                "leaves its image out, unless RegionCounts.of(..., complete=False)",
                stacklevel=2,
            )
        alike = counts.jaccard(average=self.average, skip_absent=self.skip_absent)
        return Graph(counts.regions, torch.where(alike > self.threshold, alike if self.weighted else 1.0, 0.0))


@register("synthetic")
class Synthetic:
    """Regions that share findings in images of ``datasets.build("synthetic")``: a stand-in that needs no data.

    An edge where the mean Jaccard index of presence exceeds 0.2. The synthetic data set's findings lie in the lungs, so
    that mediastinum, heart and trachea have no edge. It says nothing of patients: count their labels instead.
    """

    def __call__(self, regions: Counts) -> Graph:
        """The graph on `regions`."""
        if isinstance(regions, LabelCounts | RegionCounts):
            raise TypeError("adjacency 'synthetic' is counted already; to make one of counts, use 'jaccard'")
        return Jaccard(average="positive", threshold=0.2)(regions)


@register("identity")
class Identity:
    """No edge but the loop at every node: the ablation of a label graph. Needs no counts."""

    def __call__(self, labels: Counts) -> Graph:
        """The graph on `labels`."""
        nodes = _names(labels)
        return Graph(nodes, torch.eye(len(nodes), device="cpu"))


@register("full")
class Full:
    """Every node linked to every other and itself, with weight 1. Needs no counts."""

    def __call__(self, labels: Counts) -> Graph:
        """The graph on `labels`."""
        nodes = _names(labels)
        return Graph(nodes, torch.ones(len(nodes), len(nodes), device="cpu"))


@register("given")
class Given:
    """A graph written out.

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
        """Its part on `labels`."""
        return self.graph.select(_names(labels))


def label_graph(
    labels: str | Sequence[str], adjacency: Spec | Graph | Builder, counts: str | Spec | LabelCounts | None = None
) -> Graph:
    """The graph on `labels` that `adjacency` makes of `counts`.

    Parameters
    ----------
    labels : str or sequence of str
        The nodes, in this order.
    adjacency : str, mapping, builder or Graph
        From this registry; or ready, matched by name.
    counts : str, mapping or LabelCounts, optional
        From :mod:`thoraxlib.graphs.counts`, matched by name; by default shipped ones that have all labels.
    """
    return _graph(labels, adjacency, None if counts is None else label_counts.registry.resolve(counts))


def region_graph(
    regions: str | Sequence[str], adjacency: Spec | Graph | Builder, counts: Spec | RegionCounts | None = None
) -> Graph:
    """The graph on `regions` that `adjacency` makes of `counts`.

    Parameters
    ----------
    regions : str or sequence of str
        The nodes, in this order.
    adjacency : str, mapping, builder or Graph
        From this registry; or ready, matched by name.
    counts : str, mapping or RegionCounts, optional
        From :mod:`thoraxlib.graphs.region_counts`, matched by name; by default shipped ones that have all regions.

    Raises
    ------
    ValueError
        Regions that graph or counts lack; `counts` beside a graph that is ready.
    """
    if counts is not None and isinstance(adjacency, Graph):
        raise ValueError("counts go with a builder: the adjacency given is a graph already")
    return _graph(regions, adjacency, None if counts is None else region_counts.registry.resolve(counts))


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
    """`counts`, or shipped ones for labels; without `absent`, every label with a positive."""
    if isinstance(counts, RegionCounts):
        raise TypeError("this builder relates labels: it wants LabelCounts, got RegionCounts")
    if not isinstance(counts, LabelCounts):
        counts = label_counts.shipped(tuple(counts))
    if counts.absent and absent == "error":
        lost = ", ".join(map(repr, counts.absent))
        raise ValueError(
            f"no image has {lost}, so that nothing is known about its relations: leave the label out, or count a "
            "larger part of the data"
        )
    return counts
