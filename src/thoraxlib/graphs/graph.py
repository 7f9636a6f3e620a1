"""A weighted directed graph with named nodes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thoraxlib import labels as label_sets
from thoraxlib.graphs.named import Named
from thoraxlib.utils.arguments import one_of
from thoraxlib.utils.files import check_stored, open_regular, read_regular, replacing

NORMALIZATIONS = ("sym_transposed", "sym", "row", "none")


@dataclass(frozen=True, eq=False)
class Graph(Named):
    """Named nodes and weighted edges.

    Attributes
    ----------
    nodes : tuple of str
        K names.
    weights : Tensor
        float32 (K, K), 0 or more: that of the edge from node i to node j, 0 for none.

    Raises
    ------
    ValueError
        Weights that are not (K, K), negative, NaN or infinite; a node named twice.

    Examples
    --------
    >>> graph = Graph(("Edema", "Infiltration"), torch.tensor([[1.0, 0.25], [0.0, 1.0]]))
    >>> graph.edges()
    [('Edema', 'Infiltration', 0.25)]
    """

    nodes: tuple[str, ...]
    weights: Tensor
    _kind = "graph"
    _lost = "the graph has no {lost}; its nodes are {known}"

    def __post_init__(self) -> None:
        object.__setattr__(self, "nodes", label_sets.resolve(tuple(self.nodes)))
        # a copy: frozen, whatever becomes of the tensor
        object.__setattr__(
            self, "weights", torch.as_tensor(self.weights, device="cpu").detach().to(torch.float32, copy=True)
        )
        k = len(self.nodes)
        if self.weights.shape != (k, k):
            raise ValueError(f"weights must be ({k}, {k}), one row for each node, got {tuple(self.weights.shape)}")
        wrong = ~(self.weights.isfinite() & (self.weights >= 0))
        if bool(wrong.any()):
            i, j = wrong.nonzero()[0].tolist()
            raise ValueError(
                f"weights must be finite and 0 or more; from {self.nodes[i]!r} to {self.nodes[j]!r} it is "
                f"{float(self.weights[i, j])}"
            )

    def normalized(self, kind: str = "sym_transposed") -> Tensor:
        """The matrix N (K, K) with which a graph convolution mixes the nodes: row i of N X is what node i receives.

        Parameters
        ----------
        kind : {"sym_transposed", "sym", "row", "none"}
            With the weights A and D = diag(row sums of A) ** -1/2: "sym_transposed" D A^T D, nodes receive along the
            edges (ML-GCN's code, Chen et al. 2019); "sym" D A D, against them; "row" A over its row sums; "none" A. A
            row that sums to 0 stays 0.

        Raises
        ------
        ValueError
            Another kind.
        """
        one_of("normalize", kind, NORMALIZATIONS)
        sums = self.weights.sum(dim=1)
        if kind == "none":
            return self.weights.clone()
        if kind == "row":
            return self.weights / torch.where(sums > 0, sums, 1.0)[:, None]
        scale = torch.where(sums > 0, sums, 1.0) ** -0.5
        scale = torch.where(sums > 0, scale, 0.0)
        weights = self.weights.T if kind == "sym_transposed" else self.weights
        return scale[:, None] * weights * scale

    @property
    def edge_index(self) -> Tensor:
        """Source and target of every edge, int64 (2, E), self loops included: torch_geometric's form."""
        return self.weights.nonzero().T.contiguous()

    @property
    def edge_weight(self) -> Tensor:
        """Weight of every edge of :attr:`edge_index`, (E,)."""
        return self.weights[tuple(self.edge_index)]

    def edges(self) -> list[tuple[str, str, float]]:
        """From, to and weight of every edge between two nodes."""
        pairs = zip(self.edge_index.T.tolist(), self.edge_weight.tolist(), strict=True)
        return [(self.nodes[i], self.nodes[j], weight) for (i, j), weight in pairs if i != j]

    def isolated(self) -> tuple[str, ...]:
        """Nodes without an edge to or from another one."""
        linked = self.weights.clone().fill_diagonal_(0) > 0
        return tuple(name for name, some in zip(self.nodes, linked.any(0) | linked.any(1), strict=True) if not some)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the graph as JSON (``.json``), NumPy archive (``.npz``) or table (``.csv``).

        :meth:`load` reads all three. The table is AnaXNet's: columns apart by tabs, a line of names, then a line of
        weights for each node.

        Raises
        ------
        ValueError
            Another ending.
        """
        path = Path(path)
        if path.suffix not in (".json", ".npz", ".csv"):
            raise ValueError(f"path must end in .json, .npz or .csv, got {path.name!r}")
        if path.suffix == ".json":
            super().save(path)
            return
        with replacing(path) as scratch:
            if path.suffix == ".csv":
                lines = [self.nodes, *(map(str, row) for row in self.weights.tolist())]
                scratch.write_text("".join("\t".join(line) + "\n" for line in lines), encoding="utf-8")
            else:
                with scratch.open("wb") as file:
                    np.savez(file, nodes=np.array(self.nodes), weights=self.weights.numpy())

    @classmethod
    def _read(cls, path: Path) -> Any:
        if path.suffix == ".npz":
            return _arrays(path)
        if path.suffix == ".csv":
            names, *rows = (line.split("\t") for line in read_regular(path).decode("utf-8").splitlines())
            return {"nodes": names, "weights": [[float(value) for value in row] for row in rows]}
        return super()._read(path)

    def __str__(self) -> str:
        lines = [f"{len(self.nodes)} nodes, {len(self.edges())} edges"]
        lines += [f"  {source} -> {target}: {weight:.4f}" for source, target, weight in self.edges()]
        if self.isolated():
            lines.append(f"  without an edge: {', '.join(self.isolated())}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"Graph({len(self.nodes)} nodes, {len(self.edges())} edges)"


def _arrays(path: Path) -> dict[str, Any]:
    check_stored(path)
    try:
        with open_regular(path) as file, np.load(file, allow_pickle=False) as content:
            return {"nodes": content["nodes"].tolist(), "weights": content["weights"]}
    except FileNotFoundError:
        raise
    except Exception as error:  # NumPy raises many kinds for damaged files
        raise ValueError(f"{type(error).__name__}: {error}") from error
