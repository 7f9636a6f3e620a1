"""How often findings occur in anatomical regions, in each and in two at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from thoraxlib import labels as label_sets
from thoraxlib.graphs.chunks import chunks
from thoraxlib.graphs.named import Named
from thoraxlib.graphs.shipped import read_shipped
from thoraxlib.registry import Registry
from thoraxlib.utils.arguments import one_of

_CHUNK = 4096  # images for each product: fits a cache, and its float32 sums are exact


@dataclass(frozen=True, eq=False)
class RegionCounts(Named):
    """Counts of K findings in pairs of R regions, from which a region graph is made.

    Attributes
    ----------
    regions, labels : tuple of str
        R and K names.
    both : Tensor
        int64 (K, R, R): images in which regions a and b both show finding k.
    either : Tensor
        int64 (K, R, R): images in which a or b shows it, and it is known in both.
    usable : Tensor
        int64 (K, R, R): images in which a or b shows any finding, and finding k is known in both.

    Raises
    ------
    ValueError
        Counts that are no integers (K, R, R), or that do not satisfy 0 <= both <= either <= usable.

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
        """Counts of region labels, chunk by chunk in constant extra memory.

        Parameters
        ----------
        targets : Tensor, array, or an iterable of them
            (N, R, K) with 1, 0, and NaN for unknown, of any number type; a region that an image lacks is NaN in all
            findings. Or chunks of it, which are added up.
        regions, labels : str or sequence of str
            What rows and columns mean.
        complete : bool
            Count images that have all regions only, as AnaXNet does.

        Raises
        ------
        ValueError
            Another shape, or values other than 0, 1 and NaN.
        """
        rows, columns = label_sets.resolve(regions), label_sets.resolve(labels)
        sums = torch.zeros(3, len(columns), len(rows), len(rows), dtype=torch.int64, device="cpu")
        shape = (len(rows), len(columns))
        message = f"targets must be (N, {shape[0]}, {shape[1]}): images, regions, findings; got shape"
        for start, chunk in chunks(targets, shape, _CHUNK, message):
            sums += _count(chunk, complete, start)
        return cls(rows, columns, *sums)

    def jaccard(self, *, average: str = "macro", skip_absent: bool = False) -> Tensor:
        """How alike two regions' findings are, float64 (R, R) in [0, 1].

        For each finding the Jaccard index of the two regions over the usable images; then the mean over findings.

        Parameters
        ----------
        average : {"macro", "positive"}
            "macro": the mean of the index of presence and that of absence, each where it is defined (scikit-learn's
            macro average, which AnaXNet's code has). "positive": of presence alone, over the findings that occur in
            one of the two regions.
        skip_absent : bool
            With "macro", leave out findings that occur in neither region; otherwise they count as wholly alike.

        Raises
        ------
        ValueError
            Another average.
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


def _count(chunk: Tensor, complete: bool, start: int) -> Tensor:
    """Both, either and usable (3, K, R, R) of a chunk (n, R, K), whose first image has the number `start`."""
    values = chunk.permute(2, 0, 1).float().contiguous()
    unknown = values.isnan() if chunk.is_floating_point() else None
    if unknown is None or not bool(unknown.any()):
        _check(values, start)
        # one product over the images for each finding, and for "any finding"
        joint = torch.cat([values, values.amax(dim=0, keepdim=True)])
        joint = joint.mT @ joint
        alone = joint.diagonal(dim1=1, dim2=2)
        either = alone[:, :, None] + alone[:, None, :] - joint
        return torch.stack([joint[:-1], either[:-1], either[-1:].expand_as(joint[:-1])]).long()
    ones, known = values.masked_fill(unknown, 0.0), (~unknown).float()
    _check(ones, start)
    if complete:
        whole = (known.amax(dim=0) > 0).all(dim=1)
        ones, known = ones[:, whole], known[:, whole]
    active = ones.amax(dim=0, keepdim=True) * known
    both, one, some = ones.mT @ ones, ones.mT @ known, active.mT @ known
    return torch.stack([both, one + one.mT - both, some + some.mT - active.mT @ active]).long()


def _check(ones: Tensor, start: int) -> None:
    """Raise unless (K, n, R) is 0 and 1 throughout."""
    wrong = ones.square().sub_(ones)
    if bool(wrong.any()):
        k, image, region = wrong.nonzero()[0].tolist()
        raise ValueError(
            f"targets must be 0, 1 or NaN, got {ones[k, image, region].item()} at {[start + image, region, k]}"
        )


def _mean(values: Tensor, where: Tensor) -> Tensor:
    """Over the first dimension, of those that count; 0 where none does, and 1 on the diagonal."""
    mean = torch.where(where, values, 0.0).sum(dim=0) / where.sum(dim=0).clamp(min=1)
    return mean.fill_diagonal_(1)


registry: Registry[RegionCounts] = Registry("graphs.region_counts")
build, register, names, describe = registry.build, registry.register, registry.names, registry.describe
register("given")(RegionCounts)


@register("synthetic_regions18")
@cache
def synthetic_regions18() -> RegionCounts:
    """Counts of the 18 regions of AnaXNet in synthetic images: a stand-in that says nothing of patients.

    Counted over ``datasets.build("synthetic", size=64, length=1000)``, its 14 findings at the prevalence of NIH.
    """
    return RegionCounts._from_json(read_shipped("synthetic_regions18"))


def shipped(regions: str | Sequence[str]) -> RegionCounts:
    """Shipped counts of `regions`, in their order.

    Raises
    ------
    ValueError
        There are none.
    """
    wanted = label_sets.resolve(regions)
    counts = build("synthetic_regions18")
    if None in label_sets.align(counts.regions, wanted):
        raise ValueError(
            f"no shipped counts have all of {list(wanted)}: count your own, "
            "counts=thoraxlib.graphs.RegionCounts.of(targets, regions, labels), or do without: adjacency='identity' "
            "or 'full'"
        )
    return counts.select(wanted)
