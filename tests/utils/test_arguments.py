"""Positions given as whole numbers or as a mask."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from thoraxlib import datasets
from thoraxlib.utils.arguments import positions


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ([], []),
        ([2, -1, 0, 0], [2, -1, 0, 0]),
        (range(2), [0, 1]),
        ((np.int64(1), torch.tensor(2)), [1, 2]),
        (torch.tensor([1, 0, 1], dtype=torch.uint8), [1, 0, 1]),
        (torch.tensor([True, False, True]), [0, 2]),
        (np.array([False, False, True]), [2]),
        ((False, np.True_, torch.tensor(False)), [1]),
    ],
)
def test_positions(asked: Any, expected: list[int]) -> None:
    assert positions("rows", asked, 3) == expected


def test_without_a_count_masks_are_refused() -> None:
    assert positions("rows", [7, -9], None) == [7, -9]
    with pytest.raises(ValueError, match="rows: 2 booleans among 2 values; whole numbers are needed"):
        positions("rows", [True, False], None)


def test_a_subset_by_a_mask() -> None:
    images = datasets.build("synthetic", size=32, length=6)
    mask = torch.arange(6) % 2 == 1
    part = datasets.Subset(images, mask)  # type: ignore[arg-type]
    assert part.ids == [images.ids[k] for k in (1, 3, 5)]
    assert torch.equal(part.targets, images.targets[[1, 3, 5]])
    with pytest.raises(ValueError, match="indices: 5 booleans among 5 values; a mask of 6"):
        datasets.Subset(images, mask[:5])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"indices: 1\.5 is no whole number"):
        datasets.Subset(images, [0, 1.5])  # type: ignore[list-item]
    with pytest.raises(IndexError, match="indices: 6 of 6"):
        datasets.Subset(images, [0, 6])
