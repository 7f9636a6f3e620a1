"""Heat maps, boxes, scores and labels of every kind, NaN and huge ones among them: sound, or an error that tells."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))

from damage import FEW, refused

from thoraxlib import localization, losses, metrics, plotting
from thoraxlib.input_spec import InputSpec
from thoraxlib.localization import Boxes, crops
from thoraxlib.localization.maps import normalize, upsample
from thoraxlib.reproduce.jaydurant import to_uint8
from thoraxlib.segmentation import masks as mask_metrics

NUMBERS = st.sampled_from(
    (0.0, -0.0, 1.0, 0.5, -1.0, 1e-45, 1e-38, 1e30, 3e38, -3e38, float("nan"), float("inf"), float("-inf"), 1e-7, 255.0)
)
SIDES = st.sampled_from((0, 1, 2, 3, 7))


@st.composite
def tensors(draw: Any, *sides: Any, numbers: Any = NUMBERS) -> Tensor:
    """Of a few values that repeat, so that constants are as likely as single odd places."""
    shape = [draw(side) for side in sides]
    values = draw(st.lists(numbers, min_size=1, max_size=3))
    count = int(np.prod(shape))
    places = draw(st.lists(st.integers(0, len(values) - 1), min_size=1, max_size=8))
    flat = torch.tensor([values[places[k % len(places)]] for k in range(count)], dtype=torch.float32)
    return flat.reshape(shape)


MAPS = tensors(st.sampled_from((0, 1, 2)), st.sampled_from((0, 1, 2)), SIDES, SIDES)


@pytest.mark.parametrize("rule", localization.names())
@given(
    maps=MAPS,
    size=st.sampled_from((1, 5, (3, 9), (9, 1), 0, -1, 2.5, None, (4,))),
    resolution=st.sampled_from(("image", "native")),
)
@FEW
def test_boxes_of_maps(rule: str, maps: Tensor, size: Any, resolution: str) -> None:
    boxes = refused(lambda: localization.build(rule, resolution=resolution)(maps, size), "maps", "size")
    if boxes is None:
        return
    h, w = (size, size) if isinstance(size, int) else size
    assert boxes.xyxy.isfinite().all()
    assert ((boxes.xyxy >= 0) & (boxes.xyxy <= torch.tensor([w, h, w, h]))).all()
    assert (boxes.xyxy[:, 2:] > boxes.xyxy[:, :2]).all()
    assert boxes.score.isfinite().all()
    assert not len(boxes.image) or (boxes.image.max() < maps.shape[0] and boxes.label.max() < maps.shape[1])
    constant = (
        maps.flatten(2).amax(dim=2) == maps.flatten(2).amin(dim=2) if maps.numel() else torch.ones(maps.shape[:2])
    )
    if rule != "level" and len(boxes.image):
        assert not constant[boxes.image, boxes.label].any()


@pytest.mark.parametrize("rule", crops.names())
@given(
    images=tensors(st.just(2), st.just(1), st.sampled_from((1, 5, 32)), st.sampled_from((1, 6, 32))),
    features=tensors(st.sampled_from((0, 1, 2)), st.sampled_from((1, 3)), SIDES, SIDES),
)
@FEW
def test_crops(rule: str, images: Tensor, features: Tensor) -> None:
    images = images[: len(features)].clamp(-10, 10).nan_to_num()
    crop = refused(lambda: crops.build(rule)(images, features), "features", "images", "size")
    if crop is None:
        return
    h, w = images.shape[2:]
    assert crop.crop.shape == images.shape
    assert crop.crop.isfinite().all()
    low, high = crop.box[:, :2], crop.box[:, 2:]
    assert ((low >= 0) & (high > low) & (high <= torch.tensor([w, h]))).all()
    assert (crop.box[~crop.valid] == torch.tensor([0, 0, w, h])).all()


@given(tensors(st.just(1), st.just(1), SIDES.filter(bool), SIDES.filter(bool)), st.sampled_from((1, 3, (2, 5))))
@FEW
def test_what_is_done_to_maps(maps: Tensor, size: Any) -> None:
    low, high = maps.min(), maps.max()
    if not (high - low).isfinite():
        return
    stretched = normalize(maps)
    assert ((stretched >= 0) & (stretched <= 1)).all()
    assert (stretched.max() == 1) == bool(high > low) or high - low < 1e-37
    assert upsample(maps, size).isfinite().all()
    assert to_uint8(maps, size).dtype == torch.uint8


BOXES = tensors(st.integers(0, 4), st.just(4), numbers=NUMBERS | st.integers(-3, 12).map(float))


@st.composite
def tables(draw: Any) -> Boxes:
    xyxy = draw(BOXES)
    n = len(xyxy)
    image, label = (
        torch.tensor(draw(st.lists(st.integers(-1, 3), min_size=n, max_size=n)), dtype=torch.long) for _ in "ab"
    )
    return Boxes(xyxy, image, label, torch.ones(n))


@given(
    tables(),
    tables(),
    st.sampled_from((0.0, 0.5, 1.0, 1.5, float("nan"))),
    st.sampled_from(("iou", "iobb", "iogt", "x")),
)
@FEW
def test_boxes_against_true_ones(detected: Boxes, truth: Boxes, threshold: float, criterion: str) -> None:
    def score() -> tuple[Tensor, Tensor]:
        return localization.acc_afp(detected, truth, 3, threshold=threshold, criterion=criterion)

    found = refused(score, "boxes", "threshold", "criterion", "labels")
    if found is not None:
        accuracy, false = found
        known = accuracy[~accuracy.isnan()]
        assert ((known >= 0) & (known <= 1)).all()
        assert (false >= 0).all()


@given(tables(), st.sampled_from(((9, 9), (0, 3), (1, 1))))
@FEW
def test_boxes_in_files_and_frames(boxes: Boxes, size: tuple[int, int]) -> None:
    def written() -> dict[str, Any]:
        return localization.to_coco(boxes, ["a", "b", "c"], ["x", "y", "z"], [size] * 3)

    content = refused(written, "boxes")
    if content is not None and min(size) > 0:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            again = localization.from_coco(content, "x.json").boxes
        limit = torch.tensor([size[1], size[0]])
        shown = torch.minimum(boxes.xyxy[:, 2:], limit) > boxes.xyxy[:, :2].clamp(min=0)
        seen = shown.all(dim=1) & (boxes.xyxy[:, 2:] > boxes.xyxy[:, :2]).all(dim=1)
        assert torch.allclose(again.xyxy, boxes.xyxy[seen])  # what no pixel is in is left out
        assert len(told) == (not seen.all())
    moved = refused(lambda: localization.to_original(boxes, InputSpec(size=8), [(20, 10)] * 3), "box", "size")
    if moved is not None:
        assert moved.xyxy.isfinite().all()


@given(MAPS, BOXES)
@FEW
def test_the_pointing_game(maps: Tensor, boxes: Tensor) -> None:
    truth = [boxes] * len(maps)
    labels = [torch.zeros(len(boxes), dtype=torch.long)] * len(maps)
    found = refused(lambda: localization.pointing_game(maps, truth, labels, (9, 9)), "maps", "box")
    if found is not None:
        assert (found[0] <= found[1]).all()


TARGETS = tensors(
    st.sampled_from((0, 1, 2, 5)), st.sampled_from((0, 1, 3)), numbers=st.sampled_from((0.0, 1.0, float("nan")))
)
METRICS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "auroc": metrics.auroc,
    "average_precision": metrics.average_precision,
    "bootstrap": lambda y, s: metrics.bootstrap(y, s, n_bootstrap=5).low,
    "best_thresholds": metrics.best_thresholds,
    "requested_thresholds": lambda y, s: metrics.best_thresholds(y, s, "specificity", at=0.9),
    "delong": lambda y, s: metrics.delong(y, s, -np.asarray(s)).p_value,
    "expected_calibration_error": metrics.expected_calibration_error,
    "brier_score": metrics.brier_score,
    "fit_calibration": lambda y, s: metrics.fit_calibration(y, s, "abc"[: y.shape[1]], method="platt").shift * 0,
    "subgroups": lambda y, s: np.array(
        [row.score for row in metrics.subgroups(y, s, {"sex": "FM"}, "abc"[: y.shape[1]], n_bootstrap=3).rows]
        if len(y) == 2
        else []
    ),
    "confusion": lambda y, s: np.stack(list(metrics.confusion(y, s).values())),
    "micro_roc": lambda y, s: np.array(metrics.micro_roc(y, s).area),
    "macro_roc": lambda y, s: np.array(metrics.macro_roc(y, s).area),
    "aggregate": lambda y, s: metrics.aggregate(y, ["a", "b", "a", "c", "c"][: len(y)])[0],
}


@pytest.mark.parametrize("name", METRICS)
@given(data=st.data())
@FEW
def test_metrics(name: str, data: st.DataObject) -> None:
    targets = data.draw(TARGETS)
    odd = st.sampled_from((0.0, 0.5, 1.0, 1e30, -1e30)) | NUMBERS
    scores = data.draw(tensors(*map(st.just, targets.shape), numbers=odd) | TARGETS)
    if data.draw(st.integers(0, 3)) == 0 and targets.numel():
        targets.view(-1)[0] = data.draw(NUMBERS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        found = refused(lambda: METRICS[name](targets, scores), "targets", "scores", "values", "probabilities")
    if found is not None and name not in ("best_thresholds", "requested_thresholds", "aggregate"):
        known = found[~np.isnan(found)]
        assert ((known >= 0) & (known <= 1)).all()


@pytest.mark.parametrize("name", losses.names())
@given(data=st.data())
@FEW
def test_losses(name: str, data: st.DataObject) -> None:
    labels = data.draw(TARGETS)
    logits = data.draw(tensors(*map(st.just, labels.shape), numbers=st.sampled_from((0.0, 1e4, -1e4, 1e-40))))
    loss = losses.build(name)
    if hasattr(loss, "fit") and refused(lambda: loss.fit(labels), "targets") is None:
        return

    def step() -> Tensor:
        x = logits.clone().requires_grad_()
        value = loss(x, labels)
        value.backward()
        assert x.grad is not None
        assert not x.grad.isnan().any()
        return value.detach()

    value = refused(step, "labels", "logits", "masks", "targets", "weights")
    assert value is None or not value.isnan()


@given(
    MAPS.map(lambda maps: maps.flatten(0, 1)[0] if maps.shape[0] * maps.shape[1] else maps),
    BOXES,
    st.sampled_from((0, 1, 3)),
)
@FEW
def test_pictures(heat: Tensor, boxes: Tensor, number: int) -> None:
    image = torch.zeros(1, 9, 12, dtype=torch.uint8)
    picture = refused(lambda: plotting.overlay(image, heat), "heat")
    assert picture is None or picture.size == (12, 9)
    picture = refused(lambda: plotting.draw_boxes(image, boxes), "box")
    assert picture is None or picture.size == (12, 9)
    refused(lambda: plotting.panel([image] * number, columns=number, side=number), "cells", "columns", "side")


@given(
    tensors(st.just(1), st.sampled_from((0, 1, 2)), SIDES, SIDES),
    tensors(st.just(1), st.sampled_from((1, 2)), SIDES, SIDES),
)
@FEW
def test_mask_scores(predicted: Tensor, truth: Tensor) -> None:
    for score in (mask_metrics.dice_score, mask_metrics.iou_score):
        found = refused(lambda score=score: score(predicted > 0, truth > 0), "predicted", "truth", "shape")
        assert found is None or ((found >= 0) & (found <= 1) | found.isnan()).all()


def test_thresholds_of_another_number_than_labels() -> None:
    with pytest.raises(ValueError, match="thresholds must be one number or 2"):
        metrics.confusion([[1, 0], [0, 1]], [[0.1, 0.2], [0.3, 0.4]], [0.5, 0.5, 0.5])
