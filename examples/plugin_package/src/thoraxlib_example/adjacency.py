"""An adjacency builder."""

from __future__ import annotations

import torch

from thoraxlib.graphs import Graph, LabelCounts
from thoraxlib.graphs.adjacency import Counts
from thoraxlib.graphs.counts import shipped


class Ochiai:
    """Undirected edges weighted by Ochiai's coefficient of co-occurrence, and a loop at every node.

    The coefficient is ``sqrt(P(j | i) P(i | j))``, which is ``n_ij / sqrt(n_i n_j)`` if no label is unknown. Unlike
    P(j | i) alone, it does not link every label to the most frequent one.

    Parameters
    ----------
    threshold : float
        In [0, 1): the coefficient of an edge is larger.

    Raises
    ------
    ValueError
        A `threshold` out of its range; when called: labels without counts.
    """

    def __init__(self, *, threshold: float = 0.1) -> None:
        if not 0 <= threshold < 1:
            raise ValueError(f"threshold={threshold}: from 0 to below 1")
        self.threshold = threshold

    def __call__(self, counts: Counts) -> Graph:
        """Build the graph of `counts`, or of labels for which the library ships counts."""
        if not isinstance(counts, LabelCounts):
            counts = shipped(tuple(counts))
        chance = counts.conditional()
        coefficient = (chance * chance.T).sqrt()
        weights = torch.where(coefficient > self.threshold, coefficient, 0.0)
        return Graph(counts.labels, weights.fill_diagonal_(1))
