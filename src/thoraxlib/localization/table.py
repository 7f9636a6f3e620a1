"""The localisation tables of ChestX-ray8."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from thoraxlib.localization.boxes import Boxes
from thoraxlib.localization.metrics import acc_afp

__all__ = ["WangTable", "wang_table"]

_ROWS = (
    *(("iobb", threshold) for threshold in (0.1, 0.25, 0.5, 0.75, 0.9)),
    *(("iou", threshold) for threshold in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)),
)


class WangTable(NamedTuple):
    """Accuracy and average false positives of labels at thresholds; ``print`` it.

    Attributes
    ----------
    labels : tuple of str
        K.
    rows : tuple of (str, float)
        R criteria and thresholds.
    accuracy, afp : Tensor
        float64 (R, K); accuracy is NaN for a label without true boxes.
    boxes : Tensor
        int64 (K,): true boxes of each label.
    """

    labels: tuple[str, ...]
    rows: tuple[tuple[str, float], ...]
    accuracy: Tensor
    afp: Tensor
    boxes: Tensor

    def __str__(self) -> str:
        shown = self.boxes.nonzero().flatten().tolist()
        width = [max(len(self.labels[k]), 6) for k in shown]

        def line(*head: str, cells: list[str]) -> str:
            return f"{head[0]:<12}{head[1]:<5}" + "".join(f"{c:>{w + 2}}" for c, w in zip(cells, width, strict=True))

        lines = [
            line("", "", cells=[self.labels[k] for k in shown]),
            line("true boxes", "", cells=[str(int(self.boxes[k])) for k in shown]),
        ]
        for (criterion, threshold), accuracy, afp in zip(self.rows, self.accuracy, self.afp, strict=True):
            name = {"iobb": "IoBB", "iou": "IoU"}[criterion]
            lines.append(line(f"{name} > {threshold:g}", "Acc", cells=[f"{float(accuracy[k]):.4f}" for k in shown]))
            lines.append(line("", "AFP", cells=[f"{float(afp[k]):.4f}" for k in shown]))
        return "\n".join(lines)


def wang_table(
    detected: Boxes,
    truth: Boxes,
    labels: Sequence[str],
    *,
    images: str = "all_annotated",
    denominator: int | None = None,
) -> WangTable:
    """:func:`acc_afp` at the thresholds of ChestX-ray8's tables 4 and 7 (Wang et al. 2017).

    Parameters
    ----------
    detected, truth : Boxes
        Of one list of images.
    labels : sequence of str
        What the positions in both mean.
    images : {"all_annotated", "with_label"}
        Whose detections count: of every image with a true box, or for each label only of those with a true box of it.
        Which of them the paper counts is not known.
    denominator : int, optional
        Of AFP; the paper's is the number of true boxes.

    Raises
    ------
    ValueError
        `images` is neither of these; a box has a position beyond `labels`.
    """
    if images not in ("all_annotated", "with_label"):
        raise ValueError(f"images={images!r}: allowed are 'all_annotated' and 'with_label'")
    k = len(labels)
    if images == "all_annotated":
        counted = torch.isin(detected.image, truth.image)
    else:
        counted = torch.isin(detected.image * k + detected.label, truth.image * k + truth.label)
    detected = Boxes(*(column[counted] for column in detected))
    scores = [acc_afp(detected, truth, k, threshold=t, criterion=c, denominator=denominator) for c, t in _ROWS]
    accuracy, afp = (torch.stack(column) for column in zip(*scores, strict=True))
    return WangTable(tuple(labels), _ROWS, accuracy, afp, torch.bincount(truth.label, minlength=k))
