"""Left-right mirroring that knows which side a region is on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import tv_tensors
from torchvision.transforms import v2

from thoraxlib.labels import mirrored


class _Flip(v2.Transform):  # type: ignore[misc]
    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return v2.functional.horizontal_flip(inpt)


class Mirror(nn.Module):
    """Mirror left and right with probability p; regions change places, so that the right lung stays on the right.

    Of a sample with ``regions``, the rows of ``regions``, ``present`` and ``region_labels`` that name a side are
    exchanged with those of the other side. A region whose other side has no row (the right atrium) is not in a mirrored
    picture: its box is empty, it is not present, its labels are NaN.

    Parameters
    ----------
    p : float
        From 0 to 1.
    region_names : sequence of str, optional
        The data set's; samples with regions need them.

    Raises
    ------
    ValueError
        `p` out of its range; for a sample, regions without names, or of another number.
    """

    def __init__(self, p: float = 0.5, region_names: Sequence[str] | None = None) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError(f"p={p}: from 0 to 1 is accepted")
        self.p = p
        self.region_names = None if region_names is None else tuple(region_names)
        self._flip = _Flip()

    def forward(self, sample: Any) -> Any:
        """The sample, or what is in it, mirrored or as it is."""
        has_regions = isinstance(sample, dict) and "regions" in sample
        if has_regions:
            self._check(len(sample["regions"]))
        if torch.rand(1) >= self.p:
            return sample
        flipped = self._flip(sample)
        return self._exchanged(flipped) if has_regions else flipped

    def _check(self, rows: int) -> None:
        if self.region_names is None:
            raise ValueError(
                "mirroring would put 'right' regions on the left: give the augmentation the data set's names, "
                "train={'name': ..., 'region_names': dataset.region_names}"
            )
        if rows != len(self.region_names):
            raise ValueError(f"the sample has {rows} regions, region_names has {len(self.region_names)}")

    def _exchanged(self, sample: dict[str, Any]) -> dict[str, Any]:
        source = mirrored(self.region_names or ())
        rows = torch.tensor([0 if row is None else row for row in source])
        lost = torch.tensor([row is None for row in source])
        empty: dict[str, float | bool] = {"regions": 0.0, "present": False, "region_labels": float("nan")}
        changed = {}
        for key in empty.keys() & sample.keys():
            value = sample[key].as_subclass(Tensor)[rows]
            value[lost] = empty[key]
            changed[key] = tv_tensors.wrap(value, like=sample[key]) if key == "regions" else value
        return {**sample, **changed}

    def extra_repr(self) -> str:
        """Probability."""
        return f"p={self.p}"
