"""A graph inside a network."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from thoraxlib.graphs.graph import Graph


class GraphOperator(nn.Module):
    """A graph's normalised matrix as a buffer, or as a parameter, and its edges as torch_geometric wants them.

    Parameters
    ----------
    graph : Graph
        K nodes.
    normalize : {"sym_transposed", "sym", "row", "none"}
        See :meth:`thoraxlib.graphs.Graph.normalized`.
    learn : bool
        Train the matrix's entries; those that are 0 then take part in dense convolutions too.

    Attributes
    ----------
    matrix : Tensor
        float32 (K, K): row i says what node i receives.
    edge_index : Tensor
        int64 (2, E): for every entry of the matrix that is not 0, who sends and who receives.
    """

    edge_index: Tensor

    def __init__(self, graph: Graph, *, normalize: str = "sym_transposed", learn: bool = False) -> None:
        super().__init__()
        matrix = graph.normalized(normalize)
        if learn:
            self.matrix = nn.Parameter(matrix)
        else:
            self.register_buffer("matrix", matrix)
        self.register_buffer("edge_index", self._edges(), persistent=False)
        self.register_load_state_dict_post_hook(_update_edges)  # type: ignore[no-untyped-call]

    def _edges(self) -> Tensor:
        return self.matrix.detach().nonzero().T.flip(0).contiguous()

    @property
    def edge_weight(self) -> Tensor:
        """The matrix's entry of every edge, (E,); differentiable."""
        source, target = self.edge_index
        return self.matrix[target, source]

    def extra_repr(self) -> str:
        """Size, for the printed network."""
        return f"nodes={self.matrix.shape[0]}, learn={isinstance(self.matrix, nn.Parameter)}"


def _update_edges(module: Any, incompatible: Any) -> None:
    with torch.no_grad():
        module.edge_index = module._edges()
