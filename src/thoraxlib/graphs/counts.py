"""How often labels occur, alone and together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from thoraxlib import labels as label_sets
from thoraxlib.graphs.chunks import chunks
from thoraxlib.graphs.named import Named
from thoraxlib.graphs.shipped import read_shipped
from thoraxlib.registry import Registry

_CHUNK = 16384  # rows for each product: fits a cache, and its float32 sums are exact where they can be counts


@dataclass(frozen=True, eq=False)
class LabelCounts(Named):
    """Counts of a data set's labels, from which adjacency and embeddings are made.

    Attributes
    ----------
    labels : tuple of str
        K names.
    joint : Tensor
        int64 (K, K), symmetric: images that have both labels; the diagonal has those of each label.
    support : Tensor
        int64 (K, K): images that have label i and in which label j is known. Without unknown labels, row i is n_i, and
        it need not be given.

    Raises
    ------
    ValueError
        Counts that are negative, asymmetric, larger than those of one of the two labels, or not (K, K).

    Examples
    --------
    >>> counts = LabelCounts.of(torch.tensor([[1, 1], [1, 0], [0, float("nan")]]), ["Mass", "Nodule"])
    >>> counts.joint.tolist(), counts.conditional()[0].tolist()
    ([[2, 1], [1, 1]], [1.0, 0.5])
    """

    labels: tuple[str, ...]
    joint: Tensor
    support: Tensor = None  # type: ignore[assignment]
    _kind = "label counts"
    _lost = "counts have no {lost}; they have {known}"

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", label_sets.resolve(tuple(self.labels)))
        shape = (len(self.labels), len(self.labels))
        self._keep_counts("joint", shape)
        if self.support is None:
            object.__setattr__(self, "support", self._without_unknown())
        self._keep_counts("support", shape)
        for name, value in (("joint", self.joint), ("support", self.support)):
            if bool((value < 0).any()):
                i, j = (value < 0).nonzero()[0].tolist()
                raise ValueError(
                    f"{name} has the negative count {int(value[i, j])} of {self.labels[i]!r} and {self.labels[j]!r}"
                )
        different = (self.joint != self.joint.T).nonzero()
        if len(different):
            i, j = different[0].tolist()
            raise ValueError(
                f"joint is not symmetric: {self.labels[i]!r} with {self.labels[j]!r} {int(self.joint[i, j])} times, "
                f"the other way round {int(self.joint[j, i])}"
            )
        excess = (self.joint > self.support).nonzero()
        if len(excess):
            i, j = excess[0].tolist()
            raise ValueError(
                f"{self.labels[i]!r} and {self.labels[j]!r} are counted together {int(self.joint[i, j])} times, but "
                f"only {int(self.support[i, j])} images have {self.labels[i]!r}"
            )
        excess = (self.support > self.positives[:, None]).nonzero()
        if len(excess):
            i, j = excess[0].tolist()
            raise ValueError(
                f"support: {self.labels[j]!r} is known in {int(self.support[i, j])} images with {self.labels[i]!r}, "
                f"but only {int(self.positives[i])} have that"
            )

    @classmethod
    def of(cls, targets: Any, labels: str | Sequence[str]) -> LabelCounts:
        """Counts of a label matrix, chunk by chunk in constant extra memory.

        Parameters
        ----------
        targets : Tensor, array, or an iterable of them
            (N, K) with 1, 0, and NaN for unknown, of any number type; or chunks of it, which are added up.
        labels : str or sequence of str
            What the K columns mean.

        Raises
        ------
        ValueError
            Another width, or values other than 0, 1 and NaN.
        """
        resolved = label_sets.resolve(labels)
        k = len(resolved)
        joint = torch.zeros(k, k, dtype=torch.int64, device="cpu")
        support = torch.zeros(k, k, dtype=torch.int64, device="cpu")
        message = f"targets must be (N, {k}), one column for each label, got shape"
        for _, chunk in chunks(targets, (k,), _CHUNK, message):
            both, of_known = _count(chunk)
            joint += both
            support += of_known
        return cls(resolved, joint, support)

    def conditional(self) -> Tensor:
        """P(label j | label i), float64 (K, K), over images in which j is known; 0 where i never occurs.

        The diagonal is 1 for labels that occur.
        """
        return torch.where(self.support > 0, self.joint.double() / self.support.clamp(min=1), 0.0)

    @property
    def positives(self) -> Tensor:
        """Images that have each label, int64 (K,)."""
        return self.joint.diagonal()

    @property
    def absent(self) -> tuple[str, ...]:
        """Labels that no image has."""
        return tuple(label for label, n in zip(self.labels, self.positives.tolist(), strict=True) if n == 0)

    def _to_json(self) -> dict[str, Any]:
        content = super()._to_json()
        if torch.equal(self.support, self._without_unknown()):
            del content["support"]
        return content

    def _without_unknown(self) -> Tensor:
        """What `support` is where every label is known."""
        return self.positives[:, None].expand_as(self.joint)

    def __repr__(self) -> str:
        listed = ", ".join(f"{label} {int(n)}" for label, n in zip(self.labels, self.positives, strict=True))
        return f"LabelCounts({listed})"


def _count(chunk: Tensor) -> tuple[Tensor, Tensor]:
    """Joint counts of a chunk, and those of label i where j is known."""
    ones = chunk.float()
    joint = ones.T @ ones
    if chunk.is_floating_point():
        complete = bool(ones.square().sub_(ones).abs_().sum() == 0)
    else:  # an integer's square is at least itself, and more unless it is 0 or 1
        complete = torch.equal(joint.diagonal(), ones.sum(dim=0))
    if complete:
        joint = joint.long()
        return joint, joint.diagonal()[:, None].expand_as(joint)
    known = ~ones.isnan()
    ones = torch.where(known, ones, 0.0)
    wrong = ((ones != 0) & (ones != 1)).nonzero()
    if len(wrong):
        row, column = wrong[0].tolist()
        raise ValueError(f"targets must be 0, 1 or NaN, got {chunk[row, column].item()} in column {column}")
    return (ones.T @ ones).long(), (ones.T @ known.float()).long()


registry: Registry[LabelCounts] = Registry("graphs.counts")
build, register, names, describe = registry.build, registry.register, registry.names, registry.describe

_SHIPPED = {
    "nih14": "NIH ChestX-ray14, the first 80,000 images of its train_val list; recounted from the public labels.",
    "chexpert5": "CheXpert's five competition labels, frontal training images, as the SegFusionVANGCN code counted.",
    "mimic14": "MIMIC-CXR-JPG, frontal training images, as the SegFusionVANGCN code counted.",
}


@cache
def _read(name: str) -> LabelCounts:
    return LabelCounts._from_json(read_shipped(name))


for _name, _summary in _SHIPPED.items():
    _factory = partial(_read, _name)
    _factory.__doc__ = _summary
    _factory.__module__ = __name__  # type: ignore[attr-defined]
    register(_name)(_factory)
register("given")(LabelCounts)


def shipped(labels: str | Sequence[str]) -> LabelCounts:
    """Shipped counts of `labels`, in their order: of exactly these, or else the first that have all of them.

    Raises
    ------
    ValueError
        There are none.
    """
    wanted = label_sets.resolve(labels)
    having = [counts for counts in map(build, _SHIPPED) if None not in label_sets.align(counts.labels, wanted)]
    if having:
        return min(having, key=lambda counts: len(counts.labels) != len(wanted)).select(wanted)
    raise ValueError(
        f"no shipped counts have all of {list(wanted)}: count your own, "
        "counts=thoraxlib.graphs.LabelCounts.of(targets, labels), or do without: adjacency='identity' (or 'full') and "
        "embeddings='onehot' (or 'learned')"
    )
