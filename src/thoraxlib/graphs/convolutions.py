"""Graph convolutions: from node features (..., K, F) and a graph to node features (..., K, F')."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from thoraxlib.graphs.graph import GraphOperator
from thoraxlib.registry import OptionError, Registry, Spec


class DenseConvolution(nn.Module):
    """Graph convolution ``N X W + b`` (Kipf and Welling 2017, arXiv 1609.02907, equation 2, without the activation).

    It is the right choice for graphs of a few dozen nodes.

    Parameters
    ----------
    in_channels, out_channels : int
        F and F'.
    bias : bool
        Add b.
    """

    def __init__(self, in_channels: int, out_channels: int, *, bias: bool = False) -> None:
        super().__init__()
        bound = 1 / math.sqrt(out_channels)
        self.weight = nn.Parameter(torch.empty(in_channels, out_channels).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(out_channels).uniform_(-bound, bound)) if bias else None

    def forward(self, x: Tensor, graph: GraphOperator) -> Tensor:
        """Map node features (..., K, F) to (..., K, F')."""
        matrix = graph.matrix.to(x.dtype)
        narrow_in = self.weight.shape[0] < self.weight.shape[1]
        out = (matrix @ x) @ self.weight if narrow_in else matrix @ (x @ self.weight)
        return out if self.bias is None else out + self.bias


class GeometricConvolution(nn.Module):
    """Graph convolution by a layer of torch_geometric.

    Parameters
    ----------
    layer : str
        A class of ``torch_geometric.nn`` with ``(in_channels, out_channels)``: "GCNConv", "SAGEConv", "GATv2Conv", ...
        Layers that take edge weights get them. GCNConv is built with ``normalize=False``, since the graph is normalised
        already, and so equals the dense product.
    in_channels, out_channels : int
        F and F'.
    bias : bool
        Add a bias, if the layer has this option.
    **options
        Options of the layer.

    Raises
    ------
    OptionError
        The layer does not take the options, or returns another number of channels (use ``concat=False`` for attention
        heads).
    """

    def __init__(self, layer: str, in_channels: int, out_channels: int, *, bias: bool = False, **options: Any) -> None:
        from torch_geometric import nn as geometric

        super().__init__()
        kind = getattr(geometric, layer)
        if layer == "GCNConv":
            options = {"normalize": False, **options}
        if "bias" in inspect.signature(kind).parameters:
            options["bias"] = bias
        try:
            self.layer = kind(in_channels, out_channels, **options)
        except TypeError as error:
            raise OptionError(f"convolutions: torch_geometric's {layer}: {error}") from error
        self.out_channels = out_channels
        self.weighted = "edge_weight" in inspect.signature(kind.forward).parameters

    def forward(self, x: Tensor, graph: GraphOperator) -> Tensor:
        """Map node features (..., K, F) to (..., K, F').

        Raises
        ------
        OptionError
            The layer returns another number of channels.
        """
        nodes, batch = x.shape[-2], x.shape[:-2]
        copies = math.prod(batch)
        flat, edges = x.reshape(-1, x.shape[-1]), graph.edge_index
        if copies > 1:  # the graphs of a batch side by side
            shift = nodes * torch.arange(copies, device=x.device)
            edges = (edges[:, None] + shift[:, None]).flatten(1)
        options = {"edge_weight": graph.edge_weight.to(x.dtype).repeat(copies)} if self.weighted else {}
        out: Tensor = self.layer(flat, edges, **options)
        if out.shape[-1] != self.out_channels:
            raise OptionError(
                f"convolutions: {type(self.layer).__name__} gives {out.shape[-1]} channels instead of "
                f"{self.out_channels}; of several heads, take the mean (concat=False)"
            )
        return out.view(*batch, nodes, self.out_channels)


_OTHERS = ("CuGraph", "MeshCNN")  # CuGraph's need another package, MeshCNN's the edges of a mesh


class _Geometric:
    """Source of every suitable layer of torch_geometric, by its class name or the name in lower case."""

    def names(self) -> Iterable[str]:
        """List the classes that need the two widths, node features and edges only."""
        from torch_geometric.nn import conv

        return [name for name in conv.__all__ if not name.startswith(_OTHERS) and self._suits(getattr(conv, name))]

    def find(self, name: str) -> Callable[..., nn.Module] | None:
        """Return a factory of the layer `name`, or None."""
        if "conv" not in name.lower():  # torch_geometric need not be imported
            return None
        layer = next((own for own in self.names() if name in (own, own.lower())), None)
        if layer is None:
            return None
        factory = partial(GeometricConvolution, layer)
        factory.__doc__ = f"torch_geometric's ``{layer}`` on the label graph.\n\n{inspect.getdoc(GeometricConvolution)}"
        factory.__module__ = __name__  # type: ignore[attr-defined]
        return factory

    @staticmethod
    def _suits(kind: Any) -> bool:
        forward = inspect.signature(kind.forward).parameters
        wanted = [
            p.name
            for p in (*inspect.signature(kind).parameters.values(), *list(forward.values())[1:])
            if p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
        ]
        return wanted == ["in_channels", "out_channels", "x", "edge_index"]


registry: Registry[nn.Module] = Registry("graphs.convolutions", sources=[_Geometric()])
build, register, names, describe = registry.build, registry.register, registry.names, registry.describe
register("dense")(DenseConvolution)


def chain(convolution: Spec, widths: Sequence[int], *, bias: bool, learn_adjacency: bool) -> nn.ModuleList:
    """Build convolutions of one kind, from each of the `widths` to the next.

    Parameters
    ----------
    convolution : str or mapping
        From this registry.
    widths : sequence of int
        F of the nodes, and F' of each convolution.
    bias : bool
        Add biases.
    learn_adjacency : bool
        True if the weights of the edges are trained.

    Raises
    ------
    ValueError
        `learn_adjacency` with a convolution that takes no edge weights.
    """
    made = nn.ModuleList(
        registry.resolve(convolution, in_channels=before, out_channels=after, bias=bias)
        for before, after in pairwise(widths)
    )
    if learn_adjacency and not all(getattr(convolve, "weighted", True) for convolve in made):
        raise ValueError(
            f"convolution={convolution!r} takes no edge weights, so that learn_adjacency=True would train nothing: "
            "use 'dense', 'GCNConv' or 'GraphConv'"
        )
    return made
