"""A head whose classifiers are computed from label embeddings by graph convolutions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from thoraxlib import graphs
from thoraxlib import labels as label_sets
from thoraxlib.graphs.adjacency import Builder, label_graph
from thoraxlib.heads import register
from thoraxlib.heads.linear import LinearClassifier, LinearHead
from thoraxlib.registry import Spec
from thoraxlib.utils.arguments import one_of

_ACTIVATIONS: dict[str | None, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "leaky_relu": partial(F.leaky_relu, negative_slope=0.2),
    "relu": F.relu,
    None: lambda x: x,
}

_ADJACENCY = {"name": "mlgcn", "isolated": "ignore"}


@register("label_graph")
class LabelGraphHead(LinearClassifier):
    """``H pool(features)``, where row k of H is computed from label k and its neighbours: (N, C, h, w) -> (N, K).

    ML-GCN (Chen et al. 2019, arXiv 1904.03582, section 3.3): graph convolutions ``H' = act(N H W)`` map the label
    embeddings E (K, F) to the width of the image's vector. H does not depend on the image:
    :func:`thoraxlib.optimize_for_inference` computes it once and uses it as the weight of a linear head.

    Parameters
    ----------
    in_channels : int or sequence of int
        C; several numbers for several maps.
    num_labels : int
        K.
    labels : str or sequence of str
        The K labels: graph, counts and embeddings are matched to them by name.
    pool : str, mapping or nn.Module
        From :mod:`thoraxlib.layers.pooling`.
    dropout : float
        Rate on the image's vector, in training.
    adjacency : str, mapping or Graph
        From :mod:`thoraxlib.graphs.adjacency`.
    counts : str, mapping or LabelCounts, optional
        Counts from which adjacency and embeddings are computed; by default shipped counts that have all labels.
    embeddings : str, mapping or Embedding
        From :mod:`thoraxlib.graphs.embeddings`.
    hidden : sequence of int
        Widths between embedding and classifier.
    act, act_last : {"leaky_relu", "gelu", "relu", None}
        Activation after each convolution except the last, and after the last.
    convolution : str or mapping
        From :mod:`thoraxlib.graphs.convolutions`.
    normalize : {"sym_transposed", "sym", "row", "none"}
        See :meth:`thoraxlib.graphs.Graph.normalized`.
    learn_adjacency : bool
        Train the graph's matrix too.
    bias : bool
        Use a bias in the convolutions.

    Raises
    ------
    ValueError
        Labels that counts, graph or embeddings do not have; a number of embeddings that differs from that of labels;
        `learn_adjacency`, and a convolution without edge weights.
    """

    def __init__(
        self,
        in_channels: int | Sequence[int],
        num_labels: int,
        *,
        labels: str | Sequence[str],
        pool: Spec | nn.Module = "avg",
        dropout: float = 0.0,
        adjacency: Spec | graphs.Graph | Builder = _ADJACENCY,
        counts: Spec | graphs.LabelCounts | None = None,
        embeddings: Spec | graphs.embeddings.Embedding = "ppmi",
        hidden: Sequence[int] = (1024,),
        act: str | None = "leaky_relu",
        act_last: str | None = None,
        convolution: Spec = "dense",
        normalize: str = "sym_transposed",
        learn_adjacency: bool = False,
        bias: bool = False,
    ) -> None:
        super().__init__(in_channels, pool=pool, dropout=dropout)
        labels = label_sets.resolve(labels)
        if len(labels) != num_labels:
            raise ValueError(f"labels has {len(labels)} names, and num_labels={num_labels}: must be equal")
        one_of("act", act, _ACTIVATIONS)
        one_of("act_last", act_last, _ACTIVATIONS)
        counted = None if counts is None else graphs.counts.registry.resolve(counts)
        graph = label_graph(labels, adjacency, counted)
        self.operator = graphs.GraphOperator(graph, normalize=normalize, learn=learn_adjacency)
        self.embedding = graphs.embeddings.registry.resolve(embeddings, labels=labels, counts=counted)
        given = self.embedding().shape
        if len(given) != 2 or given[0] != num_labels:
            raise ValueError(f"embeddings must be ({num_labels}, F), one row for each label, got {tuple(given)}")
        self.convolutions = graphs.convolutions.chain(
            convolution, (given[1], *hidden, self.in_features), bias=bias, learn_adjacency=learn_adjacency
        )
        self.acts = [*[act] * len(hidden), act_last]

    def classifier(self) -> tuple[Tensor, Tensor | None]:
        """Return H (K, in_features), and no bias."""
        return self.label_classifiers(), None

    def label_classifiers(self) -> Tensor:
        """Compute H (K, in_features), one row for each label."""
        h: Tensor = self.embedding()
        for convolve, act in zip(self.convolutions, self.acts, strict=True):
            h = _ACTIVATIONS[act](convolve(h, self.operator))
        return h

    @torch.no_grad()
    def fuse(self) -> LinearHead:
        """Return a linear head with H as its weight: same logits, for inference."""
        in_channels = self.channels if len(self.channels) > 1 else self.channels[0]
        weight = self.label_classifiers()
        head = LinearHead(in_channels, len(weight), pool=self.pool).train(self.training)
        head.fc = nn.Linear(self.in_features, len(weight), bias=False).to(weight)
        head.fc.weight.copy_(weight)
        return head
