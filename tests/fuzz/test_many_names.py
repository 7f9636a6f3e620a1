"""Names by the hundred thousand: checked in a time that grows with their number, and not all listed in a message."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch

from thoraxlib import graphs, labels, segmentation
from thoraxlib.localization.coco import from_coco
from thoraxlib.utils.arguments import few, repeated

MANY = 200_000
EQUAL = ["Mass"] * MANY
OTHERS = [f"label {k}" for k in range(100_000)]
PAIRS = [f"label {n // 2}" for n in range(MANY)]


def error_of(call: Callable[[], Any]) -> str:
    """The message of the ValueError that `call` raises within seconds: pairwise, it would be hours."""
    start = time.process_time()
    with pytest.raises(ValueError) as raised:
        call()
    assert time.process_time() - start < 30
    return str(raised.value)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: labels.resolve(EQUAL), "labels names ['Mass'] more than once"),
        (lambda: labels.resolve(PAIRS), "'label 39', ... (100000 in all)] more than once"),
        (lambda: labels.resolve([*PAIRS, ""]), "... (200001 in all)"),
        (lambda: graphs.Graph(tuple(PAIRS), torch.ones(1, 1)), "more than once"),
        (lambda: segmentation.build("unet", classes=PAIRS), "no name twice; got [label 0, label 0, label 1"),
        (lambda: graphs.Graph(("Mass",), torch.ones(1, 1)).select(OTHERS), "... (100000 in all)"),
    ],
    ids=["equal", "pairs", "empty", "graph", "segmenter", "lost"],
)
def test_many_labels(call: Callable[[], Any], told: str) -> None:
    message = error_of(call)
    assert told in message
    assert len(message) < 2000


def test_many_images_of_one_id() -> None:
    image = {"id": 1, "file_name": "a", "height": 8, "width": 8}
    content = {"images": [image] * MANY, "categories": [], "annotations": []}
    assert "two images have one id" in error_of(lambda: from_coco(content, "x.json"))


def test_names_in_a_message() -> None:
    assert repeated([3, 1, 3, 2, 1]) == [3, 1]
    assert (few([]), few(["a"]), few("abc", 2)) == ("", "a", "a, b, ... (3 in all)")
