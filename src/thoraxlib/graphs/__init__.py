"""Graphs of labels and of anatomical regions: what they have to do with each other, and convolutions that use it.

Data flows one way: labels of a data set -> :class:`LabelCounts`, or :class:`RegionCounts` for findings in regions -> an
adjacency builder -> :class:`Graph` -> :class:`GraphOperator` in a head, where graph convolutions turn label embeddings
into classifiers, or let regions hear of each other. Five registries with the same verbs:
:mod:`~thoraxlib.graphs.counts`, :mod:`~thoraxlib.graphs.region_counts`, :mod:`~thoraxlib.graphs.adjacency`,
:mod:`~thoraxlib.graphs.embeddings`, :mod:`~thoraxlib.graphs.convolutions`.
"""

from thoraxlib.graphs import adjacency, convolutions, counts, embeddings, region_counts
from thoraxlib.graphs.counts import LabelCounts
from thoraxlib.graphs.graph import Graph
from thoraxlib.graphs.operator import GraphOperator
from thoraxlib.graphs.region_counts import RegionCounts

__all__ = [
    "Graph",
    "GraphOperator",
    "LabelCounts",
    "RegionCounts",
    "adjacency",
    "convolutions",
    "counts",
    "embeddings",
    "region_counts",
]
