"""What was found on an image: to print, to draw, to save."""

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
from thoraxlib.utils.files import write_json


@dataclass(frozen=True)
class Finding:
    """A label whose probability is at least its threshold.

    Attributes
    ----------
    label : str
        Its name.
    probability : float
        0 to 1.
    boxes : tuple of (float, float, float, float)
        x1, y1, x2, y2 in the file's pixels, the highest score first.
    scores : tuple of float
        Of the boxes: the probability times the mean of the stretched map in it.
        Where the boxes are anatomical regions, the finding's probability in each.
    map : Tensor
        float32 (H, W): the heat map in the image's own frame; what the model did not see is NaN.
    regions : tuple of str
        Names of the boxes, where they are anatomical regions; otherwise empty.
    """

    label: str
    probability: float
    boxes: tuple[tuple[float, float, float, float], ...]
    scores: tuple[float, ...]
    map: Tensor
    regions: tuple[str, ...] = ()

    def __str__(self) -> str:
        names = [f"{region} " for region in self.regions] or [""] * len(self.boxes)
        corners = [" ".join(f"{value:.0f}" for value in box) for box in self.boxes]
        places = "; ".join(name + box for name, box in zip(names, corners, strict=True))
        return f"{self.label:<28}{self.probability:>7.3f}  {places}"


@dataclass(frozen=True)
class Explanation:
    """What a model says about one image; ``print`` it, or :meth:`save` it.

    Attributes
    ----------
    name : str
        Of the image: the file's stem, or its position; unique among those explained together.
    image : Tensor
        uint8, or floating point in [0, 1]: (1, H, W), the image as it was read.
    probabilities : Mapping[str, float]
        Of every label; NaN where it could not be assessed, as no anatomical region was found.
    findings : tuple of Finding
        Labels whose probability is at least their threshold, the likeliest first.
    method, rule : str
        How maps and boxes were made.
    """

    name: str
    image: Tensor
    probabilities: Mapping[str, float]
    findings: tuple[Finding, ...]
    method: str
    rule: str

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the image."""
        return int(self.image.shape[-2]), int(self.image.shape[-1])

    def __str__(self) -> str:
        lines = [
            f"{self.name} ({self.size[1]} x {self.size[0]} pixels)",
            f"{'finding':<28}{'p':>7}  boxes (x1 y1 x2 y2)",
        ]
        lines += [str(finding) for finding in self.findings]
        if not self.findings:
            known = {label: value for label, value in self.probabilities.items() if value == value}
            highest = max(known, key=known.__getitem__, default=None)
            lines.append(
                "no region found: not assessed"
                if highest is None
                else f"nothing above its threshold; highest: {highest} {known[highest]:.3f}"
            )
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Everything but pixels and maps, as plain JSON."""
        return {
            "image": self.name,
            "size": list(self.size),
            "method": self.method,
            "rule": self.rule,
            "probabilities": {label: value if value == value else None for label, value in self.probabilities.items()},
            "findings": [
                {
                    "label": finding.label,
                    "probability": finding.probability,
                    "boxes": [list(box) for box in finding.boxes],
                    "scores": list(finding.scores),
                    **({"regions": list(finding.regions)} if finding.regions else {}),
                }
                for finding in self.findings
            ],
        }

    def panel(self, *, side: int = 512, most: int = 5, truth: Mapping[str, Sequence[Any]] | None = None) -> Image.Image:
        """The image, and beside it the likeliest findings, each with its heat map and boxes.

        Parameters
        ----------
        side : int
            Longer side of a picture in the panel, in pixels.
        most : int
            Findings at most.
        truth : mapping of str to sequence, optional
            True boxes (x1, y1, x2, y2) of labels, in the image's pixels: drawn dashed, in another colour, with a
            legend.
        """
        image = plotting.fit(self.image, side)  # first, so that lines and letters are those of a picture of this size
        scale = torch.tensor([image.width / self.size[1], image.height / self.size[0]] * 2)
        true = {label: torch.as_tensor(boxes).float().reshape(-1, 4) * scale for label, boxes in (truth or {}).items()}
        names = [label for label, boxes in true.items() for _ in range(len(boxes))]
        everything = torch.cat([torch.zeros(0, 4), *true.values()])
        cells, titles = [plotting.draw_boxes(image, everything, names, truth=True)], [self.name]
        for finding in self.findings[:most]:
            lowest = float(finding.map.nan_to_num(torch.inf).min())
            cell = plotting.overlay(image, finding.map.nan_to_num(lowest))
            cell = plotting.draw_boxes(cell, true.get(finding.label, []), truth=True)
            boxes = torch.tensor(finding.boxes).reshape(-1, 4) * scale
            names = [f"{region} " for region in finding.regions] or [""] * len(boxes)
            texts = [f"{name}{score:.2f}" for name, score in zip(names, finding.scores, strict=True)]
            cells.append(plotting.draw_boxes(cell, boxes, texts))
            titles.append(f"{finding.label} {finding.probability:.2f}")
        return plotting.panel(cells, titles, columns=min(len(cells), 3), side=side, legend=truth is not None)

    def save(self, folder: str | os.PathLike[str], **options: Any) -> None:
        """Write ``<name>.png``, the panel, and ``<name>.json`` into `folder`, each whole or not at all.

        `options` are those of :meth:`panel`.
        """
        plotting.save(self.panel(**options), Path(folder) / f"{self.name}.png")
        write_json(Path(folder) / f"{self.name}.json", self.to_json(), indent=2)
