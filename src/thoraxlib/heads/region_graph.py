"""AnaXNet's head: regions hear of their neighbours in a graph, and attend to those that are like what they heard."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from thoraxlib import graphs
from thoraxlib import labels as label_sets
from thoraxlib.graphs.adjacency import Builder, region_graph
from thoraxlib.heads.label_graph import LabelGraphHead
from thoraxlib.heads.region_linear import RegionLinearHead
from thoraxlib.heads.regions import RegionHead, RegionLogits, register
from thoraxlib.registry import Spec
from thoraxlib.utils.arguments import one_of

_OPTIONS = {
    "attention_axis": ("regions", "batch"),
    "missing": ("mask", "zeros"),
    "finding_branch": (None, "add", "concat"),
}
_FINDING_GRAPH = {"adjacency": "identity", "embeddings": "learned"}


@register("region_graph")
class RegionGraphHead(RegionHead):
    """Region graph with attention (Agu et al. 2021, arXiv 2105.09937, section 2): (N, R, D) -> (N, R, K).

    With the region vectors X and the graph's matrix A: ``H = A LeakyReLU(A X W1) W2``, ``P = softmax(X H^T)``,
    ``Y = LayerNorm(P X + X)``, and the logits are linear in Y.

    Parameters
    ----------
    in_features : int
        D.
    num_labels : int
        K.
    labels : str or sequence of str
        The K labels; needed for `finding_branch`.
    regions : str or sequence of str
        The R regions: graph and counts are matched to them by name.
    adjacency : str, mapping or Graph
        From :mod:`thoraxlib.graphs.adjacency`; the default needs no data, and knows none: "jaccard" with counts of the
        training labels is the paper's.
    counts : RegionCounts or mapping, optional
        What the adjacency is counted from.
    hidden : int
        Columns of W1.
    slope : float
        Of LeakyReLU for negative values.
    convolution : str or mapping
        From :mod:`thoraxlib.graphs.convolutions`.
    normalize : {"none", "sym", "sym_transposed", "row"}
        Of A; see :meth:`thoraxlib.graphs.Graph.normalized`.
    learn_adjacency : bool
        Train A too.
    bias : bool
        In the convolutions.
    scale : bool
        Divide the scores by sqrt(D) before the softmax.
    attention_axis : {"regions", "batch"}
        What the weights add up to 1 over: the regions that a region looks at, or, as in the released code, the images
        of the batch. With the latter, an image's logits depend on the others.
    classifier : {"shared", "per_region"}
        See :class:`~thoraxlib.heads.region_linear.RegionLinearHead`.
    missing : {"mask", "zeros"}
        Absent regions have a vector of zeros; "mask" also lets nobody attend to them.
    finding_branch : {None, "add", "concat"}
        A second graph, of the findings, scores each region's vector X; its logits are added, or put beside Y. A
        reconstruction: the released code has the branch, but never builds it.
    finding_graph : mapping, optional
        Options of :class:`~thoraxlib.heads.label_graph.LabelGraphHead` for that branch, such as ``adjacency``,
        ``counts`` and ``embeddings``; by default learned embeddings without edges.

    Raises
    ------
    ValueError
        An option out of what is allowed; regions that graph or counts lack; `finding_branch` without `labels`;
        `finding_graph` without it; `learn_adjacency` and a convolution that takes no edge weights.
    """

    def __init__(
        self,
        in_features: int,
        num_labels: int,
        *,
        labels: str | Sequence[str] | None = None,
        regions: str | Sequence[str] = "regions18",
        adjacency: Spec | graphs.Graph | Builder = "synthetic",
        counts: Mapping[str, Any] | graphs.RegionCounts | None = None,
        hidden: int = 2048,
        slope: float = 0.2,
        convolution: Spec = "dense",
        normalize: str = "none",
        learn_adjacency: bool = False,
        bias: bool = False,
        scale: bool = False,
        attention_axis: str = "regions",
        classifier: str = "shared",
        missing: str = "mask",
        finding_branch: str | None = None,
        finding_graph: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        given = {"attention_axis": attention_axis, "missing": missing, "finding_branch": finding_branch}
        for name, value in given.items():
            one_of(name, value, _OPTIONS[name])
        self.attention_axis, self.missing, self.finding_branch = attention_axis, missing, finding_branch
        self.slope, self.scale = slope, 1 / math.sqrt(in_features) if scale else 1.0
        if finding_graph is not None and finding_branch is None:
            raise ValueError("finding_graph needs finding_branch='add' or 'concat': without, it would do nothing")
        regions = label_sets.resolve(regions)
        graph = region_graph(regions, adjacency, counts)
        self.operator = graphs.GraphOperator(graph, normalize=normalize, learn=learn_adjacency)
        self.convolutions = graphs.convolutions.chain(
            convolution, (in_features, hidden, in_features), bias=bias, learn_adjacency=learn_adjacency
        )
        self.norm = nn.LayerNorm(in_features)
        wider = num_labels if finding_branch == "concat" else 0
        self.classifier = RegionLinearHead(in_features + wider, num_labels, regions=regions, classifier=classifier)
        self.findings = None
        if finding_branch is not None:
            self.findings = _findings(in_features, num_labels, labels, hidden, finding_graph)

    def forward_all(self, features: Tensor, present: Tensor | None = None) -> RegionLogits:
        """Logits, and the weights P (N, R, R), row r those of region r."""
        x = features if present is None else torch.where(present[..., None], features, 0.0)
        first, second = self.convolutions
        hidden = F.leaky_relu(first(x, self.operator), self.slope, inplace=not torch.is_grad_enabled())
        heard = second(hidden, self.operator)
        attention = self._attention(x @ heard.mT * self.scale, present)
        y = self.norm(attention @ x + x)
        if self.findings is None:
            return RegionLogits(self.classifier(y), attention)
        scored = F.linear(x, *self.findings.classifier())
        if self.finding_branch == "add":
            return RegionLogits(self.classifier(y) + scored, attention)
        return RegionLogits(self.classifier(torch.cat([y, scored], dim=-1)), attention)

    def _attention(self, scores: Tensor, present: Tensor | None) -> Tensor:
        if self.missing == "mask" and present is not None:
            # finite, so that an image without any region has no NaN
            scores = scores.masked_fill(~present[:, None, :], torch.finfo(scores.dtype).min)
        axis = 0 if self.attention_axis == "batch" else -1
        return scores.softmax(dim=axis, dtype=torch.float32).to(scores.dtype)


def _findings(
    in_features: int,
    num_labels: int,
    labels: str | Sequence[str] | None,
    hidden: int,
    options: Mapping[str, Any] | None,
) -> LabelGraphHead:
    if labels is None:
        raise ValueError("finding_branch needs labels=, the names of the findings")
    spec: dict[str, Any] = {"hidden": (hidden,), **_FINDING_GRAPH, **(options or {})}
    return LabelGraphHead(in_features, num_labels, labels=labels, **spec)
