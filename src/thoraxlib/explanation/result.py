"""Explanation of one image: print, draw and save it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from thoraxlib import plotting
from thoraxlib.explanation.view import View
from thoraxlib.utils.files import write_json


@dataclass(frozen=True)
class Finding:
    """A label whose probability is at least its threshold.

    Attributes
    ----------
    label : str
        Name of the label.
    probability : float
        0 to 1.
    boxes : tuple of (float, float, float, float)
        x1, y1, x2, y2 in the file's pixels, the highest score first.
    scores : tuple of float
        For each box, the probability times the mean of the stretched map in it; if the boxes are anatomical regions,
        the finding's probability in each region.
    map : Tensor
        float32 (H, W): the heat map at the image's size; NaN outside the model's input.
    regions : tuple of str
        Names of the boxes if they are anatomical regions; otherwise empty.
    in_lungs : float or None
        Share of the heat map's sum, after subtraction of its lowest value, that lies inside the lungs: 0 to 1. None
        without a segmenter, if no lungs were found, and for a constant map.
    """

    label: str
    probability: float
    boxes: tuple[tuple[float, float, float, float], ...]
    scores: tuple[float, ...]
    map: Tensor
    regions: tuple[str, ...] = ()
    in_lungs: float | None = None

    def __str__(self) -> str:
        names = self.regions or [""] * len(self.boxes)
        corners = [" ".join(f"{value:.0f}" for value in box) for box in self.boxes]
        boxes = "; ".join(f"{name} {box}".strip() for name, box in zip(names, corners, strict=True))
        share = "" if self.in_lungs is None else f"  {self.in_lungs:.0%} in lungs"
        return f"{self.label:<28}{self.probability:>7.3f}  {boxes}{share}"


@dataclass(frozen=True)
class Explanation:
    """Probabilities and findings of one image; ``print`` it, or :meth:`save` it.

    Attributes
    ----------
    name : str
        Name of the image: the file's stem, or its position; unique among the images explained together.
    image : Tensor
        uint8, or floating point in [0, 1]: (1, H, W), the image before preprocessing.
    probabilities : Mapping[str, float]
        Probability of every label; NaN if no anatomical region was found.
    findings : tuple of Finding
        Labels whose probability is at least their threshold, the most probable first.
    method, rule : str
        Names of the heat map method and of the box rule.
    lungs : Tensor or None
        bool (H, W): mask of the lungs, all False if none were found; None without a segmenter.
    view : View or None
        View, orientation and inversion; None if the check was not asked for.
    """

    name: str
    image: Tensor
    probabilities: Mapping[str, float]
    findings: tuple[Finding, ...]
    method: str
    rule: str
    lungs: Tensor | None = None
    view: View | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the image."""
        return int(self.image.shape[-2]), int(self.image.shape[-1])

    def __str__(self) -> str:
        size = f"({self.size[1]} x {self.size[0]} pixels)"
        checked = "" if self.view is None else f", {self.view}"
        lines = [
            f"{self.name} {size}{checked}",
            f"{'finding':<28}{'p':>7}  boxes (x1 y1 x2 y2)",
            *map(str, self.findings),
        ]
        if not self.findings:
            known = {label: value for label, value in self.probabilities.items() if value == value}
            highest = max(known, key=known.__getitem__, default="")
            nothing = f"nothing above its threshold; highest: {highest} {known.get(highest, 0):.3f}"
            lines.append(nothing if known else "no region found: not assessed")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Return everything except pixels and maps as plain JSON."""
        return {
            "image": self.name,
            "size": list(self.size),
            "method": self.method,
            "rule": self.rule,
            **({} if self.view is None else {"view": self.view.to_json()}),
            "probabilities": {label: value if value == value else None for label, value in self.probabilities.items()},
            "findings": [
                {
                    "label": finding.label,
                    "probability": finding.probability,
                    "boxes": [list(box) for box in finding.boxes],
                    "scores": list(finding.scores),
                    **({"regions": list(finding.regions)} if finding.regions else {}),
                    **({} if self.lungs is None else {"in_lungs": finding.in_lungs}),
                }
                for finding in self.findings
            ],
        }

    def panel(self, *, side: int = 512, most: int = 5, truth: Mapping[str, Sequence[Any]] | None = None) -> Image.Image:
        """Draw the image, and next to it the most probable findings, each with its heat map and boxes.

        With a segmenter, the lungs are outlined in a picture of their own and on the heat maps.

        Parameters
        ----------
        side : int
            Longer side of each picture in the panel, in pixels.
        most : int
            Maximum number of findings.
        truth : mapping of str to sequence, optional
            True boxes (x1, y1, x2, y2) of labels, in the image's pixels. They are drawn dashed, in another colour,
            with a legend.
        """
        image = plotting.fit(
            self.image, side
        )  # before drawing, so that lines and letters have the size for this picture
        scale = torch.tensor([image.width / self.size[1], image.height / self.size[0]] * 2)
        true = {label: torch.as_tensor(boxes).float().reshape(-1, 4) * scale for label, boxes in (truth or {}).items()}
        names = [label for label, boxes in true.items() for _ in range(len(boxes))]
        everything = torch.cat([torch.zeros(0, 4), *true.values()])
        cells, titles = [plotting.draw_boxes(image, everything, names, truth=True)], [self.name]
        if self.lungs is not None:
            cells.append(plotting.outline(image, self.lungs))
            titles.append("lungs" if bool(self.lungs.any()) else "no lungs found")
        for finding in self.findings[:most]:
            lowest = float(finding.map.nan_to_num(torch.inf).min())
            cell = plotting.overlay(image, finding.map.nan_to_num(lowest))
            if self.lungs is not None:
                cell = plotting.outline(cell, self.lungs)
            cell = plotting.draw_boxes(cell, true.get(finding.label, []), truth=True)
            boxes = torch.tensor(finding.boxes).reshape(-1, 4) * scale
            names = list(finding.regions) or [""] * len(boxes)
            texts = [f"{name} {score:.2f}".strip() for name, score in zip(names, finding.scores, strict=True)]
            cells.append(plotting.draw_boxes(cell, boxes, texts))
            titles.append(f"{finding.label} {finding.probability:.2f}")
        return plotting.panel(cells, titles, columns=min(len(cells), 3), side=side, legend=truth is not None)

    def save(self, folder: str | os.PathLike[str], **options: Any) -> None:
        """Write the panel ``<name>.png`` and ``<name>.json`` into `folder`, atomically.

        `options` are those of :meth:`panel`.
        """
        plotting.save(self.panel(**options), Path(folder) / f"{self.name}.png")
        write_json(Path(folder) / f"{self.name}.json", self.to_json(), indent=2)
