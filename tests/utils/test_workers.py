"""The reader of batches: order, laziness, errors, random numbers."""

from __future__ import annotations

from itertools import count

import numpy as np
import pytest
import torch

from thoraxlib import datasets
from thoraxlib.datasets.samples import Samples
from thoraxlib.images import transform_for
from thoraxlib.input_spec import InputSpec
from thoraxlib.utils.workers import in_batches, read_batches


def test_batches_are_lazy() -> None:
    assert list(in_batches("abcde", 2)) == [["a", "b"], ["c", "d"], ["e"]]
    assert list(in_batches([], 2)) == []
    endless = count()
    assert next(in_batches(endless, 3)) == [0, 1, 2]
    assert next(endless) == 3
    with pytest.raises(ValueError, match="batch_size=0: at least 1"):
        in_batches("abc", 0)


def squared(key: int) -> int:
    if key == 4:
        raise ValueError("row 4 is broken")
    return key * key


@pytest.mark.parametrize("workers", [0, 2])
def test_rows_come_in_order_and_an_error_ends_the_loop(workers: int) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    order = [[9, 1], [3], [0, 2, 8], [5, 4]]
    read = iter(read_batches(squared, order, list, num_workers=workers))
    assert [next(read) for _ in range(3)] == [[81, 1], [9], [0, 4, 64]]
    with pytest.raises(ValueError, match="row 4 is broken"):
        next(read)
    assert torch.equal(torch.get_rng_state(), before)


def test_without_workers_batches_are_read_lazily() -> None:
    asked: list[int] = []
    read = iter(read_batches(lambda key: asked.append(key) or key, in_batches(count(), 2), list))
    assert next(read) == [0, 1]
    assert asked == [0, 1]


def test_samples_keep_original_fields() -> None:
    images = datasets.build("synthetic", size=40, length=5, labels=["Mass", "Edema"], balance=1.0, masks=False)
    samples = Samples(images, transform_for(InputSpec(size=24)), original=("boxes", "box_labels", "size"))
    first, second = samples.batches(2, indices=[4, 0, 3])
    assert first["id"] + second["id"] == [images.ids[index] for index in (4, 0, 3)]
    assert first["index"] == [4, 0]
    assert first["image"].shape == (2, 3, 24, 24)
    assert first["size"] == [(40, 40), (40, 40)]
    for boxes, labels, index in zip(first["boxes"], first["box_labels"], (4, 0), strict=True):
        np.testing.assert_array_equal(boxes, images[index]["boxes"])
        np.testing.assert_array_equal(labels, images[index]["box_labels"])
    assert not {"boxes", "size"} & set(Samples(images)[0])
