"""Graphs of labels and of anatomical regions, and graph convolutions on them.

Data flows one way: labels of a data set -> :class:`LabelCounts`, or :class:`RegionCounts` for findings in regions -> an
adjacency builder -> :class:`Graph` -> :class:`GraphOperator` in a head, where graph convolutions turn label embeddings
into classifiers, or mix the features of neighbouring regions. Four registries with the same functions:
:mod:`~thoraxlib.graphs.counts`, :mod:`~thoraxlib.graphs.adjacency`, :mod:`~thoraxlib.graphs.embeddings`,
:mod:`~thoraxlib.graphs.convolutions`.
"""

from thoraxlib.graphs import adjacency, convolutions, counts, embeddings
from thoraxlib.graphs.counts import LabelCounts, RegionCounts
from thoraxlib.graphs.graph import Graph, GraphOperator

__all__ = [
    "Graph",
    "GraphOperator",
    "LabelCounts",
    "RegionCounts",
    "adjacency",
    "convolutions",
    "counts",
    "embeddings",
]
