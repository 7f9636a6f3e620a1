"""A weighted directed graph with named nodes, and the module that holds it in a network."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import Self

from thoraxlib import labels as label_sets
from thoraxlib.utils.arguments import few, one_of
from thoraxlib.utils.files import (
    check_stored,
    open_regular,
    read_json,
    read_regular,
    replacing,
    write_json,
    write_text,
)

NORMALIZATIONS = ("sym_transposed", "sym", "row", "none")


@dataclass(frozen=True, eq=False)
class Named:
    """Base class of graphs and counts: dataclasses of names and of tensors (..., K, K) with named rows and columns.

    The first field names rows and columns. They are selected by name, saved in files, and written into the config of a
    model that is built with them.
    """

    _kind: ClassVar[str]
    _lost: ClassVar[str]  # message for unknown names

    def select(self, names: str | Sequence[str]) -> Self:
        """Select rows and columns `names`, in this order, found by :func:`thoraxlib.labels.canonical` name.

        Raises
        ------
        ValueError
            A name that does not exist.
        """
        wanted, first = label_sets.resolve(names), fields(self)[0].name
        known = getattr(self, first)
        found = label_sets.align(known, wanted)
        lost = [repr(name) for name, index in zip(wanted, found, strict=True) if index is None]
        if lost:
            raise ValueError(self._lost.format(lost=few(lost), known=few(known)))
        at = torch.tensor(found, device="cpu")
        tables = {name: table[..., at, :][..., at] for name, table in self._fields() if isinstance(table, Tensor)}
        return replace(self, **{first: wanted}, **tables)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything as JSON."""
        write_json(path, self._to_json())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a file that :meth:`save` wrote.

        Raises
        ------
        ValueError
            The file has other content, or impossible numbers.
        """
        try:
            return cls.from_json(cls._read(Path(path)))
        except (KeyError, TypeError, ValueError, RuntimeError) as error:  # the last for numbers too large for torch
            needed = tuple(field.name for field in fields(cls) if field.default is MISSING)
            raise ValueError(f"{path} holds no {cls._kind} {needed}: {error!r}") from error

    @property
    def registry_spec(self) -> dict[str, Any]:
        """The spec that a model records in its config, and from which it is rebuilt."""
        return {"name": "given", **self._to_json()}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Build it from a mapping with its fields; other keys are ignored."""
        return cls(**{field.name: content[field.name] for field in fields(cls) if field.name in content})

    @classmethod
    def _read(cls, path: Path) -> Any:
        return read_json(path)

    def _to_json(self) -> dict[str, Any]:
        return {name: value.tolist() if isinstance(value, Tensor) else list(value) for name, value in self._fields()}

    def _fields(self) -> list[tuple[str, Any]]:
        return [(field.name, getattr(self, field.name)) for field in fields(self)]

    def _keep_counts(self, name: str, shape: tuple[int, ...]) -> None:
        """Convert the field `name` to an integer tensor on the CPU; raise ValueError for another type or shape."""
        value = torch.as_tensor(getattr(self, name), device="cpu")
        object.__setattr__(self, name, value)
        if value.shape != shape or value.is_floating_point():
            raise ValueError(f"{name} must be integers {shape}, got {value.dtype} {tuple(value.shape)}")


@dataclass(frozen=True, eq=False)
class Graph(Named):
    """Named nodes and weighted edges.

    Attributes
    ----------
    nodes : tuple of str
        K names.
    weights : Tensor
        float32 (K, K), 0 or more: ``weights[i, j]`` is the weight of the edge from node i to node j, 0 for no edge.

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
        # a copy, so that later changes of the given tensor do not change the graph
        weights = torch.as_tensor(self.weights, device="cpu").detach().to(torch.float32, copy=True)
        object.__setattr__(self, "weights", weights)
        k = len(self.nodes)
        if weights.shape != (k, k):
            raise ValueError(f"weights must be ({k}, {k}), one row for each node, got {tuple(weights.shape)}")
        wrong = ~(weights.isfinite() & (weights >= 0))
        if bool(wrong.any()):
            i, j = wrong.nonzero()[0].tolist()
            raise ValueError(
                f"weights must be finite and 0 or more; from {self.nodes[i]!r} to {self.nodes[j]!r} it is "
                f"{float(weights[i, j])}"
            )

    def normalized(self, kind: str = "sym_transposed") -> Tensor:
        """Return the matrix N (K, K) of a graph convolution: row i of N X is the input that node i receives.

        Parameters
        ----------
        kind : {"sym_transposed", "sym", "row", "none"}
            With the weights A and D = diag(row sums of A) ** -1/2: "sym_transposed" is D A^T D, where nodes receive
            along the edges (ML-GCN's code, Chen et al. 2019); "sym" is D A D, against the edges; "row" is A over its
            row sums; "none" is A. A row that sums to 0 stays 0.
        """
        one_of("normalize", kind, NORMALIZATIONS)
        sums = self.weights.sum(dim=1)
        if kind == "none":
            return self.weights.clone()
        if kind == "row":
            return self.weights / torch.where(sums > 0, sums, 1.0)[:, None]
        scale = torch.where(sums > 0, sums**-0.5, 0.0)
        weights = self.weights.T if kind == "sym_transposed" else self.weights
        return scale[:, None] * weights * scale

    @property
    def edge_index(self) -> Tensor:
        """Source and target of every edge, int64 (2, E), self loops included, in the form of torch_geometric."""
        return self.weights.nonzero().T.contiguous()

    @property
    def edge_weight(self) -> Tensor:
        """Weight of every edge of :attr:`edge_index`, (E,)."""
        return self.weights[tuple(self.edge_index)]

    def edges(self) -> list[tuple[str, str, float]]:
        """List source, target and weight of every edge between two different nodes."""
        pairs = zip(self.edge_index.T.tolist(), self.edge_weight.tolist(), strict=True)
        return [(self.nodes[i], self.nodes[j], weight) for (i, j), weight in pairs if i != j]

    def isolated(self) -> tuple[str, ...]:
        """Return the nodes without an edge to or from another one."""
        linked = {name for edge in self.edges() for name in edge[:2]}
        return tuple(name for name in self.nodes if name not in linked)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the graph as JSON (``.json``), NumPy archive (``.npz``) or table (``.csv``).

        :meth:`load` reads all three. The table has the format of AnaXNet: columns separated by tabs, a line of names,
        then a line of weights for each node.

        Raises
        ------
        ValueError
            Another extension.
        """
        path = Path(path)
        if path.suffix == ".json":
            super().save(path)
        elif path.suffix == ".csv":
            lines = [self.nodes, *(map(str, row) for row in self.weights.tolist())]
            write_text(path, "".join("\t".join(line) + "\n" for line in lines))
        elif path.suffix == ".npz":
            with replacing(path) as scratch:
                np.savez(scratch, nodes=np.array(self.nodes), weights=self.weights.numpy())
        else:
            raise ValueError(f"path must end in .json, .npz or .csv, got {path.name!r}")

    @classmethod
    def _read(cls, path: Path) -> Any:
        if path.suffix == ".npz":
            check_stored(path)
            try:
                with open_regular(path) as file, np.load(file, allow_pickle=False) as content:
                    return {"nodes": content["nodes"].tolist(), "weights": content["weights"]}
            except FileNotFoundError:
                raise
            except Exception as error:  # NumPy raises many kinds for damaged files
                raise ValueError(f"{type(error).__name__}: {error}") from error
        if path.suffix != ".csv":
            return super()._read(path)
        names, *rows = (line.split("\t") for line in read_regular(path).decode("utf-8").splitlines())
        return {"nodes": names, "weights": [[float(value) for value in row] for row in rows]}

    def __str__(self) -> str:
        lines = [f"{len(self.nodes)} nodes, {len(self.edges())} edges"]
        lines += [f"  {source} -> {target}: {weight:.4f}" for source, target, weight in self.edges()]
        if self.isolated():
            lines.append(f"  without an edge: {', '.join(self.isolated())}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"Graph({len(self.nodes)} nodes, {len(self.edges())} edges)"


class GraphOperator(nn.Module):
    """Normalised matrix of a graph, as a buffer or a parameter, with its edges in the form of torch_geometric.

    Parameters
    ----------
    graph : Graph
        K nodes.
    normalize : {"sym_transposed", "sym", "row", "none"}
        See :meth:`thoraxlib.graphs.Graph.normalized`.
    learn : bool
        Train the matrix; entries that are 0 then take part in dense convolutions too.

    Attributes
    ----------
    matrix : Tensor
        float32 (K, K): row i has the weights of the nodes from which node i receives.
    edge_index : Tensor
        int64 (2, E): sender and receiver for every entry of the matrix that is not 0.
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
        """Entry of the matrix for every edge, (E,); differentiable."""
        source, target = self.edge_index
        return self.matrix[target, source]

    def extra_repr(self) -> str:
        """Return the options for the printed network."""
        return f"nodes={self.matrix.shape[0]}, learn={isinstance(self.matrix, nn.Parameter)}"


def _update_edges(module: Any, incompatible: Any) -> None:
    with torch.no_grad():
        module.edge_index = module._edges()
