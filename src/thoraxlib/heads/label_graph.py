"""Classifiers that a graph convolution makes of label embeddings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from thoraxlib import graphs
from thoraxlib.graphs.adjacency import Builder, label_graph
from thoraxlib.heads import register
from thoraxlib.heads.linear import LinearClassifier, LinearHead
from thoraxlib.registry import Spec

__all__ = ["LabelGraphHead"]

_ACTIVATIONS: dict[str | None, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "leaky_relu": partial(F.leaky_relu, negative_slope=0.2),
    "relu": F.relu,
    None: lambda x: x,
}

_ADJACENCY = {"name": "mlgcn", "isolated": "ignore"}


@register("label_graph")
class LabelGraphHead(LinearClassifier):
    """``H pool(features)``, where row k of H comes from label k and its neighbours: (N, C, h, w) -> (N, K).

    ML-GCN (Chen et al. 2019, arXiv 1904.03582, section 3.3): label embeddings E (K, F) pass through graph convolutions
    ``H' = act(N H W)`` until they are as wide as the image's vector. H does not depend on the image: in eval mode,
    where no gradient is asked for, it is computed once and kept until a weight changes.

    Parameters
    ----------
    in_channels : int or sequence of int
        C, or those of several maps.
    num_labels : int
        K.
    labels : sequence of str
        The K labels: graph, counts and embeddings are matched to them by name.
    pool : str, mapping or nn.Module
        From :mod:`thoraxlib.pooling`.
    dropout : float
        On the image's vector, in training.
    adjacency : str, mapping or Graph
        From :mod:`thoraxlib.graphs.adjacency`.
    counts : str, mapping or LabelCounts, optional
        What adjacency and embeddings are counted from; by default shipped counts that have all labels.
    embeddings : str, mapping or Embedding
        From :mod:`thoraxlib.graphs.embeddings`.
    hidden : sequence of int
        Widths between embedding and classifier.
    act, act_last : {"leaky_relu", "gelu", "relu", None}
        After every convolution but the last, and after the last.
    convolution : str or mapping
        From :mod:`thoraxlib.graphs.convolutions`.
    normalize : {"sym_transposed", "sym", "row", "none"}
        See :meth:`thoraxlib.graphs.Graph.normalized`.
    learn_adjacency : bool
        Train the graph's matrix too.
    bias : bool
        In the convolutions.

    Raises
    ------
    ValueError
        Labels that counts, graph or embeddings lack; another number of embeddings than labels.
    """

    def __init__(
        self,
        in_channels: int | Sequence[int],
        num_labels: int,
        *,
        labels: Sequence[str],
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
        if len(labels) != num_labels:
            raise ValueError(f"labels are {len(labels)}, num_labels={num_labels}: they must be as many")
        for name, value in (("act", act), ("act_last", act_last)):
            if value not in _ACTIVATIONS:
                raise ValueError(f"{name}={value!r}: allowed are {', '.join(map(repr, _ACTIVATIONS))}")
        counted = None if counts is None else graphs.counts.registry.resolve(counts)
        graph = label_graph(labels, adjacency, counted)
        self.graph = graphs.GraphOperator(graph, normalize=normalize, learn=learn_adjacency)
        self.embedding = graphs.embeddings.registry.resolve(embeddings, labels=tuple(labels), counts=counted)
        given = self.embedding().shape
        if len(given) != 2 or given[0] != num_labels:
            raise ValueError(f"embeddings must be ({num_labels}, F), one row for each label, got {tuple(given)}")
        widths = (given[1], *hidden, self.in_features)
        self.convolutions = nn.ModuleList(
            graphs.convolutions.registry.resolve(convolution, in_channels=before, out_channels=after, bias=bias)
            for before, after in pairwise(widths)
        )
        self.acts = [*[act] * len(hidden), act_last]
        self._kept: tuple[Any, Tensor] | None = None

    def classifier(self) -> tuple[Tensor, Tensor | None]:
        """H (K, in_features), and no bias."""
        if self.training or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return self.label_classifiers(), None
        state = self._state()
        if self._kept is None or self._kept[0] != state:
            self._kept = state, self.label_classifiers()
        return self._kept[1], None

    def label_classifiers(self) -> Tensor:
        """H (K, in_features), computed anew: one row for each label."""
        h: Tensor = self.embedding()
        for convolve, act in zip(self.convolutions, self.acts, strict=True):
            h = _ACTIVATIONS[act](convolve(h, self.graph))
        return h

    @torch.no_grad()
    def fuse(self) -> LinearHead:
        """A linear head with H as its weight: the same logits, for inference."""
        in_channels = self.channels if len(self.channels) > 1 else self.channels[0]
        weight = self.label_classifiers()
        head = LinearHead(in_channels, len(weight), pool=self.pool).train(self.training)
        head.fc = nn.Linear(self.in_features, len(weight), bias=False).to(weight)
        head.fc.weight.copy_(weight)
        return head

    def _state(self) -> tuple[Any, ...]:
        """What H depends on: place and version of every tensor, and the precision asked for."""
        tensors = [*_tensors(self)]
        versions = [None if tensor.is_inference() else tensor._version for tensor in tensors]
        device = tensors[0].device.type
        precision = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        places = tuple(tensor.data_ptr() for tensor in tensors)
        return places, tuple(versions), precision, torch.is_inference_mode_enabled()


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    """Parameters and buffers, as ``parameters()`` and ``buffers()`` have them, in a third of the time."""
    for tensor in (*module._parameters.values(), *module._buffers.values()):
        if tensor is not None:
            yield tensor
    for child in module._modules.values():
        if child is not None:
            yield from _tensors(child)
