"""Heads for anatomical regions, with their own registry: a vector for each region -> logits for each region."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from thoraxlib import graphs
from thoraxlib import labels as label_sets
from thoraxlib.graphs.adjacency import Builder, region_graph
from thoraxlib.heads.label_graph import LabelGraphHead
from thoraxlib.registry import Registry, Spec
from thoraxlib.utils.arguments import one_of

registry: Registry[RegionHead] = Registry("heads.regions")
build, register, names, describe = registry.build, registry.register, registry.names, registry.describe


class RegionLogits(NamedTuple):
    """Output of a :class:`RegionHead`.

    Attributes
    ----------
    logits : Tensor
        (N, R, K).
    attention : Tensor or None
        (N, R, R): row r has the attention weights of region r over all regions; None for heads without attention.
    """

    logits: Tensor
    attention: Tensor | None


class RegionHead(nn.Module):
    """Base class, ``forward(features: (N, R, D), present: bool (N, R)) -> logits (N, R, K)``.

    Without `present`, all regions are present. The logits of an absent region are finite and have no meaning.
    """

    def forward(self, features: Tensor, present: Tensor | None = None) -> Tensor:
        """Compute logits (N, R, K)."""
        return self.forward_all(features, present).logits

    def forward_all(self, features: Tensor, present: Tensor | None = None) -> RegionLogits:
        """Compute logits and attention weights."""
        raise NotImplementedError


@register("region_linear")
class RegionLinearHead(RegionHead):
    """``x W^T + b`` for the vector x of each region: (N, R, D) -> (N, R, K); AnaXNet's baseline without graph.

    Parameters
    ----------
    in_features : int
        D.
    num_labels : int
        K.
    regions : str or sequence of str
        The R regions; used only by "per_region".
    classifier : {"shared", "per_region"}
        One layer for all regions, or one for each region, as in AnaXNet's figure.

    Raises
    ------
    ValueError
        An unknown `classifier`.
    """

    def __init__(
        self,
        in_features: int,
        num_labels: int,
        *,
        regions: str | Sequence[str] = "regions18",
        classifier: str = "shared",
    ) -> None:
        super().__init__()
        one_of("classifier", classifier, ("shared", "per_region"))
        copies = () if classifier == "shared" else (len(label_sets.resolve(regions)),)
        bound = 1 / math.sqrt(in_features)  # as in torch's linear layer
        self.weight = nn.Parameter(torch.empty(*copies, num_labels, in_features).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(*copies, num_labels).uniform_(-bound, bound))

    def forward_all(self, features: Tensor, present: Tensor | None = None) -> RegionLogits:
        """Compute the logits; there is no attention."""
        if self.weight.ndim == 2:
            return RegionLogits(F.linear(features, self.weight, self.bias), None)
        return RegionLogits(torch.einsum("nrd,rkd->nrk", features, self.weight) + self.bias, None)


@register("region_graph")
class RegionGraphHead(RegionHead):
    """AnaXNet's head: graph convolution over regions, then attention between regions, (N, R, D) -> (N, R, K).

    Agu et al. 2021, arXiv 2105.09937, section 2. With the region vectors X and the graph's matrix A:
    ``H = A LeakyReLU(A X W1) W2`` with slope 0.2, ``P = softmax(X H^T)``, ``Y = LayerNorm(P X + X)``, and the logits
    are linear in Y.

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
        From :mod:`thoraxlib.graphs.adjacency`. The default needs no data and is counted on synthetic images; the paper
        has "jaccard" with counts of the training labels.
    counts : RegionCounts or mapping, optional
        Counts from which the adjacency is built.
    hidden : int
        Columns of W1.
    convolution : str or mapping
        From :mod:`thoraxlib.graphs.convolutions`.
    normalize : {"none", "sym", "sym_transposed", "row"}
        Normalisation of A; see :meth:`thoraxlib.graphs.Graph.normalized`.
    learn_adjacency : bool
        Train A too.
    bias : bool
        Use a bias in the convolutions.
    scale : bool
        Divide the scores by sqrt(D) before the softmax.
    attention_axis : {"regions", "batch"}
        Axis over which the attention weights add up to 1: the regions, or, as in the released code, the images of the
        batch. With "batch", an image's logits depend on the other images.
    classifier : {"shared", "per_region"}
        See :class:`RegionLinearHead`.
    missing : {"mask", "zeros"}
        Absent regions have a vector of zeros; with "mask", no region attends to them.
    finding_branch : {None, "add", "concat"}
        A second graph, over the findings, scores each region's vector X. Its logits are added to the result, or
        concatenated to Y. This is a reconstruction: the released code contains the branch, but never builds it.
    finding_graph : mapping, optional
        Options of that branch's :class:`~thoraxlib.heads.label_graph.LabelGraphHead`, such as ``adjacency``,
        ``counts`` and ``embeddings``; by default learned embeddings without edges.

    Raises
    ------
    ValueError
        A value that is not allowed; regions that graph or counts do not have; `finding_branch` without `labels`;
        `finding_graph` without `finding_branch`; `learn_adjacency`, and a convolution without edge weights.
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
        one_of("attention_axis", attention_axis, ("regions", "batch"))
        one_of("missing", missing, ("mask", "zeros"))
        one_of("finding_branch", finding_branch, (None, "add", "concat"))
        if finding_graph is not None and finding_branch is None:
            raise ValueError("finding_graph needs finding_branch='add' or 'concat': without, it would do nothing")
        self.attention_axis, self.missing, self.finding_branch = attention_axis, missing, finding_branch
        self.scale = 1 / math.sqrt(in_features) if scale else 1.0
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
            if labels is None:
                raise ValueError("finding_branch needs labels=, the names of the findings")
            options: dict[str, Any] = {
                "adjacency": "identity",
                "embeddings": "learned",
                "hidden": (hidden,),
                **(finding_graph or {}),
            }
            self.findings = LabelGraphHead(in_features, num_labels, labels=labels, **options)

    def forward_all(self, features: Tensor, present: Tensor | None = None) -> RegionLogits:
        """Compute the logits and the attention weights P (N, R, R)."""
        x = features if present is None else torch.where(present[..., None], features, 0.0)
        first, second = self.convolutions
        hidden = F.leaky_relu(first(x, self.operator), 0.2, inplace=not torch.is_grad_enabled())
        scores = x @ second(hidden, self.operator).mT * self.scale
        if self.missing == "mask" and present is not None:
            # a finite number, so that an image without any region has no NaN
            scores = scores.masked_fill(~present[:, None, :], torch.finfo(scores.dtype).min)
        axis = 0 if self.attention_axis == "batch" else -1
        attention = scores.softmax(dim=axis, dtype=torch.float32).to(scores.dtype)
        y = self.norm(attention @ x + x)
        if self.findings is None:
            return RegionLogits(self.classifier(y), attention)
        finding_logits = F.linear(x, *self.findings.classifier())
        if self.finding_branch == "add":
            return RegionLogits(self.classifier(y) + finding_logits, attention)
        return RegionLogits(self.classifier(torch.cat([y, finding_logits], dim=-1)), attention)
