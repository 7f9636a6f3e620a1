"""Label embeddings: one vector for each label, (K, F)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from thoraxlib import labels as label_sets
from thoraxlib.graphs import counts as label_counts
from thoraxlib.graphs.counts import LabelCounts
from thoraxlib.graphs.shipped import read_shipped
from thoraxlib.graphs.vector_files import read_vectors
from thoraxlib.registry import Registry, Spec


class Embedding(nn.Module):
    """Vectors of K labels; a buffer, or a parameter if they are learned.

    Parameters
    ----------
    vectors : Tensor
        float32 (K, F).
    learn : bool
        Train them.

    Raises
    ------
    ValueError
        Vectors that are not (K, F) or not finite.
    """

    vectors: Tensor

    def __init__(self, vectors: Tensor, *, learn: bool = False) -> None:
        super().__init__()
        vectors = torch.as_tensor(vectors, dtype=torch.float32)
        if vectors.ndim != 2 or 0 in vectors.shape or not bool(vectors.isfinite().all()):
            raise ValueError(f"vectors must be finite and (K, F), got {tuple(vectors.shape)}")
        if learn:
            self.vectors = nn.Parameter(vectors)
        else:
            self.register_buffer("vectors", vectors)

    @property
    def dim(self) -> int:
        """F."""
        return self.vectors.shape[1]

    def forward(self) -> Tensor:
        """The vectors, (K, F)."""
        return self.vectors

    @property
    def registry_spec(self) -> dict[str, Any]:
        """How a model records ready vectors: room for them, as they are among its weights."""
        learn = isinstance(self.vectors, nn.Parameter)
        return {"name": "file", "path": None, "dim": self.dim, "learn": learn}


registry: Registry[Embedding] = Registry("graphs.embeddings")
build, register, names, describe = registry.build, registry.register, registry.names, registry.describe


@register("ppmi")
def ppmi(
    *,
    labels: str | Sequence[str],
    counts: Spec | LabelCounts | None = None,
    dim: int | None = None,
    learn: bool = False,
) -> Embedding:
    """What a label occurs with: positive pointwise mutual information, factorised; needs no file.

    ``max(0, log(c_ij c / (c_i c_j)))`` of the co-occurrence counts, diagonal included, with the sums c_i of its rows
    and c of all; then its truncated singular value decomposition, ``U sqrt(S)`` (Levy and Goldberg 2014). Scaled so
    that the entries' mean square is 1.

    Parameters
    ----------
    labels : str or sequence of str
        The K labels.
    counts : str, mapping or LabelCounts, optional
        From :mod:`thoraxlib.graphs.counts`; by default shipped ones that have all labels.
    dim : int, optional
        F, at most K; by default K.
    learn : bool
        Train them from there.

    Raises
    ------
    ValueError
        `dim` out of its range; a label that never occurs, or that the counts tell nothing about (a single one); labels
        without counts.
    """
    nodes = label_sets.resolve(labels)
    dim = len(nodes) if dim is None else dim
    if not 1 <= dim <= len(nodes):
        raise ValueError(f"dim={dim}: from 1 to {len(nodes)}, the number of labels")
    counts = label_counts.shipped(nodes) if counts is None else label_counts.registry.resolve(counts).select(nodes)
    joint = counts.joint.double()
    if counts.absent:
        lost = ", ".join(map(repr, counts.absent))
        raise ValueError(f"no image has {lost}: no embedding can be counted; use 'learned'")
    sums = joint.sum(dim=1)
    information = (joint * joint.sum() / (sums[:, None] * sums)).clamp(min=1).log()
    silent = [label for label, some in zip(nodes, information.any(dim=1).tolist(), strict=True) if not some]
    if silent:  # a vector of zeros would never leave zero
        raise ValueError(
            f"the counts tell nothing about {', '.join(map(repr, silent))}, alone or independent of every other label; "
            "use 'onehot' or 'learned'"
        )
    u, s, _ = torch.linalg.svd(information)
    vectors = u[:, :dim] * s[:dim].sqrt()
    # a singular vector's sign is arbitrary: let its largest entry be positive
    largest = vectors.gather(0, vectors.abs().argmax(dim=0, keepdim=True))
    vectors = vectors * torch.where(largest < 0, -1.0, 1.0)
    return Embedding((vectors / vectors.square().mean().sqrt()).float(), learn=learn)


@register("onehot")
def onehot(*, labels: str | Sequence[str], learn: bool = False) -> Embedding:
    """The identity matrix: F = K.

    Parameters
    ----------
    labels : str or sequence of str
        K of them.
    learn : bool
        Train them.
    """
    return Embedding(torch.eye(len(label_sets.resolve(labels))), learn=learn)


@register("learned")
def learned(*, labels: str | Sequence[str], dim: int = 300) -> Embedding:
    """Vectors from N(0, 1) that are trained.

    Parameters
    ----------
    labels : str or sequence of str
        K of them.
    dim : int
        F.
    """
    return Embedding(torch.randn(len(label_sets.resolve(labels)), _positive(dim)), learn=True)


@register("random")
def random(*, labels: str | Sequence[str], dim: int = 300, seed: int = 0) -> Embedding:
    """Vectors from N(0, 1) that stay: a function of `seed` and the number of labels.

    Parameters
    ----------
    labels : str or sequence of str
        K of them.
    dim : int
        F.
    seed : int
        Of the numbers.
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    return Embedding(torch.randn(len(label_sets.resolve(labels)), _positive(dim), generator=generator, device="cpu"))


@register("word_vectors")
def word_vectors(*, labels: str | Sequence[str], learn: bool = False) -> Embedding:
    """Word vectors (fastText, F = 300) of the labels of NIH-14, CheXpert-5 and MIMIC-14, as SegFusionVANGCN uses them.

    Its code calls them GloVe; they are those of ``crawl-300d-2M.vec`` (Mikolov et al. 2018), the mean over a label's
    words. The numbers are under CC BY-SA 3.0, not under this library's licence.

    Parameters
    ----------
    labels : str or sequence of str
        K of them.
    learn : bool
        Train them.

    Raises
    ------
    ValueError
        A label that is not among them.
    """
    table = _shipped_vectors()
    # the wording decides, not the meaning: "Effusion" and "Pleural Effusion" have different words
    by_text = {text.lower(): vector for text, vector in table.items()}
    nodes = label_sets.resolve(labels)
    found = [by_text.get(label.replace("_", " ").lower()) for label in nodes]
    lost = [label for label, vector in zip(nodes, found, strict=True) if vector is None]
    if lost:
        raise ValueError(
            f"no shipped vector for {', '.join(map(repr, lost))}; there are those of {', '.join(table)}. Use "
            "{'name': 'file', 'path': ...} with a file of word vectors, or 'ppmi', 'learned', 'onehot'"
        )
    return Embedding(torch.tensor(found), learn=learn)


@register("file")
def file(
    *, labels: str | Sequence[str], path: str | os.PathLike[str] | None, dim: int = 300, learn: bool = False
) -> Embedding:
    """Vectors from a text file of word vectors: GloVe, or fastText's ``.vec``.

    How labels are looked up in it: :func:`thoraxlib.graphs.vector_files.read_vectors`.

    Parameters
    ----------
    labels : str or sequence of str
        The K labels.
    path : path or None
        The file. A saved model does not record it, as its vectors come back with its weights: until then, None gives
        zeros.
    dim : int
        F, the width of the file.
    learn : bool
        Train them from there.
    """
    if path is None:
        return Embedding(torch.zeros(len(label_sets.resolve(labels)), _positive(dim)), learn=learn)
    return Embedding(read_vectors(path, labels, dim=dim), learn=learn)


@cache
def _shipped_vectors() -> dict[str, list[float]]:
    vectors: dict[str, list[float]] = read_shipped("word_vectors")["vectors"]
    return vectors


def _positive(dim: int) -> int:
    if dim < 1:
        raise ValueError(f"dim={dim}: at least 1")
    return dim
