"""Label embeddings: one vector for each label, (K, F); vectors from text files of word vectors."""

from __future__ import annotations

import io
import os
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from thoraxlib import labels as label_sets
from thoraxlib.graphs import counts as label_counts
from thoraxlib.graphs.counts import LabelCounts, read_shipped
from thoraxlib.registry import Registry, Spec
from thoraxlib.utils.files import open_regular


class Embedding(nn.Module):
    """Vectors of K labels: a buffer, or a parameter if they are learned.

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
        """Width F of the vectors."""
        return self.vectors.shape[1]

    def forward(self) -> Tensor:
        """Return the vectors, (K, F)."""
        return self.vectors

    @property
    def registry_spec(self) -> dict[str, Any]:
        """The spec that a model records: zeros of the same shape, since the vectors are among its weights."""
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
    """Embeddings from co-occurrence: factorised positive pointwise mutual information. It needs no file.

    The matrix is ``max(0, log(c_ij c / (c_i c_j)))`` of the co-occurrence counts, diagonal included, with the row sums
    c_i and the total c. The vectors are its truncated singular value decomposition, ``U sqrt(S)`` (Levy and Goldberg
    2014), scaled to a mean square of 1.

    Parameters
    ----------
    labels : str or sequence of str
        The K labels.
    counts : str, mapping or LabelCounts, optional
        From :mod:`thoraxlib.graphs.counts`; by default shipped ones that have all labels.
    dim : int, optional
        F, at most K; by default K.
    learn : bool
        Train the vectors.

    Raises
    ------
    ValueError
        `dim` out of range; a label that never occurs, or whose vector would be zero (independent of all others, or a
        single label); labels without counts.
    """
    nodes = label_sets.resolve(labels)
    dim = len(nodes) if dim is None else dim
    if not 1 <= dim <= len(nodes):
        raise ValueError(f"dim={dim}: from 1 to {len(nodes)}, the number of labels")
    counts = label_counts.shipped(nodes) if counts is None else label_counts.registry.resolve(counts).select(nodes)
    joint = counts.joint.double()
    if counts.absent:
        lost = ", ".join(map(repr, counts.absent))
        raise ValueError(f"no image has {lost}, so that it has no embedding; use 'learned'")
    sums = joint.sum(dim=1)
    information = (joint * joint.sum() / (sums[:, None] * sums)).clamp(min=1).log()
    empty = [label for label, some in zip(nodes, information.any(dim=1).tolist(), strict=True) if not some]
    if empty:  # training would never change a vector of zeros
        raise ValueError(
            f"the counts have no information about {', '.join(map(repr, empty))}, which is single or independent of "
            "every other label; use 'onehot' or 'learned'"
        )
    u, s, _ = torch.linalg.svd(information)
    vectors = u[:, :dim] * s[:dim].sqrt()
    # the sign of a singular vector is arbitrary: make its largest entry positive
    largest = vectors.gather(0, vectors.abs().argmax(dim=0, keepdim=True))
    vectors = vectors * torch.where(largest < 0, -1.0, 1.0)
    return Embedding((vectors / vectors.square().mean().sqrt()).float(), learn=learn)


@register("onehot")
def onehot(*, labels: str | Sequence[str], learn: bool = False) -> Embedding:
    """One-hot vectors: F = K.

    Parameters
    ----------
    labels : str or sequence of str
        The K labels.
    learn : bool
        Train the vectors.
    """
    return Embedding(torch.eye(len(label_sets.resolve(labels))), learn=learn)


@register("learned")
def learned(*, labels: str | Sequence[str], dim: int = 300) -> Embedding:
    """Trained vectors, initialised from N(0, 1).

    Parameters
    ----------
    labels : str or sequence of str
        The K labels.
    dim : int
        F.
    """
    return Embedding(torch.randn(len(label_sets.resolve(labels)), _positive(dim)), learn=True)


@register("random")
def random(*, labels: str | Sequence[str], dim: int = 300, seed: int = 0) -> Embedding:
    """Fixed vectors from N(0, 1), which depend on `seed` and the number of labels only.

    Parameters
    ----------
    labels : str or sequence of str
        The K labels.
    dim : int
        F.
    seed : int
        Random seed.
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    return Embedding(torch.randn(len(label_sets.resolve(labels)), _positive(dim), generator=generator, device="cpu"))


@register("word_vectors")
def word_vectors(*, labels: str | Sequence[str], learn: bool = False) -> Embedding:
    """Word vectors (fastText, F = 300) of the labels of NIH-14, CheXpert-5 and MIMIC-14, as SegFusionVANGCN uses them.

    Its code calls them GloVe, but they are from ``crawl-300d-2M.vec`` (Mikolov et al. 2018); a label's vector is the
    mean over its words. The numbers are under CC BY-SA 3.0, not under this library's licence.

    Parameters
    ----------
    labels : str or sequence of str
        The K labels.
    learn : bool
        Train the vectors.

    Raises
    ------
    ValueError
        A label without a shipped vector.
    """
    table: dict[str, list[float]] = read_shipped("word_vectors")["vectors"]
    # by wording, not by canonical name: "Effusion" and "Pleural Effusion" have different words
    by_text = {text.lower(): vector for text, vector in table.items()}
    nodes = label_sets.resolve(labels)
    found = [by_text.get(label.replace("_", " ").lower()) for label in nodes]
    lost = [label for label, vector in zip(nodes, found, strict=True) if vector is None]
    if lost:
        raise ValueError(
            f"no shipped vector for {', '.join(map(repr, lost))}; shipped are those of {', '.join(table)}. Use "
            "{'name': 'file', 'path': ...} with a file of word vectors, or 'ppmi', 'learned', 'onehot'"
        )
    return Embedding(torch.tensor(found), learn=learn)


@register("file")
def file(
    *, labels: str | Sequence[str], path: str | os.PathLike[str] | None, dim: int = 300, learn: bool = False
) -> Embedding:
    """Vectors from a text file of word vectors: GloVe, or fastText's ``.vec``.

    Labels are searched as in :func:`thoraxlib.graphs.embeddings.read_vectors`.

    Parameters
    ----------
    labels : str or sequence of str
        The K labels.
    path : path or None
        The file. None gives zeros: a saved model does not record the path, and its vectors are loaded with its weights.
    dim : int
        F, the width of the file.
    learn : bool
        Train the vectors.
    """
    if path is None:
        return Embedding(torch.zeros(len(label_sets.resolve(labels)), _positive(dim)), learn=learn)
    return Embedding(read_vectors(path, labels, dim=dim), learn=learn)


def _positive(dim: int) -> int:
    if dim < 1:
        raise ValueError(f"dim={dim}: at least 1")
    return dim


def read_vectors(path: str | os.PathLike[str], labels: str | Sequence[str], *, dim: int = 300) -> Tensor:
    """Read label vectors, float32 (K, dim), from a text file with a word and its numbers in each line.

    A label is searched as it is written. If it is not found, its vector is the mean over its words, split at blanks and
    underscores; each word is searched as it is written, in lower case, and capitalised, in this order.

    Parameters
    ----------
    path : path
        UTF-8; a first line with two numbers, as in fastText's files, is skipped.
    labels : str or sequence of str
        The K labels.
    dim : int
        Numbers in each line.

    Raises
    ------
    FileNotFoundError
        No such file.
    ValueError
        A line of another width, with its number; words that the file lacks, with their labels.
    """
    nodes = label_sets.resolve(labels)
    phrases = {label: label.replace("_", " ").split() for label in nodes}
    spellings = {word: (word, word.lower(), word.capitalize()) for words in phrases.values() for word in words}
    wanted = {label.replace(" ", "_") for label in nodes} | {s for forms in spellings.values() for s in forms}
    found = _vectors_of(wanted, path, dim)
    vectors, lost = [], []
    for label in nodes:
        whole = found.get(label.replace(" ", "_"))
        words = [next((found[s] for s in spellings[word] if s in found), None) for word in phrases[label]]
        known = [vector for vector in words if vector is not None]
        if whole is not None:
            vectors.append(whole)
        elif len(known) == len(words):
            vectors.append(torch.stack(known).mean(dim=0))
        else:
            lost += [f"{w!r} of {label!r}" for w, v in zip(phrases[label], words, strict=True) if v is None]
    if lost:
        raise ValueError(f"{path} has no vector for {', '.join(lost)}")
    return torch.stack(vectors)


def _vectors_of(wanted: Collection[str], path: str | os.PathLike[str], dim: int) -> dict[str, Tensor]:
    """Return the vectors of the `wanted` words that the file has; of a repeated word, the first one."""
    found: dict[str, Tensor] = {}
    with io.TextIOWrapper(open_regular(path), encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, start=1):
            word, _, rest = line.rstrip("\n").partition(" ")
            if word not in wanted and number > 2:  # the first two lines show the width of the file
                continue
            values = rest.split()
            if number == 1 and dim > 1 and len(values) == 1:
                continue
            if len(values) != dim:
                raise ValueError(
                    f"{path}:{number}: {len(values)} numbers, not dim={dim}; is this a file of that width?"
                )
            if word in wanted and word not in found:
                try:
                    found[word] = torch.tensor([float(value) for value in values])
                except ValueError as error:
                    raise ValueError(f"{path}:{number}: {error}") from error
                if not found[word].isfinite().all():
                    raise ValueError(f"{path}:{number}: the vector of {word!r} holds NaN or infinite numbers")
    return found
