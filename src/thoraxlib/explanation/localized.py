"""Boxes of a model on a data set together with the true boxes, and the choice of a rule's options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor

from thoraxlib import cams, localization
from thoraxlib.datasets.samples import Samples
from thoraxlib.images import transform_for
from thoraxlib.localization import Boxes, localization_table, to_original
from thoraxlib.localization.boxes import check_inside
from thoraxlib.registry import Spec
from thoraxlib.utils.modes import device_of


class Localized(NamedTuple):
    """Detected and true boxes of a data set's images, in the images' own pixels.

    Attributes
    ----------
    detected, truth : Boxes
        ``image`` is the index in `ids`.
    ids : tuple of str
        Names of the images.
    sizes : tuple of (int, int)
        (H, W) of the images.
    """

    detected: Boxes
    truth: Boxes
    ids: tuple[str, ...]
    sizes: tuple[tuple[int, int], ...]


@torch.no_grad()
def localize(
    model: Any,
    dataset: Any,
    *,
    method: str | Mapping[str, Any] = "cam",
    rule: Spec | Any = "threshold",
    batch_size: int = 32,
) -> Localized:
    """Find boxes in a model's heat maps of the images that have true boxes: ChestX-ray8's protocol.

    Boxes are found for every label, whatever its probability; a box's score is the probability times the mean of the
    map in it. :func:`localization_table` of the result is the paper's table.

    Parameters
    ----------
    model : Classifier
        With ``input_spec`` and ``labels``.
    dataset : ChestDataset
        With the model's labels, and with boxes, e.g. ``datasets.build("nih14", ...)`` of a folder with
        ``BBox_List_2017.csv``. If it has ``boxed``, images without boxes are not decoded.
    method : str or mapping
        From :mod:`thoraxlib.cams`.
    rule : str, mapping or callable
        From :mod:`thoraxlib.localization`.
    batch_size : int
        Images per forward pass.

    Raises
    ------
    ValueError
        The data set has other labels than the model, no boxes, or boxes of another frame than its images.
    """
    if tuple(dataset.labels) != tuple(model.labels):
        raise ValueError(f"the data set's labels {dataset.labels} are not the model's {model.labels}")
    name, options = cams.registry.split_spec(method)
    cam, rule = cams.build(name, model, **options), localization.registry.resolve(rule)
    samples = Samples(dataset, transform_for(model.input_spec), original=("boxes", "box_labels", "size"))
    boxed = getattr(dataset, "boxed", torch.ones(len(dataset), dtype=torch.bool))
    detected: list[Boxes] = []
    known: dict[str, list[Any]] = {"boxes": [], "box_labels": [], "id": [], "size": []}
    for batch in samples.batches(batch_size, indices=boxed.nonzero().flatten().tolist()):
        if "boxes" not in batch:
            raise ValueError("the data set has no boxes")
        logits, maps = cam.with_logits(batch["image"].to(device_of(model)))
        found = rule(maps, model.input_spec.size, logits.sigmoid())
        for image, boxes, size in zip(batch["id"], batch["boxes"], batch["size"], strict=True):
            canvas = tuple(getattr(boxes, "canvas_size", size))
            if canvas != size:
                raise ValueError(
                    f"image {image} has {size[1]} x {size[0]} pixels, its boxes are of {canvas[1]} x {canvas[0]}: "
                    "images and true boxes must have the same frame"
                )
        found = to_original(found, model.input_spec, batch["size"])
        detected.append(found._replace(image=found.image + len(known["id"])))
        for key, values in known.items():
            values += batch[key]
    truth = Boxes.from_lists(known["boxes"], known["box_labels"])
    if not len(truth.image):
        raise ValueError("the data set has no boxes")
    return Localized(Boxes.concatenate(detected), truth, tuple(known["id"]), tuple(known["size"]))


def tune(
    name: str,
    options: Mapping[str, Sequence[Any]],
    maps: Tensor,
    size: tuple[int, int],
    truth: Boxes,
    *,
    criterion: str = "iou",
    threshold: float = 0.3,
) -> dict[str, Any]:
    """Choose the options of a rule with the highest mean accuracy; use images that are not in the test set.

    Parameters
    ----------
    name : str
        Name of the rule.
    options : mapping
        Values to try for each option; all combinations are tried.
    maps : Tensor
        (N, K, h, w).
    size : (int, int)
        (H, W) of the images, in whose pixels the true boxes are.
    truth : Boxes
        True boxes of these images.
    criterion, threshold
        Kind of overlap and its minimum. The accuracy is averaged over the labels that have true boxes; detections count
        only on images that have a true box of the same label.

    Returns
    -------
    dict
        The best combination; of equal ones the first.

    Raises
    ------
    ValueError
        No true boxes, one that leaves the image, or nothing to try.
    """
    grid = [dict(zip(options, values, strict=True)) for values in product(*options.values())]
    if not grid or not len(truth.image):
        raise ValueError(f"{len(grid)} combinations of {dict(options)} and {len(truth.image)} true boxes")
    check_inside(truth.xyxy, size)
    labels = [str(k) for k in range(maps.shape[1])]

    def score(chosen: dict[str, Any]) -> float:
        found = localization.build(name, **chosen)(maps, size)
        table = localization_table(found, truth, labels, rows=[(criterion, threshold)], images="with_label")
        return table.mean_accuracy(criterion, threshold)

    return max(grid, key=score)
