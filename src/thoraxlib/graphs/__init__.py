"""Label graphs: what labels have to do with each other, and convolutions that use it.

Data flows one way: labels of a data set -> :class:`LabelCounts` -> an adjacency builder -> :class:`Graph` ->
:class:`GraphOperator` in a head, where graph convolutions turn label embeddings into classifiers. Four registries with
the same verbs: :mod:`~thoraxlib.graphs.counts`, :mod:`~thoraxlib.graphs.adjacency`,
:mod:`~thoraxlib.graphs.embeddings`, :mod:`~thoraxlib.graphs.convolutions`.
"""

from thoraxlib.graphs import adjacency, convolutions, counts, embeddings
from thoraxlib.graphs.counts import LabelCounts
from thoraxlib.graphs.graph import Graph
from thoraxlib.graphs.operator import GraphOperator

__all__ = ["Graph", "GraphOperator", "LabelCounts", "adjacency", "convolutions", "counts", "embeddings"]
