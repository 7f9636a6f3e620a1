"""Counts of labels, and of findings in regions, alone and in pairs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib import resources
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thoraxlib import labels as label_sets
from thoraxlib.graphs.graph import Named
from thoraxlib.registry import Registry
from thoraxlib.utils.arguments import one_of
from thoraxlib.utils.files import parse_json

# rows for each matrix product: they fit a cache, and the float32 sums are exact
_CHUNK = 16384
_REGION_CHUNK = 4096


@dataclass(frozen=True, eq=False)
class LabelCounts(Named):
    """Counts of a data set's labels, from which adjacency and embeddings are computed.

    Attributes
    ----------
    labels : tuple of str
        K names.
    joint : Tensor
        int64 (K, K), symmetric: images that have both labels; the diagonal has the images of each label.
    support : Tensor
        int64 (K, K): images that have label i and in which label j is known. By default every label is known: row i is
        the number of images with label i.

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
        joint, support = self.joint, self.support
        for valid, rule in (
            (joint >= 0, "0 <= joint[i, j]"),
            (joint == joint.T, "joint[i, j] == joint[j, i]"),
            (joint <= support, "joint[i, j] <= support[i, j]"),
            (support <= self._without_unknown(), "support[i, j] <= joint[i, i]"),
        ):
            if not bool(valid.all()):
                i, j = (~valid).nonzero()[0].tolist()
                raise ValueError(
                    f"counts must satisfy {rule}; for i={self.labels[i]!r} and j={self.labels[j]!r} "
                    f"joint is {int(joint[i, j])} (joint[j, i] {int(joint[j, i])}, joint[i, i] {int(joint[i, i])}), "
                    f"support {int(support[i, j])}"
                )

    @classmethod
    def of(cls, targets: Any, labels: str | Sequence[str]) -> LabelCounts:
        """Count a label matrix, chunk by chunk in constant extra memory.

        Parameters
        ----------
        targets : Tensor, array, or an iterable of them
            (N, K) with 1, 0, and NaN for unknown, of any number type; or chunks of it, which are added up.
        labels : str or sequence of str
            Names of the K columns.

        Raises
        ------
        ValueError
            Another width, or values other than 0, 1 and NaN.
        """
        resolved = label_sets.resolve(labels)
        k = len(resolved)
        sums = torch.zeros(2, k, k, dtype=torch.int64, device="cpu")
        message = f"targets must be (N, {k}), one column for each label, got shape"
        for _, chunk in _chunks(targets, (k,), _CHUNK, message):
            sums += _count(chunk)
        return cls(resolved, *sums)

    def conditional(self) -> Tensor:
        """P(label j | label i), float64 (K, K), over images in which j is known; 0 where i never occurs.

        The diagonal is 1 for labels that occur.
        """
        return torch.where(self.support > 0, self.joint.double() / self.support.clamp(min=1), 0.0)

    @property
    def positives(self) -> Tensor:
        """Number of images that have each label, int64 (K,)."""
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
        """Return the support of a data set in which every label is known."""
        return self.positives[:, None].expand_as(self.joint)

    def __repr__(self) -> str:
        listed = ", ".join(f"{label} {int(n)}" for label, n in zip(self.labels, self.positives, strict=True))
        return f"LabelCounts({listed})"


@dataclass(frozen=True, eq=False)
class RegionCounts(Named):
    """Counts of K findings in pairs of R regions, from which a region graph is computed.

    Attributes
    ----------
    regions, labels : tuple of str
        R and K names.
    both : Tensor
        int64 (K, R, R): images in which regions a and b both have finding k.
    either : Tensor
        int64 (K, R, R): images in which a or b has it, and it is known in both.
    usable : Tensor
        int64 (K, R, R): images in which a or b has any finding, and finding k is known in both.

    Raises
    ------
    ValueError
        Counts that are not integers (K, R, R), or that do not satisfy 0 <= both <= either <= usable.

    Examples
    --------
    >>> targets = torch.tensor([[[1.0], [1.0]], [[1.0], [0.0]]])  # two images, two regions, one finding
    >>> RegionCounts.of(targets, ["left lung", "right lung"], ["Edema"]).jaccard()
    tensor([[1.0000, 0.2500],
            [0.2500, 1.0000]], dtype=torch.float64)
    """

    regions: tuple[str, ...]
    labels: tuple[str, ...]
    both: Tensor
    either: Tensor
    usable: Tensor
    _kind = "region counts"
    _lost = "counts have no {lost}; they have {known}"

    def __post_init__(self) -> None:
        object.__setattr__(self, "regions", label_sets.resolve(tuple(self.regions)))
        object.__setattr__(self, "labels", label_sets.resolve(tuple(self.labels)))
        shape = (len(self.labels), len(self.regions), len(self.regions))
        for name in ("both", "either", "usable"):
            self._keep_counts(name, shape)
        if not bool(((self.both >= 0) & (self.both <= self.either) & (self.either <= self.usable)).all()):
            raise ValueError("counts must satisfy 0 <= both <= either <= usable for each finding and pair of regions")

    @classmethod
    def of(
        cls, targets: Any, regions: str | Sequence[str], labels: str | Sequence[str], *, complete: bool = True
    ) -> RegionCounts:
        """Count region labels, chunk by chunk in constant extra memory.

        Parameters
        ----------
        targets : Tensor, array, or an iterable of them
            (N, R, K) with 1, 0, and NaN for unknown, of any number type; a region that an image lacks is NaN in all
            findings. Or chunks of it, which are added up.
        regions, labels : str or sequence of str
            Names of rows and columns.
        complete : bool
            Count only images that have all regions, as AnaXNet does.

        Raises
        ------
        ValueError
            Another shape, or values other than 0, 1 and NaN.
        """
        rows, columns = label_sets.resolve(regions), label_sets.resolve(labels)
        shape = (len(rows), len(columns))
        sums = torch.zeros(3, shape[1], shape[0], shape[0], dtype=torch.int64, device="cpu")
        message = f"targets must be (N, {shape[0]}, {shape[1]}): images, regions, findings; got shape"
        for start, chunk in _chunks(targets, shape, _REGION_CHUNK, message):
            sums += _count_regions(chunk, complete, start)
        return cls(rows, columns, *sums)

    def jaccard(self, *, average: str = "macro", skip_absent: bool = False) -> Tensor:
        """Compute the similarity of the findings of each pair of regions, float64 (R, R) in [0, 1].

        It is the mean over findings of the Jaccard index of the two regions, over the usable images.

        Parameters
        ----------
        average : {"macro", "positive"}
            "macro": the mean of the index of presence and that of absence, each where it is defined (scikit-learn's
            macro average, as in AnaXNet's code). "positive": presence alone, over the findings that occur in one of the
            two regions.
        skip_absent : bool
            With "macro", leave out findings that occur in neither region; otherwise their similarity is 1.
        """
        one_of("average", average, ("macro", "positive"))
        occurs, differs = self.either > 0, self.usable > self.both
        present = torch.where(occurs, self.both.double() / self.either.clamp(min=1), 0.0)
        if average == "positive":
            return _mean(present, occurs)
        absent = (self.usable - self.either).double() / (self.usable - self.both).clamp(min=1)
        of_finding = (present + torch.where(differs, absent, 0.0)) / (occurs.double() + differs).clamp(min=1)
        return _mean(of_finding, occurs if skip_absent else self.usable > 0)

    def __repr__(self) -> str:
        return f"RegionCounts({len(self.regions)} regions, {len(self.labels)} findings)"


def _chunks(targets: Any, shape: Sequence[int], rows: int, message: str) -> Iterator[tuple[int, Tensor]]:
    """Yield chunks of up to `rows` rows of ``(N, *shape)`` as tensors on the CPU, with the number of the first row.

    `message` begins the ValueError for another shape.
    """
    for part in [targets] if hasattr(targets, "ndim") else targets:
        values = part if isinstance(part, Tensor) else np.asarray(part)
        if tuple(values.shape[1:]) != tuple(shape):
            raise ValueError(f"{message} {tuple(values.shape)}")
        for start in range(0, len(values), rows):
            chunk = values[start : start + rows]
            if isinstance(chunk, Tensor):
                yield start, chunk.cpu()
            else:  # torch takes no read-only arrays, negative strides or other byte orders: copy these
                yield start, torch.from_numpy(chunk if chunk.flags.carray else chunk.copy())


def _count(chunk: Tensor) -> Tensor:
    """Return joint counts and support of a chunk (n, K), int64 (2, K, K)."""
    ones = chunk.float()
    joint = ones.T @ ones
    if chunk.is_floating_point():
        complete = bool(ones.square().sub_(ones).abs_().sum() == 0)
    else:  # an integer's square is at least itself, and more unless it is 0 or 1
        complete = torch.equal(joint.diagonal(), ones.sum(dim=0))
    if complete:
        return torch.stack([joint, joint.diagonal()[:, None].expand_as(joint)]).long()
    known = ~ones.isnan()
    ones = torch.where(known, ones, 0.0)
    wrong = ((ones != 0) & (ones != 1)).nonzero()
    if len(wrong):
        row, column = wrong[0].tolist()
        raise ValueError(f"targets must be 0, 1 or NaN, got {chunk[row, column].item()} in column {column}")
    return torch.stack([ones.T @ ones, ones.T @ known.float()]).long()


def _count_regions(chunk: Tensor, complete: bool, start: int) -> Tensor:
    """Return both, either and usable, int64 (3, K, R, R), of a chunk (n, R, K); `start` numbers its first image."""
    values = chunk.permute(2, 0, 1).float().contiguous()
    unknown = values.isnan() if chunk.is_floating_point() else None
    if unknown is None or not bool(unknown.any()):
        _check_binary(values, start)
        # one product over the images for each finding, and for "any finding"
        joint = torch.cat([values, values.amax(dim=0, keepdim=True)])
        joint = joint.mT @ joint
        each = joint.diagonal(dim1=1, dim2=2)
        either = each[:, :, None] + each[:, None, :] - joint
        return torch.stack([joint[:-1], either[:-1], either[-1:].expand_as(joint[:-1])]).long()
    ones, known = values.masked_fill(unknown, 0.0), (~unknown).float()
    _check_binary(ones, start)
    if complete:
        whole = (known.amax(dim=0) > 0).all(dim=1)
        ones, known = ones[:, whole], known[:, whole]
    active = ones.amax(dim=0, keepdim=True) * known
    both, one, some = ones.mT @ ones, ones.mT @ known, active.mT @ known
    return torch.stack([both, one + one.mT - both, some + some.mT - active.mT @ active]).long()


def _check_binary(values: Tensor, start: int) -> None:
    """Raise ValueError unless all values (K, n, R) are 0 or 1."""
    wrong = values.square().sub_(values)
    if bool(wrong.any()):
        k, image, region = wrong.nonzero()[0].tolist()
        raise ValueError(
            f"targets must be 0, 1 or NaN, got {values[k, image, region].item()} at {[start + image, region, k]}"
        )


def _mean(values: Tensor, where: Tensor) -> Tensor:
    """Mean over the first dimension `where` it counts; 0 where nothing counts, and 1 on the diagonal."""
    mean = torch.where(where, values, 0.0).sum(dim=0) / where.sum(dim=0).clamp(min=1)
    return mean.fill_diagonal_(1)


# -- counts that the library ships --------------------------------------------------------------------

registry: Registry[LabelCounts] = Registry("graphs.counts")
build, register, names, describe = registry.build, registry.register, registry.names, registry.describe

_SHIPPED = {
    "nih14": "NIH ChestX-ray14, the first 80,000 images of its train_val list; recounted from the public labels.",
    "chexpert5": "CheXpert's five competition labels, frontal training images, as the SegFusionVANGCN code counted.",
    "mimic14": "MIMIC-CXR-JPG, frontal training images, as the SegFusionVANGCN code counted.",
}


@cache
def read_shipped(name: str) -> Any:
    """Return the content of the data file ``graphs/data/<name>.json``."""
    file = resources.files("thoraxlib.graphs").joinpath("data").joinpath(f"{name}.json")
    return parse_json(file.read_bytes(), file)


def _shipped_counts(name: str) -> LabelCounts:
    return LabelCounts.from_json(read_shipped(name))


for _name, _summary in _SHIPPED.items():
    _factory = partial(_shipped_counts, _name)
    _factory.__doc__ = _summary
    _factory.__module__ = __name__  # type: ignore[attr-defined]
    register(_name)(_factory)
register("given")(LabelCounts)


def shipped(labels: str | Sequence[str]) -> LabelCounts:
    """Return shipped counts of `labels`, in their order: of exactly these labels, or else the first that have them all.

    Raises
    ------
    ValueError
        No shipped counts have all labels.
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


def shipped_regions(regions: str | Sequence[str] = "regions18") -> RegionCounts:
    """Return counts of `regions` in synthetic images, in their order: a stand-in, which says nothing about patients.

    They are counted over ``datasets.build("synthetic", size=64, length=1000)``, whose 14 findings have the prevalence
    of NIH ChestX-ray14.

    Raises
    ------
    ValueError
        A region that is not among the 18 of AnaXNet.
    """
    wanted = label_sets.resolve(regions)
    counts = RegionCounts.from_json(read_shipped("synthetic_regions18"))
    if None in label_sets.align(counts.regions, wanted):
        raise ValueError(
            f"no shipped counts have all of {list(wanted)}: count your own, "
            "counts=thoraxlib.graphs.RegionCounts.of(targets, regions, labels), or do without: adjacency='identity' "
            "or 'full'"
        )
    return counts.select(wanted)
